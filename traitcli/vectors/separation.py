"""How well a direction separates what it has not seen, and how sure that is; pure functions on arrays."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from traitcli.vectors.methods import Method, project

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Doubles = NDArray[np.float64]
    Influences = tuple[float, Doubles, Doubles]

LEVEL = 0.95
"""How often an interval is to hold the truth."""
_EDGE = 1e-9


@dataclass(frozen=True, slots=True)
class Labelled:
    """Activations with what their instruction was, and what else may tell the sides apart.

    activations  float32 [n, L+1, H]
    positive     bool [n]
    pair         int [n], index of the contrast pair that made each
    question     int [n], index of the question that it answers
    length       int [n], tokens of the response
    """

    activations: Floats
    positive: NDArray[np.bool_]
    pair: NDArray[np.int64]
    question: NDArray[np.int64]
    length: NDArray[np.int64]

    def where(self, chosen: NDArray[np.bool_]) -> Labelled:
        """Some of the rollouts."""
        return Labelled(
            self.activations[chosen],
            self.positive[chosen],
            self.pair[chosen],
            self.question[chosen],
            self.length[chosen],
        )

    def at(self, row: int) -> Labelled:
        """The same rollouts at one row: activations [n, 1, H]."""
        return self.relabelled(self.positive, self.activations[:, row : row + 1])

    def relabelled(
        self, positive: NDArray[np.bool_], activations: Floats | None = None
    ) -> Labelled:
        """The same rollouts with other labels, and with other activations if they are given."""
        states = self.activations if activations is None else activations
        return Labelled(states, positive, self.pair, self.question, self.length)

    def two_sided(self) -> bool:
        return bool(self.positive.any() and not self.positive.all())

    def direction(self, method: Method) -> Floats:
        """float32 [L+1, H] that a method finds in them."""
        return method(self.activations[self.positive], self.activations[~self.positive])


@dataclass(frozen=True, slots=True)
class HeldOutScores:
    """Left-out rollouts as R scores see them, each made without their pair: one fold for every pair.

    scores    float32 [n, R]; of a vector, R is L+1 and the unit that of activations
    positive  bool [n]
    pair      int [n]
    question  int [n]
    """

    scores: Floats
    positive: NDArray[np.bool_]
    pair: NDArray[np.int64]
    question: NDArray[np.int64]

    def folds(self) -> Iterator[NDArray[np.int64]]:
        """The places of each pair's rollouts."""
        for pair in np.unique(self.pair):
            yield np.flatnonzero(self.pair == pair)


@dataclass(frozen=True, slots=True)
class Measured:
    """A statistic's mean over the left-out pairs, and how far it may be from what other rollouts would give.

    value      the mean
    folds      float64 [F], of each pair
    influence  float64 [n], how much each rollout adds to the error of the mean (infinitesimal jackknife)
    error      standard error: over questions or over pairs, whichever is larger; infinite with one of each
    freedom    degrees of freedom of that error
    """

    value: float
    folds: Doubles
    influence: Doubles
    error: float
    freedom: int

    def minus(self, other: Measured, held: HeldOutScores) -> Measured:
        """The difference of two statistics of the same rollouts."""
        return _measured(self.folds - other.folds, self.influence - other.influence, held)

    def interval(self) -> tuple[float, float]:
        """Symmetric, by Student's t."""
        reach = _student(self.freedom) * self.error
        return self.value - reach, self.value + reach


def auroc(scores: Floats, positive: NDArray[np.bool_]) -> float:
    """Probability that a positive scores higher than a negative, ties half; needs both classes."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(positive, scores))


def leave_one_pair_out(build: Labelled, test: Labelled, method: Method) -> HeldOutScores | None:
    """Project each pair's `test` rollouts on the vector built from the other pairs' `build` ones, at every row.

    None when no pair can be left out with both classes on either side.
    """
    return project_left_out(left_out_directions(build, test.pair, method), test)


def left_out_directions(
    build: Labelled, pairs: NDArray[np.int64], method: Method
) -> dict[int, Floats]:
    """Pair -> float32 [L+1, H] built from the rollouts of all others; without pairs that leave one class only."""
    made = {}
    for pair in np.unique(pairs):
        others = build.where(
            build.pair != pair
        )  # a copy, of gigabytes where models are large: one at a time
        if others.two_sided():
            made[int(pair)] = others.direction(method)
    return made


def project_left_out(directions: Mapping[int, Floats], test: Labelled) -> HeldOutScores | None:
    """Project each pair's rollouts on the direction that was built without it; see `leave_one_pair_out`."""
    return _score_folds(
        test, directions, lambda direction, held: project(held.activations, direction)
    )


def length_only(build: Labelled, test: Labelled) -> HeldOutScores | None:
    """The same folds, scored by the length of the response alone; the other pairs tell which way: R is 1."""
    ways = {}
    for pair in np.unique(test.pair):
        others = build.where(build.pair != pair)
        if others.two_sided():
            longer = others.length[others.positive].mean() >= others.length[~others.positive].mean()
            ways[int(pair)] = 1 if longer else -1
    return _score_folds(
        test, ways, lambda way, held: (way * held.length).astype(np.float32)[:, None]
    )


def measure_auroc(held: HeldOutScores, row: int) -> Measured:
    """Mean over the pairs of the probability that a positive scores higher than a negative of the same pair.

    The influence of a rollout is its placement among the other class. Source: DeLong et al. (1988); by clusters,
    Obuchowski (1997).
    """

    def of(up: Doubles, down: Doubles) -> Influences:
        above, below = _placements(up, down), 1 - _placements(down, up)
        value = float(above.mean())
        return value, (above - value) / len(up), (below - value) / len(down)

    return _over_folds(held, row, of)


