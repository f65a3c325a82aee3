"""Estimates how fast each stage of a trait runs and when it ends.

Rich draws the bars, but the estimates of `rich.progress` do not fit a run. They need two updates
within 30 seconds. One batch on a CPU can take longer than that, and then a time never appears. They
also do not count down between updates, and the plain view needs the same numbers without any bar.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from traitcli.events import Progressed, Stage, StageFinished, StageStarted


@dataclass(frozen=True, slots=True)
class Rate:
    """Progress of one stage of one trait.

    resumed  items that an earlier command finished; they count as done but not as speed
    started  seconds on the view's clock, as is `updated`
    seconds  how long the stage took; None until it ends
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
        """The rate at the first event of a stage."""
        # A Progressed may come first when a view starts late. Nobody knows how long its items took,
        # so they count as resumed.
        return cls(
            event.trait, event.stage, event.done, event.done, event.total, started=now, updated=now
        )

    def advanced(self, event: Progressed, now: float) -> Self:
        return replace(
            self,
            done=event.done,
            total=event.total,
            tokens=self.tokens + event.tokens,
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
    def tokens_per_second(self) -> float | None:
        """Mean since the start; None before the first tokens."""
        spent = self.updated - self.started
        return self.tokens / spent if self.tokens and spent > 0 else None

    def elapsed(self, now: float) -> float:
        return now - self.started if self.seconds is None else self.seconds

    def left(self, now: float) -> float | None:
        """Seconds to go at the mean speed so far; counts down between events."""
        fresh = self.done - self.resumed
        spent = self.updated - self.started
        if fresh <= 0 or spent <= 0 or not self.is_active:
            return None

        left_at_update = (self.total - self.done) * spent / fresh
        return max(left_at_update - (now - self.updated), 0.0)


class Rates:
    """The rates of a run, by trait and stage.

    `by_stage` is replaced and never changed, because another thread draws from it.
    """

    def __init__(self) -> None:
        self.by_stage: dict[tuple[str, Stage], Rate] = {}

    def update(self, event: StageStarted | Progressed | StageFinished, now: float) -> Rate | None:
        """Store what an event says and return the new rate.

        Returns None if nothing changes: an unknown stage ends, or a finished stage progresses.
        """
        key = (event.trait, event.stage)
        known = self.by_stage.get(key)

        match event:
            case StageStarted():
                rate = Rate.begun(event, now)
            case Progressed():
                # A late event would lower the speed of a stage that has ended.
                if known and not known.is_active:
                    return None
                rate = known.advanced(event, now) if known else Rate.begun(event, now)
            case StageFinished():
                if known is None:
                    return None
                rate = known.finished(event)

        self.by_stage = {**self.by_stage, key: rate}
        return rate

    def of(self, trait: str) -> list[Rate]:
        return [rate for rate in self.by_stage.values() if rate.trait == trait]

    def at(self, stage: Stage) -> list[Rate]:
        return [rate for rate in self.by_stage.values() if rate.stage == stage]

    @property
    def worked(self) -> bool:
        """Whether this command did anything that was not on disk before."""
        return any(rate.done > rate.resumed for rate in self.by_stage.values())

    @property
    def missing(self) -> int:
        """Judgements without a score so far."""
        return sum(rate.missing for rate in self.by_stage.values())

    def done(self, stage: Stage) -> int:
        """Finished items of a stage, over all traits."""
        return sum(rate.done for rate in self.at(stage))

    def left(self, todo: int, now: float) -> float | None:
        """Seconds until everything is generated and judged; `todo` is this command's rollouts."""
        times = [self._stage_left("rollouts", todo, now), self._stage_left("judgements", 0, now)]
        # Judging runs while generation runs, so the slower of the two decides.
        return max((time for time in times if time is not None), default=None)

    def _stage_left(self, stage: Stage, todo: int, now: float) -> float | None:
        rates = self.at(stage)
        if not rates:
            return None

        started = min(rate.started for rate in rates)
        updated = max(rate.updated for rate in rates)
        fresh = sum(rate.done - rate.resumed for rate in rates)

        # Traits that wait for their turn have no rate yet; `todo` includes their rollouts.
        total = max(todo, sum(rate.total - rate.resumed for rate in rates))
        return Rate("", stage, 0, fresh, total, started, updated).left(now)

    @property
    def tokens_per_second(self) -> float:
        """Sum over all active stages."""
        active = [rate for rate in self.by_stage.values() if rate.is_active]
        return sum(rate.tokens_per_second or 0.0 for rate in active)
