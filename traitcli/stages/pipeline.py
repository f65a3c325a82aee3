"""Takes one trait through the stages asked for; judging runs beside generation where it can."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True)
class Job:
    """One trait's work in a run, and which stages of it."""

    trait: Trait
    config: Config
    run: Run
    stages: tuple[Stage, ...]


def run_job(job: Job, worker: Worker, on_event: Listener) -> TraitFailed | None:
    """Do a job; what is wrong with this trait alone comes back as a failure, and the others go on.

    A model or judge that cannot work at all is raised: no trait could go on.
    """
    stage = ""
    try:
        for stage, work in _work(job, worker, on_event):
            start = time.monotonic()
            count = work()
            seconds = time.monotonic() - start
            on_event(StageFinished(job.trait.name, stage, seconds))
            if count:
                remember_speed(job.config, stage, seconds / count)
    except (ConfigError, JudgeError, ModelError):
        raise
    except TraitError as error:
        failure = TraitFailed(job.trait.name, stage, error.problem, error.cause, error.fix)
        on_event(failure)
        return failure
    return None


def _work(job: Job, worker: Worker, on_event: Listener) -> list[tuple[Stage, Callable[[], int]]]:
    """The stages in order, as things to call that return how many items they made."""
    judging = "judgements" in job.stages and worker.judge.overlaps
    work: dict[Stage, Callable[[], int]] = {
        "rollouts": lambda: _extract(job, worker, on_event, judging),
        "judgements": lambda: _judge(job, worker, on_event),
        "vectors": lambda: _build(job, worker, on_event),
    }
    return [(stage, work[stage]) for stage in job.stages]


def _extract(job: Job, worker: Worker, on_event: Listener, judging: bool) -> int:
    from traitcli.stages.extract import extract_trait

    files = job.run.trait(job.trait.name)
    if not judging:
        return extract_trait(job.trait, job.config, worker, files, on_event)
    desk = _desk(job, worker, on_event)
    desk.open()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="judge") as pool:
        calls: list[Future[int]] = [pool.submit(desk.score, files.rollouts())]

        def on_batch(rollouts: Sequence[Rollout]) -> None:
            _raise_first(calls)
            calls.append(pool.submit(desk.score, rollouts))

        try:
            made = extract_trait(job.trait, job.config, worker, files, on_event, on_batch)
            for call in calls:
                call.result()
        except BaseException:
            desk.stop()  # Ctrl-C, or this trait has failed: what is queued need not be scored first
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return made


def _judge(job: Job, worker: Worker, on_event: Listener) -> int:
    """Whatever was not judged while it was generated, and the missing scores once more."""
    desk = _desk(job, worker, on_event)
    desk.open()
    made = desk.score(job.run.trait(job.trait.name).rollouts())
    desk.close()
    return made


def _build(job: Job, worker: Worker, on_event: Listener) -> int:
    from traitcli.stages.build_vector import build_trait

    build_trait(job.trait, job.config, job.run, judge_id(worker.judge, job.trait), on_event)
    return 0


def _desk(job: Job, worker: Worker, on_event: Listener) -> JudgeDesk:
    total = sum(key.split == "extraction" for key in plan_rollouts(job.trait, job.config.extract))
    return JudgeDesk(job.trait, worker.judge, job.run.trait(job.trait.name), total, on_event)


def _raise_first(calls: Sequence[Future[int]]) -> None:
    """Let a judge that has failed for good end the generation now, not at its end."""
    for call in calls:
        if call.done():
            call.result()
