"""Runs jobs: in this process on one device, or in one worker process for each of several."""

from __future__ import annotations

from collections.abc import Sequence

from traitcli.events import Listener, TraitFailed
from traitcli.judging import Budget
from traitcli.stages.pipeline import Job

__all__ = ["run_jobs"]


def run_jobs(
    jobs: Sequence[Job], devices: Sequence[str], on_event: Listener, trust_remote_code: bool = False
) -> list[TraitFailed]:
    """Do every job on the devices; returns what failed. `on_event` is called by one thread at a time."""
    budget = _budget(jobs[0])
    if len(devices) == 1:
        from traitcli.scheduling.inline import run_inline

        return run_inline(jobs, devices[0], on_event, trust_remote_code, budget)
    from traitcli.scheduling.local import run_local

    return run_local(jobs, devices, on_event, trust_remote_code, budget)


def _budget(job: Job) -> Budget | None:
    """What all workers may spend on the run together; what it has cost so far counts."""
    limit = job.config.judge.openai.max_cost
    if limit is None or job.config.judge.backend != "openai" or "judgements" not in job.stages:
        return None
    return Budget(limit, job.run.spent())
