"""How often thresholds are exceeded by benign texts of another source."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from traitcli.monitoring.summaries import Summary
from traitcli.monitoring.thresholds import LEVEL, Thresholds

WITHIN = (0.3, 2.0)
"""A realized rate between these multiples of the nominal one confirms it."""
_FEWEST_ALARMS = 3
"""Expected in the texts. With fewer, none at all would still be likely at the nominal rate."""

Outcome = Literal["holds", "differs", "too few texts"]


@dataclass(frozen=True, slots=True)
class RealizedRate:
    """How many of some benign texts exceed the threshold of a nominal false-positive rate.

    low, high  95 % interval of the realized rate (Clopper and Pearson 1934)
    """

    trait: str
    summary: Summary
    rate: float
    texts: int
    alarms: int
    low: float
    high: float

    @property
    def realized(self) -> float:
        return self.alarms / self.texts if self.texts else math.nan

    @property
    def outcome(self) -> Outcome:
        """Whether the realized rate is within 0.3 to 2 times the nominal one."""
        low, high = (factor * self.rate for factor in WITHIN)
        if self.low > high or self.high < low:
            return "differs"
        if self.texts * self.rate < _FEWEST_ALARMS:
            return "too few texts"
        return "holds" if low <= self.realized <= high else "differs"


def realized_rates(thresholds: Thresholds, texts: Iterable[Sequence[float]]) -> list[RealizedRate]:
    """The realized rate of each way to sum up and each rate that has thresholds.

    Args:
        thresholds: Of one trait.
        texts: The projections of the tokens of each text. Each is compared at its own length.
    """
    from scipy.stats import binomtest

    scores = [list(one) for one in texts]
    found = []
    for summary in dict.fromkeys(point.summary for point in thresholds.points):
        sums = [(summary(one), len(one)) for one in scores]
        own = (point.rate for point in thresholds.points if point.summary == summary)
        for rate in dict.fromkeys(own):
            bound = thresholds.bound(summary, rate)
            alarms = sum(value > bound(tokens) for value, tokens in sums)
            low, high = 0.0, 1.0
            if sums:
                interval = binomtest(alarms, len(sums)).proportion_ci(LEVEL)
                low, high = float(interval.low), float(interval.high)
            found.append(
                RealizedRate(thresholds.trait, summary, rate, len(sums), alarms, low, high)
            )
    return found
