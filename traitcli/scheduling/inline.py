"""Runs jobs one after another in this process."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from traitcli.events import Event, Listener, TraitFailed
from traitcli.stages.pipeline import Job, run_job
from traitcli.stages.worker import Worker


def run_inline(
    jobs: Sequence[Job], device: str, on_event: Listener, trust_remote_code: bool = False
) -> list[TraitFailed]:
    """Do the jobs on one device; the model is loaded once."""
    lock = threading.Lock()

    def one_at_a_time(event: Event) -> None:
        with lock:
            on_event(event)

    worker = Worker(jobs[0].config, device, one_at_a_time, trust_remote_code)
    failures = [run_job(job, worker, one_at_a_time) for job in jobs]
    return [failure for failure in failures if failure]
