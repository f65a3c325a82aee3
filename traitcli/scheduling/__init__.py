"""Runs jobs: in this process on one device, in a worker process for each of several, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence

from traitcli.events import Listener, TraitFailed
from traitcli.judging import Budget
from traitcli.scheduling.crew import Crew
from traitcli.scheduling.devices import Site
from traitcli.scheduling.fit import check_fit
from traitcli.scheduling.inline import InlineCrew
from traitcli.scheduling.lead import Lead
from traitcli.stages.pipeline import Job
from traitcli.stages.worker import Worker

__all__ = ["run_jobs"]


def run_jobs(jobs: Sequence[Job], site: Site, on_event: Listener, trust_remote_code: bool = False) -> list[TraitFailed]:
    """Do every job there; returns what failed. `on_event` is called by one thread at a time."""
    config, logs = jobs[0].config, jobs[0].run.folder / "logs"
    first = site.places[0].partition("+")[0] if site.scheduler == "local" else "cpu"
    here = Worker(config, first, on_event, trust_remote_code, _budget(jobs[0]))
    crew: Crew
    if site.scheduler == "ray":
        from traitcli.scheduling.ray import RayCrew

        crew = RayCrew(config, site, trust_remote_code, logs)
    elif site.places == (first,):
        crew = InlineCrew(here)
    else:
        from traitcli.scheduling.local import LocalCrew

        crew = LocalCrew(config, site.places, trust_remote_code, logs)
    lead = Lead(jobs, crew, here.judge, on_event, None if isinstance(crew, InlineCrew) else logs)
    mine = site if isinstance(crew, InlineCrew) else _cpu_part(site)
    return lead.run(lambda: check_fit(config, mine, trust_remote_code) if mine.places else None)


def _cpu_part(site: Site) -> Site:
    """The places whose memory is looked at here; workers on GPUs look at their own."""
    return Site(tuple(place for place in site.places if place.startswith("cpu")))


def _budget(job: Job) -> Budget | None:
    """What may be spent on the run; what it has cost so far counts."""
    limit = job.config.judge.openai.max_cost
    if limit is None or job.config.judge.backend != "openai" or "judgements" not in job.stages:
        return None
    return Budget(limit, job.run.spent())
