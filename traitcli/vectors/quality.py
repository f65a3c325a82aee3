"""How well a direction separates what it has not seen; pure functions on arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from traitcli.vectors.methods import Method, project

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

GOOD, WEAK = 0.8, 0.65
"""Held-out AUROC from which a vector is called good, and weak."""
GOOD_CONTRAST = 40.0


@dataclass(frozen=True, slots=True)
class Labelled:
    """Activations with what their instruction was.

    activations  float32 [n, L+1, H]
    positive     bool [n]
    pair         int [n], index of the contrast pair that made each
    """

    activations: Floats
    positive: NDArray[np.bool_]
    pair: NDArray[np.int64]

    def of_pair(self, pair: int, there: bool) -> Labelled:
        """The rollouts of one pair, or (there=False) those of all others."""
        chosen = (self.pair == pair) == there
        return Labelled(self.activations[chosen], self.positive[chosen], self.pair[chosen])

    def two_sided(self) -> bool:
        return bool(self.positive.any() and not self.positive.all())


@dataclass(frozen=True, slots=True)
class Separation:
    """How far apart the classes lie, row by row: float [L+1] each, means over the folds.

    auroc  probability that a positive projects higher than a negative; 0.5 is chance
    d      Cohen's d: difference of the means in pooled standard deviations
    """

    auroc: Floats
    d: Floats
    rollouts: int


def auroc(scores: Floats, positive: NDArray[np.bool_]) -> float:
    """Probability that a positive scores higher than a negative, ties half; needs both classes."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(positive, scores))


def cohens_d(scores: Floats, positive: NDArray[np.bool_]) -> float:
    """(mean+ − mean−) / pooled standard deviation; 0 where that is 0 or a class has one member."""
    up, down = scores[positive], scores[~positive]
    if len(up) < 2 or len(down) < 2:
        return 0.0
    spread = ((len(up) - 1) * up.var(ddof=1) + (len(down) - 1) * down.var(ddof=1)) / (len(up) + len(down) - 2)
    return float((up.mean() - down.mean()) / np.sqrt(spread)) if spread > 0 else 0.0


def leave_one_pair_out(build: Labelled, test: Labelled, method: Method) -> Separation | None:
    """Separation of each pair's `test` rollouts by the vector built from the other pairs' `build` ones.

    None when no pair can be left out with both classes on either side.
    """
    folds = [(project(held.activations, direction), held.positive) for direction, held in _folds(build, test, method)]
    if not folds:
        return None
    rows = range(test.activations.shape[1])
    return Separation(
        auroc=np.array([np.mean([auroc(p[:, row], y) for p, y in folds]) for row in rows], dtype=np.float32),
        d=np.array([np.mean([cohens_d(p[:, row], y) for p, y in folds]) for row in rows], dtype=np.float32),
        rollouts=sum(len(y) for _, y in folds),
    )


def choose_row(separation: Separation | None, rows: int) -> int:
    """The row between 25 % and 75 % of depth with the best AUROC, the larger d where they tie.

    Without a separation to go by: the middle.
    """
    blocks = rows - 1
    inside = range(math.ceil(blocks * 0.25), math.floor(blocks * 0.75) + 1)
    if separation is None or not inside:
        return blocks // 2 or 1
    return max(inside, key=lambda row: (round(float(separation.auroc[row]), 3), float(separation.d[row])))


def verdict(held_out: float | None, contrast: float | None, judge_trusted: bool) -> tuple[str, str]:
    """good, weak or unusable, with the reason in words."""
    if held_out is None:
        return "weak", "no held-out rollouts: nothing shows that it separates what it has not seen"
    if held_out < WEAK:
        return "unusable", f"held-out AUROC {held_out:.2f}: near chance on questions and pairs it has not seen"
    if not judge_trusted:
        return "weak", "the judge cannot tell the polarities apart, so nothing was filtered"
    if held_out < GOOD:
        return "weak", f"held-out AUROC {held_out:g} is below {GOOD}"
    if contrast is not None and contrast < GOOD_CONTRAST:
        seen = f"contrast {math.floor(contrast)} is below {GOOD_CONTRAST:.0f}"
        return "weak", f"{seen}: the judge sees little of the trait"
    return "good", f"held-out AUROC {held_out:.2f}"


def _folds(build: Labelled, test: Labelled, method: Method) -> Iterator[tuple[Floats, Labelled]]:
    for pair in sorted(set(test.pair.tolist())):
        others, held = build.of_pair(pair, there=False), test.of_pair(pair, there=True)
        if others.two_sided() and held.two_sided():
            yield method(others.activations[others.positive], others.activations[~others.positive]), held
