"""Takes one trait through the stages of a run and stores what is made of it.

Workers make rollouts, and score them if the judge needs a device. A judge that needs no device is
asked from here, in the background, while workers generate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue

from traitcli.config import Config
from traitcli.errors import RunError, TraitError
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
from traitcli.pipeline.build_vector import build_trait
from traitcli.pipeline.judge import JudgingStage
from traitcli.pipeline.ledgers import RunLedgers
from traitcli.pipeline.messages import (
    GenerateTask,
    Made,
    ReadTask,
    ResponsesRead,
    RolloutsJudged,
    RolloutsMade,
    ScoreTask,
    Task,
)
from traitcli.pipeline.plan import plan_rollouts
from traitcli.pipeline.speed_cache import remember_speed
from traitcli.pipeline.worker_context import FATAL
from traitcli.records import Judgement, Rollout, Trait

_RUN_AGAIN = "run the same command again; finished rollouts are kept (see logs/ in the run folder)"


@dataclass(frozen=True, slots=True)
class Job:
    """One trait's work in a run, and which stages of it to do."""

    trait: Trait
    config: Config
    ledgers: RunLedgers
    stages: tuple[Stage, ...]


class TraitPipeline:
    """One trait on its way through the stages.

    is_over  nothing is left to do: the last stage is done, or the trait has failed
    failure  why the trait has failed; None if it has not
    """

    def __init__(
        self, job: Job, judge: Judge, threads: ThreadPoolExecutor, on_event: Listener
    ) -> None:
        """`threads` run judging in the background; they call `on_event` too."""
        self._job = job
        self._trait = job.trait
        self._is_labelled = bool(job.trait.responses)
        self._judge = ProvidedJudge() if self._is_labelled else judge
        self._threads = threads
        self._on_event = on_event
        self._ledgers = job.ledgers.trait(job.trait.name)
        self._keys = plan_rollouts(job.trait, job.config.extract)
        # A run may store more than the present settings ask for; only what they ask for counts.
        planned = {key.id for key in self._keys}
        self._done = {rollout.id for rollout in self._ledgers.rollouts} & planned

        self._started_at: dict[Stage, float] = {}
        self._times: dict[Stage, tuple[float, int]] = {}
        self._judging: JudgingStage | None = None
        if "judgements" in job.stages and self._is_judged:
            self._judging = self._create_judging(on_event)
        self._background: _BackgroundJudging | None = None
        # A judge that needs a device waits for it until the rollouts are made.
        on_devices: set[Stage] = {"rollouts"}
        if not self._judge.overlaps:
            on_devices.add("judgements")
        # Labelled responses have no persona: their own reading is a neutral one.
        if not self._is_labelled:
            on_devices.add("readings")
        self._next_stages = [stage for stage in job.stages if stage in on_devices]
        self._stage: Stage | None = None
        self.is_over = False
        self.failure: TraitFailed | None = None

    @property
    def name(self) -> str:
        return self._trait.name

    @property
    def missing(self) -> int:
        """Rollouts that workers still have to make."""
        return len(self._keys) - len(self._done) if "rollouts" in self._job.stages else 0

    @property
    def _is_judged(self) -> bool:
        """Labelled responses without scores need no judge: the label replaces the score."""
        return self._trait.is_scored or not self._is_labelled

    def start(self) -> list[Task]:
        """Start, and return the work for devices. When it is done, call `advance` for more."""
        if self._job.stages == ("judgements",) and not self._is_judged:
            message = "nothing to judge: its responses are labelled"
            self._on_event(Warned(self.name, message))
        if self._judging and self._judge.overlaps:
            self._judging.open()
            queue = _RolloutQueue()
            ended = self._threads.submit(self._judge_in_background, self._judging, queue)
            self._background = _BackgroundJudging(self._judging, queue, ended)
            # Rollouts of an interrupted run may be stored without their scores.
            self._background.add(list(self._ledgers.rollouts))
        return self.advance()

    def advance(self) -> list[Task]:
        """End the current stage and start the next one; after a failure none is started.

        Returns the work for devices. Call it only if no worker works on this trait.
        """
        if self._stage:
            self._finish(self._stage)
            self._stage = None
        while self._next_stages and not self.failure:
            self._stage = self._next_stages.pop(0)
            self._note_start(self._stage)
            make = {
                "rollouts": self._generate_task,
                "readings": self._read_task,
                "judgements": self._score_task,
            }
            if task := make[self._stage]():
                return [task]
            self._finish(self._stage)
            self._stage = None

        if self._background:
            # The background thread builds the vector too, so that it starts with the last score.
            self._background.queue.end()
            return []
        if "vectors" in self._job.stages and not self.failure:
            self._run_stage("vectors", self._build_vector)
        self.is_over = True
        return []

    def _generate_task(self) -> Task | None:
        self._on_event(StageStarted(self.name, "rollouts", len(self._done), len(self._keys)))
        missing = tuple(key for key in self._keys if key.id not in self._done)
        return GenerateTask(self._trait, missing) if missing else None

    def _read_task(self) -> Task | None:
        total = len(self._readable)
        self._on_event(StageStarted(self.name, "readings", len(self._ledgers.neutral), total))
        missing = [one for one in self._readable if one.id not in self._ledgers.neutral]
        # What is in one pass shares its prompt, which is read once.
        missing.sort(key=lambda one: (one.split, one.question))
        return ReadTask(self._trait, tuple(missing)) if missing else None

    @property
    def _readable(self) -> list[Rollout]:
        return [one for one in self._ledgers.rollouts if one.response_tokens]

    def _score_task(self) -> Task | None:
        judging = self._judging
        assert judging  # noqa: S101 - the stage is on devices only if a judge with a model scores
        judging.open()
        answers = tuple(judging.answers(self._ledgers.rollouts))
        return ScoreTask(self._trait, answers) if answers else None

    def store(self, made: Made) -> set[str]:
        """Store what a worker has made; returns the rollouts that it is about."""
        match made:
            case RolloutsMade():
                self._store_rollouts(made)
                return {rollout.id for rollout in made.rollouts}
            case ResponsesRead(ids):
                self._store_readings(made)
                return set(ids)
            case RolloutsJudged(judgements):
                self._store_judgements(judgements)
                return {judgement.rollout for judgement in judgements}

    def _store_rollouts(self, made: RolloutsMade) -> None:
        """Store rollouts, except those that another worker has delivered meanwhile.

        Two workers make the same rollout if one was thought dead and was not.
        """
        new = [rollout for rollout in made.rollouts if rollout.id not in self._done]
        states = made.states.only({rollout.id for rollout in new}) if made.states else None
        self._ledgers.add_rollouts(new, states)
        self._done.update(rollout.id for rollout in new)
        self.report_progress(0)
        if self._background:
            self._background.add(new)

    def _store_readings(self, made: ResponsesRead) -> None:
        """Store neutral readings, except those that another worker has delivered meanwhile."""
        new = set(made.ids) - self._ledgers.neutral
        self._ledgers.add_neutral(made.ids, made.states.only(new) if made.states else None)
        self.report_progress(0)

    def _store_judgements(self, judgements: Sequence[Judgement]) -> None:
        """Store the judgements of a worker's judge."""
        if self._judging:
            self._judging.store(judgements)

    def report_progress(self, tokens: int) -> None:
        """Emit how many rollouts are done; `tokens` were generated since the last call."""
        # Workers send heartbeats while they judge, too: those are no progress of this stage.
        if self._stage == "rollouts":
            done, total = len(self._done), len(self._keys)
            self._on_event(Progressed(self.name, "rollouts", done, total, tokens=tokens))
        elif self._stage == "readings":
            done, total = len(self._ledgers.neutral), len(self._readable)
            self._on_event(Progressed(self.name, "readings", done, total))

    def record_time(self, stage: Stage, seconds: float, items: int) -> None:
        """Note how long a worker took for some items of a stage."""
        earlier, count = self._times.get(stage, (0.0, 0))
        self._times[stage] = earlier + seconds, count + items

    def fail(self, stage: str, error: TraitError) -> None:
        """Note that the trait cannot continue; what is stored stays. The first failure counts."""
        if self.failure is None:
            self.failure = TraitFailed(self.name, stage, error.problem, error.cause, error.fix)
            self._on_event(self.failure)

    def fail_unfinished(self, cause: str, fix: str = _RUN_AGAIN) -> None:
        """Note that workers could not finish the trait."""
        self.fail("worker", TraitError(f"{self.name} is not finished", cause=cause, fix=fix))

    def check_judging(self) -> None:
        """Notice that background judging has ended; raises what no trait can continue after."""
        if self._background and self._background.ended.done():
            self._background.ended.result()  # raises what ended the thread
            self.is_over = True

    def stop(self) -> None:
        """End background judging with the next judgement, which is stored."""
        if self._background:
            self._background.judging.stop()
            self._background.queue.end()  # the thread may wait for more rollouts

    def _judge_in_background(self, judging: JudgingStage, queue: _RolloutQueue) -> None:
        """Judge what the queue brings, then build the vector."""
        self._run_stage("judgements", lambda: judging.score(queue))
        if "vectors" in self._job.stages and not self.failure:
            self._run_stage("vectors", self._build_vector)

    def _run_stage(self, stage: Stage, work: Callable[[], int]) -> None:
        """Run a stage here; `work` returns how many items it made."""
        self._note_start(stage)
        try:
            count = work()
        except FATAL:
            raise  # it would fail every other trait as well
        except TraitError as error:
            self.fail(stage, error)
            return
        self.record_time(stage, time.monotonic() - self._started_at[stage], count)
        self._finish(stage)

    def _note_start(self, stage: Stage) -> None:
        self._started_at[stage] = time.monotonic()

    def _finish(self, stage: Stage) -> None:
        if self.failure:
            return
        if stage == "judgements" and self._judging:
            self._judging.close()
            # Without a later stage nothing else would notice.
            if self._judging.scores_nothing and "vectors" not in self._job.stages:
                self.fail(
                    "judgements",
                    RunError(
                        f"no rollout of {self.name} has a score",
                        cause="the judge gave no usable score; the warning above lists the reasons",
                        fix="correct judge in the config, then run traitcli judge again",
                    ),
                )
                return
        if stage == "rollouts":
            self._store_provided_scores()
        seconds = time.monotonic() - self._started_at.pop(stage)
        self._on_event(StageFinished(self.name, stage, seconds))

        # The time of workers alone: the stage also takes the time until a device is free.
        seconds, count = self._times.get(stage, (0.0, 0))
        if count and not self._is_labelled:  # reading responses is faster than generating them
            remember_speed(self._job.config, stage, seconds / count)

    def _build_vector(self) -> int:
        self._store_provided_scores()
        judge = judge_id(self._judge, self._trait)
        build_trait(self._trait, self._job.config, self._job.ledgers, judge, self._on_event)
        return 0

    def _store_provided_scores(self) -> None:
        """Store the scores that came with labelled responses, unless judging is a stage itself."""
        if self._trait.is_scored and not self._judging:
            self._create_judging(lambda event: None).score(self._ledgers.rollouts)

    def _create_judging(self, on_event: Listener) -> JudgingStage:
        total = sum(key.split == "extraction" for key in self._keys)
        return JudgingStage(self._trait, self._judge, self._ledgers, total, on_event)


class _RolloutQueue:
    """Rollouts on their way to the judge. Iterating waits for more until the queue is ended."""

    def __init__(self) -> None:
        self._batches: SimpleQueue[Sequence[Rollout] | None] = SimpleQueue()

    def add(self, rollouts: Sequence[Rollout]) -> None:
        self._batches.put(rollouts)

    def end(self) -> None:
        self._batches.put(None)

    def __iter__(self) -> Iterator[Rollout]:
        while (batch := self._batches.get()) is not None:
            yield from batch


@dataclass(frozen=True, slots=True)
class _BackgroundJudging:
    """The judging of a trait in a thread of its own."""

    judging: JudgingStage
    queue: _RolloutQueue
    ended: Future[None]

    def add(self, rollouts: Sequence[Rollout]) -> None:
        self.judging.expect(rollouts)
        self.queue.add(rollouts)
