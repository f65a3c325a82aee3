"""Scores held-out rollouts by directions that were built without their contrast pair.

A direction separates the rollouts it was built from almost always, so only rollouts that it has not
seen count. Both the instructions (pairs) and the questions of the test are unseen:

                    pair 0     pair 1     pair 2
    build rollouts    b0         b1         b2       kept answers to extraction questions
    test rollouts     t0         t1         t2       answers to evaluation questions

    fold 0: the direction of b1 + b2  scores t0
    fold 1: the direction of b0 + b2  scores t1
    fold 2: the direction of b0 + b1  scores t2

The scores of all folds together are `HeldOutScores`. separation.py turns them into an AUROC,
Cohen's d, and intervals. Scores are compared within a fold only: each fold has another direction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from traitcli.vectors.methods import Method, project

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class LabelledActivations:
    """Activations of n rollouts, with their labels and with what else may tell the labels apart.

    activations  float32 [n, L+1, H]
    positive     bool [n], whether the instruction was positive
    pair         int [n], index of the contrast pair of the instruction
    question     int [n], index of the question that the rollout answers
    length       int [n], tokens of the response
    """

    activations: Floats
    positive: NDArray[np.bool_]
    pair: NDArray[np.int64]
    question: NDArray[np.int64]
    length: NDArray[np.int64]

    def select(self, mask: NDArray[np.bool_]) -> LabelledActivations:
        """The rollouts where the mask is true. The activations are copied."""
        return LabelledActivations(
            self.activations[mask],
            self.positive[mask],
            self.pair[mask],
            self.question[mask],
            self.length[mask],
        )

    def at_layer(self, layer: int) -> LabelledActivations:
        """The same rollouts at one layer: activations [n, 1, H], a view."""
        return self.at_layers(slice(layer, layer + 1))

    def at_layers(self, layers: slice) -> LabelledActivations:
        return replace(self, activations=self.activations[:, layers])

    def with_labels(self, positive: NDArray[np.bool_]) -> LabelledActivations:
        return replace(self, positive=positive)

    def has_both_polarities(self) -> bool:
        return _has_both(self.positive)

    def direction(self, method: Method, among: NDArray[np.bool_] | None = None) -> Floats:
        """float32 [L+1, H], computed from all rollouts, or from those where the mask is true."""
        used = np.ones(len(self.positive), dtype=bool) if among is None else among
        up, down = used & self.positive, used & ~self.positive
        # Layer by layer: a copy of all layers of a large model takes gigabytes.
        layers = [self.at_layer(layer).activations for layer in range(self.activations.shape[1])]
        return np.concatenate([method(one[up], one[down]) for one in layers])


@dataclass(frozen=True, slots=True)
class HeldOutScores:
    """R scores of each of n test rollouts, each computed without the rollout's pair.

    scores    float32 [n, R]; for a vector R is L+1, and the unit is that of activations
    positive  bool [n]
    pair      int [n]
    question  int [n]
    """

    scores: Floats
    positive: NDArray[np.bool_]
    pair: NDArray[np.int64]
    question: NDArray[np.int64]

    def folds(self) -> Iterator[NDArray[np.int64]]:
        """The indices of each pair's rollouts, pair by pair."""
        for pair in np.unique(self.pair):
            yield np.flatnonzero(self.pair == pair)


def _has_both(positive: NDArray[np.bool_]) -> bool:
    return bool(positive.any() and not positive.all())


def leave_one_pair_out(
    build: LabelledActivations, test: LabelledActivations, method: Method
) -> HeldOutScores | None:
    """Project each pair's test rollouts on the direction of the other pairs' build rollouts.

    Every layer is projected. Returns None when no pair can be held out: that needs both polarities
    among its test rollouts, and among the other pairs' build rollouts.
    """
    # the pairs of the test, not of the build: a pair without test rollouts has nothing to score
    return project_left_out(left_out_directions(build, test.pair, method), test)


def left_out_directions(
    build: LabelledActivations, pairs: NDArray[np.int64], method: Method
) -> dict[int, Floats]:
    """Pair -> float32 [L+1, H], the direction of the build rollouts of all other pairs.

    A pair is missing when the other pairs' rollouts have one polarity only.
    """
    directions = {}
    for pair in np.unique(pairs):
        others = build.pair != pair
        if _has_both(build.positive[others]):
            directions[int(pair)] = build.direction(method, others)
    return directions


def project_left_out(
    directions: Mapping[int, Floats], test: LabelledActivations
) -> HeldOutScores | None:
    """Project each pair's rollouts on the direction that was built without the pair."""

    def score(direction: Floats, fold: LabelledActivations) -> Floats:
        return project(fold.activations, direction)

    return _score_folds(test, directions, score)


def score_by_length(build: LabelledActivations, test: LabelledActivations) -> HeldOutScores | None:
    """Score the same folds by the length of the response alone; R is 1.

    The other pairs decide whether long or short responses count as positive.
    """
    signs = {}
    for pair in np.unique(test.pair):
        # the labels and lengths alone: activations would be copied
        others = build.pair != pair
        lengths, polarities = build.length[others], build.positive[others]
        if _has_both(polarities):
            # not the sign of the fold itself: it would favor length even where length means nothing
            positive, negative = lengths[polarities].mean(), lengths[~polarities].mean()
            signs[int(pair)] = 1 if positive >= negative else -1

    def score(sign: int, fold: LabelledActivations) -> Floats:
        return (sign * fold.length).astype(np.float32)[:, None]

    return _score_folds(test, signs, score)


def _score_folds(
    test: LabelledActivations,
    made_without: Mapping[int, Any],
    score: Callable[[Any, LabelledActivations], Floats],
) -> HeldOutScores | None:
    """Apply `score` to each pair's rollouts and to what was made without the pair."""
    folds = []
    for pair, made in made_without.items():
        fold = test.select(test.pair == pair)
        # without one polarity the fold has no AUROC; the other folds still count
        if fold.has_both_polarities():
            of_fold = score(made, fold)
            folds.append(HeldOutScores(of_fold, fold.positive, fold.pair, fold.question))
    if not folds:
        return None

    scores = np.concatenate([fold.scores for fold in folds])
    positive = np.concatenate([fold.positive for fold in folds])
    pairs = np.concatenate([fold.pair for fold in folds])
    questions = np.concatenate([fold.question for fold in folds])
    return HeldOutScores(scores, positive, pairs, questions)
