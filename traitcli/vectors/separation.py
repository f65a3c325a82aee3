"""Measures how well held-out scores separate the polarities, with standard errors and intervals.

Each pair is a fold of its own (see held_out.py), and its statistic is computed on the fold alone.
The answers to one question are not independent, and neither are the answers under one pair, so
there are two standard errors:

                 question 0   question 1   question 2
    pair 0          + −          + −          + −      ->  AUROC of pair 0  ┐ value: mean
    pair 1          + −          + −          + −      ->  AUROC of pair 1  ├ error over pairs:
    pair 2          + −          + −          + −      ->  AUROC of pair 2  ┘   std / √pairs
                     │            │            │
                   sum of       sum of       sum of        error over questions:
                  influences   influences   influences       √(sum of their squares)

The influence of a rollout is how much it moves the mean of the pairs. The larger error counts: a
new experiment would have other questions and other pairs. docs/design/0022-intervals.md has the
reasons.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from traitcli.vectors.held_out import HeldOutScores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]
    FoldStatistic = Callable[[Doubles, Doubles], tuple[float, Doubles, Doubles]]

LEVEL = 0.95
"""Share of intervals that should contain the true value."""
_EDGE = 1e-9
"""Keeps the root search of an interval inside (0, 1), where the variance formula is defined."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The mean of a statistic over the held-out pairs, and its uncertainty.

    value               the mean
    by_pair             float64 [F], the statistic of each pair
    influence           float64 [n], how much each rollout moves the mean (infinitesimal jackknife)
    error               standard error over questions or over pairs, whichever is larger; infinite
                        with one question and one pair
    degrees_of_freedom  of that error
    """

    value: float
    by_pair: Doubles
    influence: Doubles
    error: float
    degrees_of_freedom: int

    def minus(self, other: Measured, held_out: HeldOutScores) -> Measured:
        """The difference of two statistics of the same rollouts.

        Influences are subtracted before they are squared, so what both statistics share cancels.
        """
        by_pair = self.by_pair - other.by_pair
        return _with_error(by_pair, self.influence - other.influence, held_out)

    def interval(self) -> tuple[float, float]:
        """Symmetric, by Student's t."""
        half_width = _t_quantile(self.degrees_of_freedom) * self.error
        return self.value - half_width, self.value + half_width


def auroc(scores: Floats, positive: NDArray[np.bool_]) -> float:
    """Probability that a positive scores higher than a negative; ties count half."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(positive, scores))


def measure_auroc(held_out: HeldOutScores, column: int) -> Measured:
    """The AUROC of one column of scores (a layer), averaged over the pairs.

    Positives are compared with negatives of the same pair. Sources: DeLong et al. (1988) for the
    influences, Obuchowski (1997) for clusters.
    """
    return _over_pairs(held_out, column, _fold_auroc)


def measure_d(held_out: HeldOutScores, column: int) -> Measured:
    """Cohen's d of one column of scores (a layer), averaged over the pairs.

    d is (mean+ − mean−) / pooled standard deviation. It is 0 for a pair without any spread, and
    for a pair with a single rollout of a polarity.
    """
    return _over_pairs(held_out, column, _fold_d)


def auroc_interval(measured: Measured, held_out: HeldOutScores) -> tuple[float, float]:
    """The interval of an AUROC: inside [0, 1], and with a width even when every pair is in order.

    A bound is the value whose own standard error just reaches the measured value (Newcombe 2006,
    method 5). That error follows from the formula of Hanley and McNeil (1982), for the number of
    independent rollouts that would have the measured error.
    """
    from scipy.optimize import brentq

    value, quantile = measured.value, _t_quantile(measured.degrees_of_freedom)
    count = _independent_rollouts(measured, held_out)

    def excess(bound: float) -> float:
        """Positive where the bound is too far from the value to be compatible with it."""
        return (value - bound) ** 2 - quantile**2 * _hanley_mcneil(bound, count)

    just_below, just_above = max(value - _EDGE, _EDGE), min(value + _EDGE, 1 - _EDGE)
    low, high = 0.0, 1.0
    # without a change of sign there is no root, and the bound is 0 or 1
    if excess(_EDGE) > 0 > excess(just_below):
        low = float(brentq(excess, _EDGE, just_below))
    if excess(1 - _EDGE) > 0 > excess(just_above):
        high = float(brentq(excess, just_above, 1 - _EDGE))
    return low, high


def _fold_auroc(positive: Doubles, negative: Doubles) -> tuple[float, Doubles, Doubles]:
    """AUROC of a pair and the influence of its rollouts.

    The influence of a rollout is its placement: the share of the other polarity that it outranks.
    """
    positive_placements = _placements(positive, negative)
    negative_placements = 1 - _placements(negative, positive)
    value = float(positive_placements.mean())
    return (
        value,
        (positive_placements - value) / len(positive),
        (negative_placements - value) / len(negative),
    )


def _fold_d(positive: Doubles, negative: Doubles) -> tuple[float, Doubles, Doubles]:
    """Cohen's d of a pair and the influence of its rollouts, by the delta method."""
    total = len(positive) + len(negative)
    centered_positive = positive - positive.mean()
    centered_negative = negative - negative.mean()
    squares = float((centered_positive**2).sum()) + float((centered_negative**2).sum())
    spread = math.sqrt(squares / (total - 2)) if total > 2 else 0.0
    # one pair that cannot be measured must not make the mean over all pairs infinite
    if spread == 0 or min(len(positive), len(negative)) < 2:
        return 0.0, np.zeros(len(positive)), np.zeros(len(negative))

    value = float((positive.mean() - negative.mean()) / spread)
    # a rollout moves d through the mean of its polarity, and through the pooled spread
    through_spread = [
        value * ((centered / spread) ** 2 - 1) / (2 * total)
        for centered in (centered_positive, centered_negative)
    ]
    return (
        value,
        centered_positive / spread / len(positive) - through_spread[0],
        -centered_negative / spread / len(negative) - through_spread[1],
    )


