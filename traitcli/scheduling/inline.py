"""Runs jobs one after another in this process."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from traitcli.events import Event, Listener, TraitFailed
from traitcli.judging import Budget
from traitcli.stages.pipeline import Job, Line
from traitcli.stages.worker import Worker


def run_inline(
    jobs: Sequence[Job],
    device: str,
    on_event: Listener,
    trust_remote_code: bool = False,
    budget: Budget | None = None,
) -> list[TraitFailed]:
    """Do the jobs on one device; the model is loaded once."""
    lock = threading.Lock()
    failures: list[TraitFailed] = []

    def one_at_a_time(event: Event) -> None:
        with lock:
            on_event(event)

    def note(job: Job, failure: TraitFailed | None) -> None:
        failures.extend([failure] if failure else [])

    worker = Worker(jobs[0].config, device, one_at_a_time, trust_remote_code, budget)
    with Line(worker, one_at_a_time, note) as line:
        for job in jobs:
            line.take(job)
        line.finish()
    return failures
