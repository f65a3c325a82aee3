"""Measures how well scores separate labelled answers, with intervals over their prompts."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from traitcli.vectors.separation import LEVEL

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Doubles = NDArray[np.float64]
    Bools = NDArray[np.bool_]

DRAWS = 1000
"""Of the bootstrap."""
_SEED = 0
_NUMBERS_AT_ONCE = 2**22
"""Of an array [draws, n]. More draws than fit are taken in parts."""


class Interval(NamedTuple):
    """A value with its 95 % interval; NaN where no draw could be measured."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Resampled:
    """The AUROC of some scores on n texts, and on draws of their prompts.

    auroc  of the texts
    draws  float64 [DRAWS], NaN for a draw without both labels
    """

    auroc: float
    draws: Doubles

    def interval(self) -> Interval:
        """The AUROC with its percentile interval (Efron and Tibshirani 1993, 13)."""
        return _interval(self.auroc, self.draws)

    def lead(self, other: Resampled, *, either_way: bool = False) -> Interval:
        """How much more than another AUROC of the same texts; the draws are the same for both.

        `either_way`: the other one counts in the direction in which it separates these texts.
        """
        turned = either_way and other.auroc < 0.5
        value, draws = (1 - other.auroc, 1 - other.draws) if turned else (other.auroc, other.draws)
        return _interval(self.auroc - value, self.draws - draws)


def resample(
    scores: Mapping[str, Doubles], positive: Bools, prompts: Sequence[Hashable]
) -> dict[str, Resampled]:
    """The AUROC of each kind of score, on the texts and on draws of prompts with replacement.

    All answers to a prompt are drawn together, because they are not independent (Field and Welsh
    2007). Every kind has the same draws, so that two of them can be compared.

    Args:
        scores: Kind -> one finite number for each text, float64 [n].
        positive: Which texts show the trait, bool [n]; some do and some do not.
        prompts: What each text answers, n values.
    """
    numbers: dict[Hashable, int] = {}
    cluster = np.array([numbers.setdefault(one, len(numbers)) for one in prompts])
    rng = np.random.default_rng(_SEED)
    once = np.ones((1, len(cluster)))
    draws: dict[str, list[Doubles]] = {kind: [] for kind in scores}
    step = max(1, _NUMBERS_AT_ONCE // len(cluster))
    for start in range(0, DRAWS, step):
        count = min(step, DRAWS - start)
        weights = _draw(rng, count, len(numbers))[:, cluster]
        for kind, values in scores.items():
            draws[kind].append(weighted_auroc(values, positive, weights))
    if len(numbers) == 1:
        # Every draw is the same: it says nothing about other prompts.
        draws = {kind: [np.full(DRAWS, math.nan)] for kind in scores}
    return {
        kind: Resampled(
            float(weighted_auroc(values, positive, once)[0]), np.concatenate(draws[kind])
        )
        for kind, values in scores.items()
    }


def _draw(rng: np.random.Generator, draws: int, clusters: int) -> Doubles:
    """How often each cluster is drawn, float64 [draws, clusters]."""
    chosen = rng.integers(clusters, size=(draws, clusters))
    chosen += np.arange(draws)[:, None] * clusters
    counts = np.bincount(chosen.ravel(), minlength=draws * clusters)
    return counts.reshape(draws, clusters).astype(np.float64)


def weighted_auroc(scores: Doubles, positive: Bools, weights: Doubles) -> Doubles:
    """AUROC of texts that count several times, float64 [draws]; ties count half.

    Args:
        scores: float64 [n].
        positive: bool [n].
        weights: How often each text counts, float64 [draws, n].
    """
    own, others = scores[positive], scores[~positive]
    order = np.argsort(others, kind="stable")
    ordered = others[order]
    below = np.zeros((len(weights), len(others) + 1))
    np.cumsum(weights[:, ~positive][:, order], axis=1, out=below[:, 1:])
    outranked = (
        below[:, np.searchsorted(ordered, own, "left")]
        + below[:, np.searchsorted(ordered, own, "right")]
    ) / 2
    own_weights = weights[:, positive]
    pairs = own_weights.sum(1) * below[:, -1]
    won: Doubles = (own_weights * outranked).sum(1)
    # A draw may hold one label only.
    found: Doubles = np.full(len(weights), math.nan)
    np.divide(won, pairs, out=found, where=pairs > 0)
    return found


def true_positive_rate(scores: Doubles, positive: Bools, rate: float) -> float | None:
    """Share of positives above the threshold that at most `rate` of the negatives exceed.

    None when there are fewer than 1 / `rate` negatives: then no negative may exceed it.
    """
    negatives = np.sort(scores[~positive])[::-1]
    # Not below a whole number because of rounding: 0.05 · 20 is 1.
    allowed = math.floor(rate * len(negatives) + 1e-9)
    if allowed < 1:
        return None
    return float((scores[positive] > negatives[allowed]).mean())


def _interval(value: float, draws: Doubles) -> Interval:
    known = draws[np.isfinite(draws)]
    if not len(known):
        return Interval(value, math.nan, math.nan)
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))