def _over_pairs(held_out: HeldOutScores, column: int, statistic: FoldStatistic) -> Measured:
    """Apply a statistic to every pair, and average."""
    folds = list(held_out.folds())
    by_pair = np.zeros(len(folds))
    influence = np.zeros(len(held_out.positive))
    for number, fold in enumerate(folds):
        positive = fold[held_out.positive[fold]]
        negative = fold[~held_out.positive[fold]]
        by_pair[number], influence[positive], influence[negative] = statistic(
            held_out.scores[positive, column].astype(np.float64),
            held_out.scores[negative, column].astype(np.float64),
        )
    # the value is a mean over F pairs, so a rollout moves it by 1/F of what it moves its pair
    return _with_error(by_pair, influence / len(folds), held_out)


def _with_error(by_pair: Doubles, influence: Doubles, held_out: HeldOutScores) -> Measured:
    """The mean over pairs with the larger of its two errors: over questions, and over pairs."""
    _, question = np.unique(held_out.question, return_inverse=True)
    by_question = np.bincount(question, weights=influence)
    questions, pairs = len(by_question), len(by_pair)

    candidates = []  # variance, degrees of freedom
    if questions > 1:
        # the factor corrects for few questions, as n − 1 does in a variance
        variance = float((by_question**2).sum()) * questions / (questions - 1)
        candidates.append((variance, questions - 1))
    if pairs > 1:
        candidates.append((float(by_pair.var(ddof=1)) / pairs, pairs - 1))
    variance, degrees = max(candidates, key=lambda each: each[0], default=(math.inf, 1))

    # no variance at all (every pair in order) does not say which of the two errors would be larger
    if variance == 0:
        degrees = len(influence) - 1
    return Measured(float(by_pair.mean()), by_pair, influence, math.sqrt(variance), degrees)


def _placements(scores: Doubles, others: Doubles) -> Doubles:
    """The share of `others` below each score; ties count half."""
    ordered = np.sort(others)
    below = np.searchsorted(ordered, scores, "left")
    up_to = np.searchsorted(ordered, scores, "right")
    shares: Doubles = (below + up_to) / (2 * len(ordered))
    return shares


def _t_quantile(degrees_of_freedom: int) -> float:
    """Half-width of an interval of the level, in standard errors."""
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, degrees_of_freedom))


def _hanley_mcneil(value: float, count: float) -> float:
    """Variance of an AUROC of `count` independent rollouts of each polarity."""
    two_positives = value / (2 - value)
    two_negatives = 2 * value**2 / (1 + value)
    pairs = (count - 1) * (two_positives + two_negatives - 2 * value**2)
    return float(value * (1 - value) + pairs) / count**2


def _independent_rollouts(measured: Measured, held_out: HeldOutScores) -> float:
    """How many independent rollouts of each polarity would have the measured error.

    At least 2, and at most the number there are. When every pair is in order, the error is 0
    and says nothing; then the number of questions is returned.
    """
    from scipy.optimize import brentq

    # the rarer polarity limits: the formula assumes as many negatives as positives
    positives = int(held_out.positive.sum())
    most = max(2.0, float(min(positives, len(held_out.positive) - positives)))
    variance = measured.error**2
    if variance == 0 or not 0 < measured.value < 1:
        return min(most, max(2.0, len(np.unique(held_out.question))))

    def excess(count: float) -> float:
        return _hanley_mcneil(measured.value, count) - variance

    if excess(2.0) <= 0:
        return 2.0
    return most if excess(most) >= 0 else float(brentq(excess, 2.0, most))
