"""Takes a trait through the stages asked for, and keeps what is made of it: the one writer of its records.

Rollouts, and scores of a judge that needs a worker's device, are made elsewhere and brought here.
Where the judge leaves the devices free, it is asked here, beside generation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue

from traitcli.config import Config
from traitcli.errors import TraitError
from traitcli.events import (
    Listener,
    Progressed,
    Stage,
    StageFinished,
    StageStarted,
    TraitFailed,
    Warned,
)
from traitcli.judging import Judge, ProvidedJudge, judge_id
from traitcli.pipeline.judge import JudgingStage
from traitcli.pipeline.ledgers import RunLedgers
from traitcli.pipeline.messages import Generating, Made, Scoring, Task
from traitcli.pipeline.plan import plan_rollouts
from traitcli.pipeline.speed_cache import remember_speed
from traitcli.pipeline.worker_context import FATAL
from traitcli.records import Judgement, Rollout, Trait


@dataclass(frozen=True, slots=True)
class Job:
    """One trait's work in a run, and which stages of it."""

    trait: Trait
    config: Config
    ledgers: RunLedgers
    stages: tuple[Stage, ...]


class TraitPipeline:
    """One trait on its way.

    is_over  nothing more will come of it: its vector is built, or it has failed
    failure  why it has failed
    missing  rollouts that are asked for and not on disk
    """

    def __init__(
        self, job: Job, judge: Judge, pool: ThreadPoolExecutor, on_event: Listener
    ) -> None:
        """`pool` is for judging beside generation; `on_event` may be called from its threads."""
        self._job = job
        self._is_ready = bool(job.trait.responses)
        self._judge = judge = ProvidedJudge() if self._is_ready else judge
        self._pool = pool
        self._on_event = on_event
        self._ledgers = job.ledgers.trait(job.trait.name)
        self._keys = plan_rollouts(job.trait, job.config.extract)
        self._done = {rollout.id for rollout in self._ledgers.rollouts} & {
            key.id for key in self._keys
        }
        self._begun: dict[Stage, float] = {}
        self._took: dict[Stage, tuple[float, int]] = {}
        self._desk = (
            self._open_desk(on_event) if "judgements" in job.stages and self._is_judged else None
        )
        self._beside: _BackgroundJudging | None = None
        on_devices = {"rollouts"} if judge.overlaps else {"rollouts", "judgements"}
        self._coming = [stage for stage in job.stages if stage in on_devices]
        self._at: Stage | None = None
        self.is_over = False
        self.failure: TraitFailed | None = None

    @property
    def name(self) -> str:
        return self._job.trait.name

    @property
    def missing(self) -> int:
        return len(self._keys) - len(self._done) if "rollouts" in self._job.stages else 0

    @property
    def _is_judged(self) -> bool:
        return self._job.trait.is_scored or not self._is_ready

    def start(self) -> list[Task]:
        """Begin; returns what is to be done on devices, as does `go_on` when all of it is."""
        if self._job.stages == ("judgements",) and not self._is_judged:
            told = "there is nothing to judge: its ready responses count as labelled"
            self._on_event(Warned(self.name, told))
        if self._desk and self._judge.overlaps:
            self._desk.open()
            feed = _RolloutQueue()
            self._beside = _BackgroundJudging(
                self._desk, feed, self._pool.submit(self._score_beside, self._desk, feed)
            )
            self._beside.bring(list(self._ledgers.rollouts))
        return self.go_on()

    def go_on(self) -> list[Task]:
        """Take the next stage, when nothing of the one before is at work; none follows a failure."""
        if self._at:
            self._finish(self._at)
            self._at = None
        while self._coming and not self.failure:
            self._at = self._coming.pop(0)
            self._begin(self._at)
            if task := self._generating() if self._at == "rollouts" else self._scoring():
                return [task]
            self._finish(self._at)
            self._at = None
        if self._beside:
            self._beside.feed.end()
            return []
        if "vectors" in self._job.stages and not self.failure:
            self._do("vectors", self._build)
        self.is_over = True
        return []

    def _generating(self) -> Task | None:
        self._on_event(StageStarted(self.name, "rollouts", len(self._done), len(self._keys)))
        missing = tuple(key for key in self._keys if key.id not in self._done)
        return Generating(self._job.trait, missing) if missing else None

    def _scoring(self) -> Task | None:
        desk = self._desk
        assert desk  # noqa: S101 - the stage is there only with a desk
        desk.open()
        answers = tuple(desk.answers(self._ledgers.rollouts))
        return Scoring(self._job.trait, answers) if answers else None

    def keep(self, made: Made) -> None:
        """Write rollouts down; those that another made meanwhile are not written twice."""
        new = [rollout for rollout in made.rollouts if rollout.id not in self._done]
        self._ledgers.add_rollouts(
            new, {r.id: made.activations[r.id] for r in new if r.id in made.activations}
        )
        self._done.update(rollout.id for rollout in new)
        self.count(0)
        if self._beside:
            self._beside.bring(new)

    def keep_judgements(self, judgements: Sequence[Judgement]) -> None:
        """Write down what a worker's judge found."""
        if self._desk:
            self._desk.keep(judgements)

    def count(self, tokens: int) -> None:
        """Tell of tokens that were written."""
        # Workers send heartbeats while they judge, too: those are no progress of this stage.
        if self._at != "rollouts":
            return
        self._on_event(
            Progressed(self.name, "rollouts", len(self._done), len(self._keys), tokens=tokens)
        )

    def spend(self, stage: Stage, seconds: float, items: int) -> None:
        """Note how long a worker took for some items."""
        before, count = self._took.get(stage, (0.0, 0))
        self._took[stage] = before + seconds, count + items

    def fail(self, stage: str, error: TraitError) -> None:
        """Note that the trait cannot go on; what is on disk stays. The first reason counts."""
        if self.failure is None:
            self.failure = TraitFailed(self.name, stage, error.problem, error.cause, error.fix)
            self._on_event(self.failure)

    def look(self) -> None:
        """Notice that judging beside generation has ended; raises what no trait could go on after."""
        if self._beside and self._beside.ended.done():
            self._beside.ended.result()
            self.is_over = True

    def stop(self) -> None:
        """Let judging beside generation end with the next judgement, which is kept."""
        if self._beside:
            self._beside.desk.stop()
            self._beside.feed.end()

    def _score_beside(self, desk: JudgingStage, feed: _RolloutQueue) -> None:
        """Judge what the feed brings; if all of it came, build the vector."""
        self._do("judgements", lambda: desk.score(feed))
        if "vectors" in self._job.stages and not self.failure:
            self._do("vectors", self._build)

    def _do(self, stage: Stage, work: Callable[[], int]) -> None:
        """Take a stage here; `work` returns how many items it made."""
        self._begin(stage)
        try:
            count = work()
        except FATAL:
            raise
        except TraitError as error:
            self.fail(stage, error)
            return
        self.spend(stage, time.monotonic() - self._begun[stage], count)
        self._finish(stage)

    def _begin(self, stage: Stage) -> None:
        self._begun[stage] = time.monotonic()

    def _finish(self, stage: Stage) -> None:
        if self.failure:
            return
        if stage == "judgements" and self._desk:
            self._desk.close()
        if stage == "rollouts":
            self._keep_given_scores()
        self._on_event(StageFinished(self.name, stage, time.monotonic() - self._begun.pop(stage)))
        seconds, count = self._took.get(stage, (0.0, 0))
        if count and not self._is_ready:  # it is what generating takes
            remember_speed(self._job.config, stage, seconds / count)

    def _build(self) -> int:
        from traitcli.pipeline.build_vector import build_trait

        job = self._job
        self._keep_given_scores()
        judge = judge_id(self._judge, job.trait)
        build_trait(job.trait, job.config, job.ledgers, judge, self._on_event)
        return 0

    def _keep_given_scores(self) -> None:
        """Write down the scores that came with ready responses, where that is no stage of its own."""
        if self._job.trait.is_scored and not self._desk:
            self._open_desk(lambda event: None).score(self._ledgers.rollouts)

    def _open_desk(self, on_event: Listener) -> JudgingStage:
        total = sum(key.split == "extraction" for key in self._keys)
        return JudgingStage(self._job.trait, self._judge, self._ledgers, total, on_event)


class _RolloutQueue:
    """Rollouts on their way to the judge; iterating waits for more until the end."""

    def __init__(self) -> None:
        self._batches: SimpleQueue[Sequence[Rollout] | None] = SimpleQueue()

    def bring(self, rollouts: Sequence[Rollout]) -> None:
        self._batches.put(rollouts)

    def end(self) -> None:
        self._batches.put(None)

    def __iter__(self) -> Iterator[Rollout]:
        while (batch := self._batches.get()) is not None:
            yield from batch


@dataclass(frozen=True, slots=True)
class _BackgroundJudging:
    """The judging of a trait, at work in a thread of its own."""

    desk: JudgingStage
    feed: _RolloutQueue
    ended: Future[None]

    def bring(self, rollouts: Sequence[Rollout]) -> None:
        self.desk.expect(rollouts)
        self.feed.bring(rollouts)
