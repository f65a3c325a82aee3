"""Checks other reasons why a vector may separate: chance, few rollouts, massive dimensions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from traitcli.vectors.held_out import LabelledActivations, leave_one_pair_out
from traitcli.vectors.methods import Method
from traitcli.vectors.separation import measure_auroc

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

SHUFFLES = 100
"""Trials with shuffled labels; the smallest possible p is 1 / (SHUFFLES + 1)."""
HALVINGS = 20
"""Random halvings of the questions; one alone gives a cosine that depends on the draw."""
MASSIVE = 20.0
"""A dimension is massive when its mean size is this many times that of the median dimension.

Sun et al. (2024) call single activations massive that exceed the median by far more; means over
tokens are smaller."""


@dataclass(frozen=True, slots=True)
class Null:
    """AUROCs of vectors that were built and tested with shuffled labels.

    mean           their mean, near 0.5
    percentile_95  their 95th percentile
    p              share of trials that reach the vector's AUROC, the vector itself counted as one
    """

    mean: float
    percentile_95: float
    p: float


def shuffled_null(
    build: LabelledActivations,
    test: LabelledActivations,
    method: Method,
    layer: int,
    auroc: float,
) -> Null | None:
    """Repeat the held-out test at one layer with labels shuffled within each pair and question.

    The labels of `build` and `test` are shuffled and nothing else changes, so the result is what
    these rollouts give when labels mean nothing. None when no pair can be held out. Source: Ojala
    and Garriga (2010), test 1.
    """
    # a fixed seed, so that the same rollouts always get the same verdict
    rng = np.random.default_rng(0)

    # one layer alone: every trial builds directions again, and other layers are not tested
    build, test = build.at_layer(layer), test.at_layer(layer)
    values = []
    for _ in range(SHUFFLES):
        shuffled_build = build.with_labels(_shuffle_labels(build, rng))
        shuffled_test = test.with_labels(_shuffle_labels(test, rng))
        held_out = leave_one_pair_out(shuffled_build, shuffled_test, method)
        if held_out is not None:
            values.append(measure_auroc(held_out, 0).value)
    if not values:
        return None
    reached = sum(value >= auroc for value in values)
    # the true labels are one of the possible shuffles, so p is never 0
    p = (reached + 1) / (len(values) + 1)
    return Null(float(np.mean(values)), float(np.quantile(values, 0.95)), p)


def split_half_cosine(build: LabelledActivations, method: Method) -> Floats | None:
    """float32 [L+1]: mean cosine of two vectors, each built from one half of the questions.

    The halves share no question, so what only some questions bring does not count as agreement.
    None when no half has both polarities, as with a single question.
    """
    questions = np.unique(build.question)
    rng = np.random.default_rng(0)
    cosines = []
    for _ in range(HALVINGS):
        first_half = rng.permutation(questions)[: len(questions) // 2]
        # by question, not by rollout: answers to one question are alike in both halves
        in_first = np.isin(build.question, first_half)
        first, second = build.select(in_first), build.select(~in_first)
        if first.has_both_polarities() and second.has_both_polarities():
            cosines.append(cosine(first.direction(method), second.direction(method)))
    return np.mean(cosines, axis=0, dtype=np.float32) if cosines else None


def difference_cosine(positive: Floats, negative: Floats) -> Floats | None:
    """float32 [L+1]: mean cosine between any two of the differences positive[i] − negative[i].

    Both arrays are float32 [n, L+1, H] and paired: the i-th rollouts are counterparts. None with
    fewer than two pairs.
    """
    if len(positive) < 2:
        return None
    differences = positive.astype(np.float64) - negative
    norms = np.linalg.norm(differences, axis=2, keepdims=True)
    units = differences / np.maximum(norms, np.finfo(float).tiny)

    # ‖Σu‖² is the sum of all n² cosines, each unit with itself included: no n × n matrix is
    # needed. A difference of zero has no unit vector, so the cosines with itself are counted, not
    # assumed n.
    with_itself = (units**2).sum((0, 2))
    all_cosines = (units.sum(0) ** 2).sum(1)
    count = len(units)
    mean: Floats = ((all_cosines - with_itself) / (count * (count - 1))).astype(np.float32)
    return mean


def massive_share(direction: Floats, activations: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """The share of a direction's squared norm in massive dimensions, and their number: [L+1] each.

    `direction` is float32 [L+1, H]; `activations`, float32 [n, L+1, H], decide which are massive.
    """
    # activations decide, not the direction: a trait may be in few dimensions that are not massive
    # layer by layer: a copy of all layers of a large model takes gigabytes
    layers = range(activations.shape[1])
    sizes = np.stack([np.abs(activations[:, layer]).mean(0) for layer in layers])
    massive = sizes > MASSIVE * np.median(sizes, axis=1, keepdims=True)
    squares = direction.astype(np.float64) ** 2
    total = squares.sum(1)
    share: Floats = ((squares * massive).sum(1) / np.where(total == 0, 1, total)).astype(np.float32)
    return share, massive.sum(1)


def cosine(one: Floats, other: Floats) -> Floats:
    """float32 [L+1]: cosines of two directions [L+1, H], layer by layer; 0 where one is zero."""
    norms = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    cosines: Floats = ((one * other).sum(-1) / np.where(norms == 0, 1, norms)).astype(np.float32)
    return cosines


def _shuffle_labels(rollouts: LabelledActivations, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Shuffle labels within each pair and question, which keeps the number of each polarity there.

    Shuffled freely, a trait whose level depends on the question would separate shuffled labels too.
    """
    labels = rollouts.positive.copy()
    # the last key is the main one: both orders list the cells alike, the second at random inside
    by_cell = np.lexsort((rollouts.question, rollouts.pair))
    shuffled_by_cell = np.lexsort((rng.random(len(labels)), rollouts.question, rollouts.pair))
    labels[by_cell] = rollouts.positive[shuffled_by_cell]
    return labels
