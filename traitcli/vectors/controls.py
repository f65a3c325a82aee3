"""What else may be behind a vector that separates: chance, length, words, too few rollouts, single dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from traitcli.vectors.methods import Method
from traitcli.vectors.separation import Labelled, leave_one_pair_out, measure_auroc

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

SHUFFLES = 100
"""Of the labels; the smallest p that can be found is 1 / (SHUFFLES + 1)."""
HALVINGS = 20
MASSIVE = 20.0
"""A dimension is massive when its mean size is this many times the median dimension's (Sun et al. 2024 call
activations massive that stand out by far more; means over tokens are tamer)."""


@dataclass(frozen=True, slots=True)
class Null:
    """AUROCs of vectors made from shuffled labels, tested on labels shuffled alike.

    mean    their mean, near 0.5
    top     the 95th percentile
    p       how often they reached what was found, that itself counted in
    """

    mean: float
    top: float
    p: float


def shuffled_null(
    build: Labelled, test: Labelled, method: Method, row: int, found: float
) -> Null | None:
    """Do it all again at one row with labels shuffled among the rollouts of the same pair and question.

    Labels of `build` and `test` are shuffled together with nothing else changed, so that what is left is what such
    rollouts give when the label means nothing (Ojala and Garriga 2010, test 1). None where nothing can be left out.
    """
    draw = np.random.default_rng(0)
    sides = [build.at(row), test.at(row)]
    values = []
    for _ in range(SHUFFLES):
        shuffled = [side.relabelled(_shuffled(side, draw)) for side in sides]
        held = leave_one_pair_out(shuffled[0], shuffled[1], method)
        if held is not None:
            values.append(measure_auroc(held, 0).value)
    if not values:
        return None
    reached = sum(value >= found for value in values)
    return Null(
        float(np.mean(values)), float(np.quantile(values, 0.95)), (reached + 1) / (len(values) + 1)
    )


def split_half_cosine(build: Labelled, method: Method) -> Floats | None:
    """float32 [L+1]: mean cosine of two vectors made from halves of the questions; none where there is one question.

    Halves share no question, so what only some questions bring does not count as agreement.
    """
    questions = np.unique(build.question)
    draw = np.random.default_rng(0)
    found = []
    for _ in range(HALVINGS):
        first = np.isin(build.question, draw.permutation(questions)[: len(questions) // 2])
        halves = build.where(first), build.where(~first)
        if all(half.two_sided() for half in halves):
            found.append(cosine(*(half.direction(method) for half in halves)))
    return np.mean(found, axis=0, dtype=np.float32) if found else None


def difference_cosine(positive: Floats, negative: Floats) -> Floats | None:
    """float32 [L+1]: mean cosine between positive[i] − negative[i] and every other such difference.

    The arrays must be paired. None with fewer than two pairs.
    """
    if len(positive) < 2:
        return None
    differences = positive.astype(np.float64) - negative
    units = differences / np.maximum(
        np.linalg.norm(differences, axis=2, keepdims=True), np.finfo(float).tiny
    )
    lengths = (units**2).sum((0, 2))  # n, or fewer where a difference is zero
    count = len(units)
    cosines: Floats = (((units.sum(0) ** 2).sum(1) - lengths) / (count * (count - 1))).astype(
        np.float32
    )
    return cosines


def massive_share(direction: Floats, activations: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """Of float32 [L+1, H], the share of the squared norm in massive dimensions, and their number: [L+1] each.

    Which dimensions are massive is seen in the activations [n, L+1, H].
    """
    sizes = np.abs(activations).mean(0)
    massive = sizes > MASSIVE * np.median(sizes, axis=1, keepdims=True)
    squares = direction.astype(np.float64) ** 2
    total = squares.sum(1)
    share: Floats = ((squares * massive).sum(1) / np.where(total == 0, 1, total)).astype(np.float32)
    return share, massive.sum(1)


def cosine(one: Floats, other: Floats) -> Floats:
    """float32 [L+1] of two directions [L+1, H], row by row; 0 where one is zero."""
    norms = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    found: Floats = ((one * other).sum(-1) / np.where(norms == 0, 1, norms)).astype(np.float32)
    return found


def _shuffled(rollouts: Labelled, draw: np.random.Generator) -> NDArray[np.bool_]:
    """Labels shuffled within each pair and question, so that every cell keeps as many of each."""
    labels = rollouts.positive.copy()
    order = np.lexsort((draw.random(len(labels)), rollouts.question, rollouts.pair))
    home = np.lexsort((rollouts.question, rollouts.pair))
    labels[home] = rollouts.positive[order]
    return labels