def measure_d(held: HeldOutScores, row: int) -> Measured:
    """Mean over the pairs of Cohen's d: (mean+ − mean−) / pooled standard deviation.

    0 where that is 0 or a class has one member. Influences by the delta method.
    """

    def of(up: Doubles, down: Doubles) -> Influences:
        free = len(up) + len(down) - 2
        centred = up - up.mean(), down - down.mean()
        spread = (
            math.sqrt(sum(float((side**2).sum()) for side in centred) / free) if free > 0 else 0.0
        )
        if spread == 0 or min(len(up), len(down)) < 2:
            return 0.0, np.zeros(len(up)), np.zeros(len(down))
        value = float((up.mean() - down.mean()) / spread)
        wide = [
            value * ((side / spread) ** 2 - 1) / (2 * (len(up) + len(down))) for side in centred
        ]
        return (
            value,
            centred[0] / spread / len(up) - wide[0],
            -centred[1] / spread / len(down) - wide[1],
        )

    return _over_folds(held, row, of)


def auroc_interval(measured: Measured, held: HeldOutScores) -> tuple[float, float]:
    """The interval of an AUROC: never beyond 0 and 1, and of some width when all pairs were in order.

    The bounds are those values whose own error would just reach what was found (Newcombe 2006, method 5), with the
    formula of Hanley and McNeil (1982) for as many independent rollouts as explain the error that was measured.
    """
    from scipy.optimize import brentq

    value, reach = measured.value, _student(measured.freedom)
    count = _independent(measured, held)

    def beyond(bound: float) -> float:
        return (value - bound) ** 2 - reach**2 * _hanley_mcneil(bound, count)

    inside_low, inside_high = max(value - _EDGE, _EDGE), min(value + _EDGE, 1 - _EDGE)
    low = brentq(beyond, _EDGE, inside_low) if beyond(_EDGE) > 0 > beyond(inside_low) else 0.0
    high = (
        brentq(beyond, inside_high, 1 - _EDGE)
        if beyond(1 - _EDGE) > 0 > beyond(inside_high)
        else 1.0
    )
    return float(low), float(high)


def _score_folds(
    test: Labelled, made: Mapping[int, Any], score: Callable[[Any, Labelled], Floats]
) -> HeldOutScores | None:
    """Score each pair's rollouts by what was `made` without it."""
    found = []
    for pair, without in made.items():
        held = test.where(test.pair == pair)
        if held.two_sided():
            found.append(
                HeldOutScores(score(without, held), held.positive, held.pair, held.question)
            )
    if not found:
        return None
    parts = (
        [getattr(fold, name) for fold in found]
        for name in ("scores", "positive", "pair", "question")
    )
    return HeldOutScores(*map(np.concatenate, parts))


def _over_folds(
    held: HeldOutScores, row: int, statistic: Callable[[Doubles, Doubles], Influences]
) -> Measured:
    """Apply a statistic of two classes, with the influence of each of their members, to every pair."""
    folds = list(held.folds())
    values = np.zeros(len(folds))
    influence = np.zeros(len(held.positive))
    for number, places in enumerate(folds):
        up, down = places[held.positive[places]], places[~held.positive[places]]
        sides = (held.scores[side, row].astype(np.float64) for side in (up, down))
        values[number], influence[up], influence[down] = statistic(*sides)
    return _measured(values, influence / len(folds), held)


def _measured(folds: Doubles, influence: Doubles, held: HeldOutScores) -> Measured:
    """The error is the larger of two: that of other questions to the same pairs, that of other pairs."""
    _, cluster = np.unique(held.question, return_inverse=True)
    of_question = np.bincount(cluster, weights=influence)
    questions, pairs = len(of_question), len(folds)
    variances = {}
    if questions > 1:
        variances[questions - 1] = float((of_question**2).sum()) * questions / (questions - 1)
    if pairs > 1:
        variances[pairs - 1] = max(float(folds.var(ddof=1)) / pairs, variances.get(pairs - 1, 0.0))
    free, variance = max(variances.items(), key=lambda item: item[1], default=(1, math.inf))
    free = (
        free if variance else len(influence) - 1
    )  # what did not vary at all tells nothing of how it varies
    return Measured(float(folds.mean()), folds, influence, math.sqrt(variance), free)


def _placements(scores: Doubles, others: Doubles) -> Doubles:
    """The share of `others` below each score, ties half."""
    ordered = np.sort(others)
    below, up_to = (np.searchsorted(ordered, scores, side) for side in ("left", "right"))
    shares: Doubles = (below + up_to) / (2 * len(ordered))
    return shares


def _student(freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, freedom))


def _hanley_mcneil(value: float, count: float) -> float:
    """Variance of an AUROC of `count` independent rollouts a side."""
    one, two = value / (2 - value), 2 * value**2 / (1 + value)
    return float(value * (1 - value) + (count - 1) * (one + two - 2 * value**2)) / count**2


def _independent(measured: Measured, held: HeldOutScores) -> float:
    """Independent rollouts a side, from 2 to all there are, that would have the error which was measured.

    Where all pairs are in order nothing was measured: then as many as there are questions.
    """
    from scipy.optimize import brentq

    most = max(2.0, float(min(held.positive.sum(), (~held.positive).sum())))
    variance = measured.error**2
    if variance == 0 or not 0 < measured.value < 1:
        return min(most, max(2.0, len(np.unique(held.question))))

    def over(count: float) -> float:
        return _hanley_mcneil(measured.value, count) - variance

    if over(2.0) <= 0:
        return 2.0
    return most if over(most) >= 0 else float(brentq(over, 2.0, most))
