"""Runs jobs: in this process on one device, in a worker process for each of several, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence

from traitcli.events import Listener, TraitFailed
from traitcli.judging import Budget
from traitcli.pipeline.trait_pipeline import Job
from traitcli.pipeline.worker_context import Worker
from traitcli.scheduling.inline import InlinePool
from traitcli.scheduling.memory_check import check_fit
from traitcli.scheduling.placement import Placement
from traitcli.scheduling.pool import WorkerPool
from traitcli.scheduling.scheduler import Scheduler

__all__ = ["run_jobs"]


def run_jobs(
    jobs: Sequence[Job], site: Placement, on_event: Listener, trust_remote_code: bool = False
) -> list[TraitFailed]:
    """Do every job there; returns what failed. `on_event` is called by one thread at a time."""
    config, logs = jobs[0].config, jobs[0].ledgers.run.folder / "logs"
    first = site.places[0].partition("+")[0] if site.scheduler == "local" else "cpu"
    here = Worker(config, first, on_event, trust_remote_code, _budget(jobs[0]))
    crew: WorkerPool
    if site.scheduler == "ray":
        from traitcli.scheduling.ray import RayPool

        crew = RayPool(config, site, trust_remote_code, logs)
    elif site.places == (first,):
        crew = InlinePool(here)
    else:
        from traitcli.scheduling.local import LocalPool

        crew = LocalPool(config, site.places, trust_remote_code, logs)
    lead = Scheduler(
        jobs, crew, here.judge, on_event, None if isinstance(crew, InlinePool) else logs
    )
    mine = site if isinstance(crew, InlinePool) else _cpu_part(site)
    return lead.run(lambda: check_fit(config, mine, trust_remote_code) if mine.places else None)


def _cpu_part(site: Placement) -> Placement:
    """The places whose memory is looked at here; workers on GPUs look at their own."""
    return Placement(tuple(place for place in site.places if place.startswith("cpu")))


def _budget(job: Job) -> Budget | None:
    """What may be spent on the run; what it has cost so far counts."""
    limit = job.config.judge.openai.max_cost
    if limit is None or job.config.judge.backend != "openai" or "judgements" not in job.stages:
        return None
    return Budget(limit, job.ledgers.spent())
