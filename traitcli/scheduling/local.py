"""Runs jobs in one worker process for each device; a worker takes the next job when it has done one.

A worker that dies takes its current job with it (a failure with the exit code); the others go on.
Each has a pipe of its own, so one killed in the middle of a message blocks no other, and workers
whose parent is gone find their pipe broken and end.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import Any

from traitcli.config import Config
from traitcli.errors import TraitError
from traitcli.events import Listener, TraitFailed
from traitcli.judging import Budget
from traitcli.scheduling.devices import threads_per_worker
from traitcli.stages.pipeline import Job, Line
from traitcli.stages.worker import Worker


@dataclass(frozen=True, slots=True)
class _Free:
    """A worker's device is free for another job."""


@dataclass(frozen=True, slots=True)
class _Done:
    """A worker has ended a trait's job, well or not."""

    trait: str
    failure: TraitFailed | None


@dataclass(frozen=True, slots=True)
class _Died:
    """A worker has ended without a word."""

    cause: str


@dataclass(frozen=True, slots=True)
class _Fatal:
    """No trait can go on: the model or the judge cannot work, or there is a bug."""

    error: TraitError | None
    trace: str


@dataclass(slots=True)
class _Hand:
    """A worker as its parent sees it."""

    process: Any
    pipe: Any
    jobs: dict[str, Job] = field(default_factory=dict)
    dismissed: bool = False

    @property
    def has_work(self) -> bool:
        return bool(self.jobs) or not self.dismissed

    def give(self, waiting: deque[Job]) -> None:
        """Hand over the next job, or let the worker finish and go, which frees its device."""
        job = waiting.popleft() if waiting else None
        if job:
            self.jobs[job.trait.name] = job
        self.dismissed = job is None
        with suppress(ConnectionError):  # a dead worker is noticed when it is heard
            self.pipe.send(job)

    def hear(self) -> Any:
        """Return the next message."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            return _Died(f"its worker died (exit code {self.process.exitcode})")


def run_local(
    jobs: Sequence[Job],
    devices: Sequence[str],
    on_event: Listener,
    trust_remote_code: bool = False,
    budget: Budget | None = None,
) -> list[TraitFailed]:
    """Do the jobs on several devices at once; returns what failed.

    Raises what a worker could not recover from; every worker has ended then.
    """
    used = devices[: len(jobs)]
    threads = threads_per_worker(used, os.cpu_count() or 1)
    config = _share_caps(jobs[0].config, len(used))
    hands: list[_Hand] = []
    try:
        with _interrupt_held():
            for device in used:
                hands.append(_hire(config, device, threads, trust_remote_code, budget))
        return _lead(jobs, hands, on_event)
    finally:
        for hand in hands:
            hand.process.terminate()
            hand.process.join()


def _share_caps(config: Config, workers: int) -> Config:
    """Give each worker its part of what the judge's endpoint allows in a minute."""
    judge = config.judge.openai
    caps = {"requests_per_minute": judge.requests_per_minute, "tokens_per_minute": judge.tokens_per_minute}
    shares = {name: max(1, cap // workers) for name, cap in caps.items() if cap}
    changed = config.judge.model_copy(update={"openai": judge.model_copy(update=shares)})
    return config.model_copy(update={"judge": changed})


def _hire(config: Config, device: str, threads: int | None, trust: bool, budget: Budget | None) -> _Hand:
    from torch import multiprocessing

    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(config, device, threads, trust, budget, theirs), daemon=True)
    process.start()
    theirs.close()  # or the end of the worker would not end the pipe
    return _Hand(process, ours)


@contextmanager
def _interrupt_held() -> Iterator[None]:
    """Hold Ctrl-C back; processes started meanwhile inherit that for life, because their parent ends them."""
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # starting it later would let Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _lead(jobs: Sequence[Job], hands: Sequence[_Hand], on_event: Listener) -> list[TraitFailed]:
    """Hand out jobs and pass events on, until every job has ended or every worker has."""
    waiting = deque(jobs)
    failures: list[TraitFailed] = []
    for hand in hands:
        hand.give(waiting)
    while busy := {hand.pipe: hand for hand in hands if hand.has_work}:
        for hand in [busy[pipe] for pipe in wait(list(busy))]:
            match hand.hear():
                case _Free():
                    hand.give(waiting)
                case _Done(trait, failure):
                    del hand.jobs[trait]
                    failures += [failure] if failure else []
                case _Died(cause):
                    failures += [_lost(job, cause, on_event) for job in hand.jobs.values()]
                    hand.jobs.clear()
                    hand.dismissed = True
                case _Fatal(error, trace):
                    raise error or RuntimeError(f"a worker failed:\n{trace}")
                case event:
                    on_event(event)
    return failures + [_lost(job, "no worker is left", on_event) for job in waiting]


def _lost(job: Job, cause: str, on_event: Listener) -> TraitFailed:
    fix = "run the same command again: what is on disk is kept"
    failure = TraitFailed(job.trait.name, "worker", f"{job.trait.name} was not finished", cause, fix)
    on_event(failure)
    return failure


def _work(config: Config, device: str, threads: int | None, trust: bool, budget: Budget | None, pipe: Any) -> None:
    """A worker's life: load once, do the jobs that come."""
    import torch

    if threads:
        torch.set_num_threads(threads)
    lock = threading.Lock()

    def tell(message: Any) -> None:
        try:
            with lock:
                pipe.send(message)
        except ConnectionError:
            raise SystemExit(1) from None  # the parent is gone

    worker = Worker(config, device, tell, trust, budget)
    try:
        with Line(worker, tell, lambda job, failure: tell(_Done(job.trait.name, failure))) as line:
            while (job := pipe.recv()) is not None:
                line.take(job)
                tell(_Free())
            line.finish()
    except EOFError:
        return  # the parent is gone
    except TraitError as error:
        tell(_Fatal(error, ""))
    except Exception:  # a bug: its trace travels to the parent, which shows it
        tell(_Fatal(None, traceback.format_exc()))
        raise
