"""Runs jobs in one worker process for each device, pulling them from a queue.

A worker that dies takes its current job with it (a failure with the exit code); the others go on.
"""

from __future__ import annotations

import os
import queue
import signal
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from traitcli.errors import TraitError
from traitcli.events import Listener, TraitFailed
from traitcli.scheduling.devices import threads_per_worker
from traitcli.stages.pipeline import Job, run_job
from traitcli.stages.worker import Worker

_POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class _Queues:
    """What joins the workers to their parent: numbers of jobs that wait, and messages back."""

    waiting: Any
    told: Any


@dataclass(frozen=True, slots=True)
class _Taken:
    """A worker has begun a job."""

    worker: int
    job: int


@dataclass(frozen=True, slots=True)
class _Done:
    """A worker has ended a job, well or not."""

    worker: int
    job: int
    failure: TraitFailed | None


@dataclass(frozen=True, slots=True)
class _Fatal:
    """No trait can go on: the model or the judge cannot work, or there is a bug."""

    error: TraitError | None
    trace: str


def run_local(
    jobs: Sequence[Job], devices: Sequence[str], on_event: Listener, trust_remote_code: bool = False
) -> list[TraitFailed]:
    """Do the jobs on several devices at once; returns what failed.

    Raises what a worker could not recover from; every worker has ended then.
    """
    from torch import multiprocessing

    context = multiprocessing.get_context("spawn")
    queues = _Queues(context.Queue(), context.Queue())
    for index in range(len(jobs)):
        queues.waiting.put(index)
    used = devices[: len(jobs)]
    threads = threads_per_worker(used, os.cpu_count() or 1)
    workers = [
        context.Process(
            target=_work, args=(number, list(jobs), device, threads, trust_remote_code, queues), daemon=True
        )
        for number, device in enumerate(used)
    ]
    try:
        for worker in workers:
            worker.start()
        return _listen(jobs, workers, queues.told, on_event)
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
            worker.join()


def _listen(jobs: Sequence[Job], workers: Sequence[Any], told: Any, on_event: Listener) -> list[TraitFailed]:
    """Pass events on until every job has ended or every worker has."""
    open_jobs = dict(enumerate(jobs))
    at_work: dict[int, int] = {}
    failures: list[TraitFailed] = []
    while open_jobs:
        dead = [number for number, worker in enumerate(workers) if not worker.is_alive()]
        try:
            message = told.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            for number in dead:
                if number in at_work:
                    failures.append(
                        _lost(
                            open_jobs.pop(at_work.pop(number)),
                            f"its worker died (exit code {workers[number].exitcode})",
                        )
                    )
                    on_event(failures[-1])
            if len(dead) == len(workers):
                failures += [_lost(job, "no worker is left") for job in open_jobs.values()]
                return failures
            continue
        match message:
            case _Taken(number, job):
                at_work[number] = job
            case _Done(number, job, failure):
                at_work.pop(number, None)
                open_jobs.pop(job, None)
                failures += [failure] if failure else []
            case _Fatal(error, trace):
                raise error or RuntimeError(f"a worker failed:\n{trace}")
            case event:
                on_event(event)
    return failures


def _lost(job: Job, cause: str) -> TraitFailed:
    return TraitFailed(
        job.trait.name,
        "worker",
        f"{job.trait.name} was not finished",
        cause,
        "run the same command again: what is on disk is kept",
    )


def _work(number: int, jobs: list[Job], device: str, threads: int | None, trust: bool, queues: _Queues) -> None:
    """A worker's life: load once, take jobs until none waits."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers
    if threads:
        torch.set_num_threads(threads)
    config = jobs[0].config
    model = config.model.model_copy(update={"device": device})
    waiting, told = queues.waiting, queues.told
    worker = Worker(config.model_copy(update={"model": model}), told.put, trust)
    try:
        while True:
            index = waiting.get(timeout=_POLL_SECONDS)
            told.put(_Taken(number, index))
            told.put(_Done(number, index, run_job(jobs[index], worker, told.put)))
    except queue.Empty:
        return
    except TraitError as error:
        told.put(_Fatal(error, ""))
    except BaseException:
        told.put(_Fatal(None, traceback.format_exc()))
        raise
