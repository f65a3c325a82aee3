"""Runs jobs in this process, in one worker process for each device, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from traitcli.events import Listener, TraitFailed
from traitcli.judging import Budget
from traitcli.pipeline.ledgers import store_states
from traitcli.pipeline.trait_pipeline import Job
from traitcli.pipeline.worker_context import Worker
from traitcli.scheduling.inline import InlinePool
from traitcli.scheduling.memory_check import check_fit
from traitcli.scheduling.placement import Placement
from traitcli.scheduling.pool import WorkerPool
from traitcli.scheduling.scheduler import Scheduler

if TYPE_CHECKING:
    from traitcli.models.loaded import LoadedModel

__all__ = ["run_jobs"]


def run_jobs(
    jobs: Sequence[Job],
    placement: Placement,
    on_event: Listener,
    trust_remote_code: bool = False,
    loaded: LoadedModel | None = None,
) -> list[TraitFailed]:
    """Run jobs of one run and return what failed. `on_event` is called by one thread at a time.

    `loaded` is the run's model, if it is in memory already; then the jobs run in this process.
    """
    config, logs = jobs[0].config, jobs[0].ledgers.run.folder / "logs"
    first = placement.devices[0].partition("+")[0] if placement.scheduler == "local" else "cpu"
    # The judge of this worker is also the one that the scheduler asks, for all other workers too:
    # one request limit, one reply cache, one budget.
    own_worker = Worker(config, first, on_event, trust_remote_code, find_budget(jobs[0]))
    if loaded:
        own_worker.adopt(loaded)

    pool: WorkerPool
    store = partial(store_states, jobs[0].ledgers.run)
    checked = Placement(tuple(name for name in placement.devices if name.startswith("cpu")))
    if loaded:
        pool, checked = InlinePool(own_worker, store), Placement(())
    elif placement.scheduler == "ray":
        from traitcli.scheduling.ray import RayPool

        pool = RayPool(config, placement, trust_remote_code, logs)
    elif placement.devices == (first,):
        pool, checked = InlinePool(own_worker, store), placement
    else:
        from traitcli.scheduling.local import LocalPool

        pool = LocalPool(config, placement.devices, trust_remote_code, logs, store)

    def check_memory() -> None:
        # GPU workers check their own GPU: CUDA would take GPU memory in this process too.
        if checked.devices:
            check_fit(config, checked, trust_remote_code)

    worker_logs = None if isinstance(pool, InlinePool) else logs
    return Scheduler(jobs, pool, own_worker.judge, on_event, worker_logs).run(check_memory)


def find_budget(job: Job) -> Budget | None:
    """The budget of a run; what judging cost so far counts. None if there is no limit."""
    limit = job.config.judge.openai.max_cost
    if limit is None or job.config.judge.backend != "openai" or "judgements" not in job.stages:
        return None
    return Budget(limit, job.ledgers.spent())
