"""Reckons how fast a stage of a trait goes and when it will be through."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from traitcli.events import Progressed, Stage, StageFinished, StageStarted


@dataclass(frozen=True, slots=True)
class Rate:
    """One stage of one trait; what lay on disk at its start counts as done and not as speed.

    Times are seconds on the view's clock; `seconds` is how long the stage took, once it is finished.
    """

    trait: str
    stage: Stage
    resumed: int
    done: int
    total: int
    started: float
    updated: float
    tokens: int = 0
    missing: int = 0
    waiting: int = 0
    in_flight: int = 0
    usd: float | None = None
    seconds: float | None = None

    @classmethod
    def begun(cls, event: StageStarted | Progressed, now: float) -> Self:
        """A stage as it starts, or as it is first heard of."""
        return cls(
            event.trait, event.stage, event.done, event.done, event.total, started=now, updated=now
        )

    def advanced(self, event: Progressed, now: float) -> Self:
        tokens = self.tokens + event.tokens
        return replace(
            self,
            done=event.done,
            total=event.total,
            tokens=tokens,
            missing=event.missing,
            waiting=event.waiting,
            in_flight=event.in_flight,
            usd=event.usd,
            updated=now,
        )

    def finished(self, event: StageFinished) -> Self:
        return replace(self, seconds=event.seconds)

    @property
    def is_active(self) -> bool:
        return self.seconds is None

    @property
    def share(self) -> float:
        return min(self.done / self.total, 1.0) if self.total else 1.0

    @property
    def tokens_per_second(self) -> float | None:
        """The mean since the start, None until there is something to divide."""
        spent = self.updated - self.started
        return self.tokens / spent if self.tokens and spent > 0 else None

    def elapsed(self, now: float) -> float:
        return now - self.started if self.seconds is None else self.seconds

    def left(self, now: float) -> float | None:
        """Seconds to go at the mean rate so far; it counts down between events."""
        fresh, spent = self.done - self.resumed, self.updated - self.started
        if fresh <= 0 or spent <= 0 or not self.is_active:
            return None
        return max((self.total - self.done) * spent / fresh - (now - self.updated), 0.0)


class Rates:
    """The rates of a run, by trait and stage, as the events tell them.

    `by_stage` is replaced and never changed, so another thread may draw from it.
    """

    def __init__(self) -> None:
        self.by_stage: dict[tuple[str, Stage], Rate] = {}

    def take(self, event: StageStarted | Progressed | StageFinished, now: float) -> Rate | None:
        """Take one event and return the rate it leads to; None for the end of a stage never heard of."""
        key = (event.trait, event.stage)
        known = self.by_stage.get(key)
        match event:
            case StageStarted():
                rate = Rate.begun(event, now)
            case Progressed():
                rate = known.advanced(event, now) if known else Rate.begun(event, now)
            case StageFinished():
                if known is None:
                    return None
                rate = known.finished(event)
        self.by_stage = {**self.by_stage, key: rate}
        return rate

    def of(self, trait: str) -> list[Rate]:
        return [rate for rate in self.by_stage.values() if rate.trait == trait]

    @property
    def worked(self) -> bool:
        """Whether anything was done that was not on disk before."""
        return any(rate.done > rate.resumed for rate in self.by_stage.values())

    @property
    def missing(self) -> int:
        """Judgements without a score so far."""
        return sum(rate.missing for rate in self.by_stage.values())

    def done(self, stage: Stage) -> int:
        """Of a stage, by all traits that have come to it."""
        return sum(rate.done for rate in self.by_stage.values() if rate.stage == stage)

    def left(self, todo: int, now: float) -> float | None:
        """Seconds until all is made and judged, at the mean rate so far; `todo` rollouts were to be made at first."""
        times = [self._stage_left("rollouts", todo, now), self._stage_left("judgements", 0, now)]
        known = [time for time in times if time is not None]
        return max(known, default=None)

    def _stage_left(self, stage: Stage, todo: int, now: float) -> float | None:
        rates = [rate for rate in self.by_stage.values() if rate.stage == stage]
        if not rates:
            return None
        started, updated = min(rate.started for rate in rates), max(rate.updated for rate in rates)
        fresh = sum(rate.done - rate.resumed for rate in rates)
        total = max(todo, sum(rate.total - rate.resumed for rate in rates))
        return Rate("", stage, 0, fresh, total, started, updated).left(now)

    @property
    def tokens_per_second(self) -> float:
        """All active stages together."""
        return sum(
            rate.tokens_per_second or 0.0 for rate in self.by_stage.values() if rate.is_active
        )
