"""Takes traits through the stages asked for; judging runs beside generation where it can."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from queue import SimpleQueue
from types import TracebackType
from typing import Self

from traitcli.config import Config
from traitcli.errors import ConfigError, JudgeError, ModelError, TraitError
from traitcli.events import Listener, Stage, StageFinished, TraitFailed
from traitcli.judging import judge_id
from traitcli.records import Rollout, Trait
from traitcli.runs import Run
from traitcli.stages.judge import JudgeDesk
from traitcli.stages.plan import plan_rollouts
from traitcli.stages.speed import remember_speed
from traitcli.stages.worker import Worker

_SIDE_BY_SIDE = 8
"""Traits whose answers are judged at the same time."""


@dataclass(frozen=True, slots=True)
class Job:
    """One trait's work in a run, and which stages of it."""

    trait: Trait
    config: Config
    run: Run
    stages: tuple[Stage, ...]


class Line:
    """One worker's jobs, one after another; where judging leaves the device free, it runs beside the next job.

    What is wrong with one trait is told to `on_done` as a failure, and the others go on. A model or
    judge that cannot work at all is raised: no trait could go on.
    """

    def __init__(self, worker: Worker, on_event: Listener, on_done: Callable[[Job, TraitFailed | None], None]) -> None:
        """`on_event` and `on_done` may be called from several threads."""
        self._worker = worker
        self._on_event = on_event
        self._on_done = on_done
        self._pool = ThreadPoolExecutor(_SIDE_BY_SIDE, "judge")
        self._beside: list[_Beside] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for beside in self._beside:
            beside.stop()
        if self._beside:
            self._worker.judge.close()
        self._pool.shutdown(cancel_futures=True)

    def take(self, job: Job) -> None:
        """Do a job as far as it needs the device; the rest is done when `finish` returns."""
        if "judgements" in job.stages and self._worker.judge.overlaps:
            self._take_overlapping(job)
            return
        work: dict[Stage, Callable[[], int]] = {
            "rollouts": lambda: self._extract(job),
            "judgements": lambda: self._judge(job),
            "vectors": lambda: self._build(job),
        }
        self._on_done(job, self._do(job, {stage: work[stage] for stage in job.stages}))

    def finish(self) -> None:
        """Wait until everything is judged and built."""
        wait([beside.ended for beside in self._beside], return_when="FIRST_EXCEPTION")
        self._raise_first()

    def _take_overlapping(self, job: Job) -> None:
        """Generate here, and have each batch judged in another thread, where the vector is built too."""
        desk, feed = self._desk(job), _Feed()
        desk.open()
        feed.bring(job.run.trait(job.trait.name).rollouts())
        self._beside.append(_Beside(desk, feed, self._pool.submit(self._end, job, desk, feed)))

        def bring(rollouts: Sequence[Rollout]) -> None:
            self._raise_first()
            feed.bring(rollouts)

        if "rollouts" in job.stages:
            feed.failure = self._do(job, {"rollouts": lambda: self._extract(job, bring)})
        feed.end()

    def _end(self, job: Job, desk: JudgeDesk, feed: _Feed) -> None:
        """Judge what the feed brings; if all of it came, build the vector."""
        failure = self._do(job, {"judgements": lambda: desk.score(feed)}) or feed.failure
        if failure is None and "vectors" in job.stages:
            failure = self._do(job, {"vectors": lambda: self._build(job)})
        self._on_done(job, failure)

    def _do(self, job: Job, steps: Mapping[Stage, Callable[[], int]]) -> TraitFailed | None:
        """Take steps, which return how many items they made, until one fails."""
        for stage, work in steps.items():
            start = time.monotonic()
            try:
                count = work()
            except (ConfigError, JudgeError, ModelError):
                raise
            except TraitError as error:
                failure = TraitFailed(job.trait.name, stage, error.problem, error.cause, error.fix)
                self._on_event(failure)
                return failure
            seconds = time.monotonic() - start
            self._on_event(StageFinished(job.trait.name, stage, seconds))
            if count:
                remember_speed(job.config, stage, seconds / count)
        return None

    def _extract(self, job: Job, on_batch: Callable[[Sequence[Rollout]], None] = lambda rollouts: None) -> int:
        from traitcli.stages.extract import extract_trait

        files = job.run.trait(job.trait.name)
        return extract_trait(job.trait, job.config, self._worker, files, self._on_event, on_batch)

    def _judge(self, job: Job) -> int:
        desk = self._desk(job)
        desk.open()
        return desk.score(job.run.trait(job.trait.name).rollouts())

    def _build(self, job: Job) -> int:
        from traitcli.stages.build_vector import build_trait

        build_trait(job.trait, job.config, job.run, judge_id(self._worker.judge, job.trait), self._on_event)
        return 0

    def _desk(self, job: Job) -> JudgeDesk:
        total = sum(key.split == "extraction" for key in plan_rollouts(job.trait, job.config.extract))
        return JudgeDesk(job.trait, self._worker.judge, job.run.trait(job.trait.name), total, self._on_event)

    def _raise_first(self) -> None:
        """Let a judge that has failed for good end everything now, not when it is waited for."""
        for beside in self._beside:
            if beside.ended.done():
                beside.ended.result()


class _Feed:
    """Rollouts on their way to the judge; iterating waits for more until the end.

    failure  why not all of them came
    """

    def __init__(self) -> None:
        self._batches: SimpleQueue[Sequence[Rollout] | None] = SimpleQueue()
        self.failure: TraitFailed | None = None

    def bring(self, rollouts: Sequence[Rollout]) -> None:
        self._batches.put(rollouts)

    def end(self) -> None:
        self._batches.put(None)

    def __iter__(self) -> Iterator[Rollout]:
        while (batch := self._batches.get()) is not None:
            yield from batch


@dataclass(frozen=True, slots=True)
class _Beside:
    """The judging of a job, at work in a thread of its own."""

    desk: JudgeDesk
    feed: _Feed
    ended: Future[None]

    def stop(self) -> None:
        self.desk.stop()
        self.feed.end()
