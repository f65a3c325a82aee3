"""Estimates how fast each stage of a trait runs and when it ends.

Rich draws the bars, but the estimates of `rich.progress` do not fit a run. They need two updates
within 30 seconds. One batch on a CPU can take longer than that, and then a time never appears. They
also do not count down between updates, and the plain view needs the same numbers without any bar.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from traitcli.events import STAGES, Progressed, Stage, StageFinished, StageStarted


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

    def left(self, todo: Mapping[Stage, int], now: float) -> float | None:
        """Seconds until all stages end; `todo` is stage -> the items of this command, all traits.

        A stage counts from its first new item on: until then, nobody knows how fast it is.
        """
        counted: list[Rate] = []
        active: dict[Stage, float] = {}
        left: dict[Stage, float] = {}
        for stage in STAGES:
            rates = self.at(stage)
            fresh, seconds = sum(rate.done - rate.resumed for rate in rates), _active_seconds(rates)
            if fresh <= 0 or seconds <= 0:
                continue
            # Traits that wait for their turn have no rate yet; `todo` includes their items.
            total = max(todo.get(stage, 0), sum(rate.total - rate.resumed for rate in rates))
            counted += rates
            active[stage] = seconds
            left[stage] = (total - fresh) * seconds / fresh
        if not left:
            return None

        # On one device, stages take turns and their times add up. Several devices and judging in
        # the background make them overlap; they are taken to overlap as much as so far.
        together = _active_seconds(counted) / sum(active.values())
        # Judging may be all that is left, and then overlaps with nothing.
        seconds = max(sum(left.values()) * together, left.get("judgements", 0.0))
        return max(seconds - (now - max(rate.updated for rate in counted)), 0.0)

    @property
    def tokens_per_second(self) -> float:
        """Sum over all active stages."""
        active = [rate for rate in self.by_stage.values() if rate.is_active]
        return sum(rate.tokens_per_second or 0.0 for rate in active)


def _active_seconds(rates: Sequence[Rate]) -> float:
    """How long at least one of the rates was active; the time between them does not count."""
    seconds, end = 0.0, -math.inf
    for rate in sorted(rates, key=lambda rate: rate.started):
        seconds += max(rate.updated - max(rate.started, end), 0.0)
        end = max(end, rate.updated)
    return seconds
