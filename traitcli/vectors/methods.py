"""From positive and negative activations to a direction; pure functions on arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from traitcli.records import ClassStats

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

Method = Callable[["Floats", "Floats"], "Floats"]


def mean_difference(positive: Floats, negative: Floats) -> Floats:
    """float32 [n+, L+1, H] and [n−, L+1, H] -> [L+1, H]: mean positive − mean negative, row by row.

    Source: the persona-vectors procedure (Chen et al., 2025).
    """
    difference: Floats = (positive.mean(0, dtype=np.float64) - negative.mean(0, dtype=np.float64)).astype(np.float32)
    return difference


METHODS: dict[str, Method] = {"mean_difference": mean_difference}


def project(activations: Floats, direction: Floats) -> Floats:
    """(h · v) / ‖v‖ at every row: [n, L+1, H] and [L+1, H] -> float32 [n, L+1], activation units.

    A row whose direction is zero projects to 0.
    """
    norms = np.linalg.norm(direction, axis=1)
    dots = np.einsum("nrh,rh->nr", activations, direction)
    projections: Floats = (dots / np.where(norms == 0, 1, norms)).astype(np.float32)
    return projections


def class_stats(positive: Floats, negative: Floats, direction: Floats) -> ClassStats:
    """Means and standard deviations of both classes' projections, [L+1] each."""
    up, down = project(positive, direction), project(negative, direction)
    return ClassStats(up.mean(0), down.mean(0), up.std(0), down.std(0))


def calibrate(projection: Floats | float, stats: ClassStats, row: int) -> Floats | float:
    """Centre and scale a projection at `row`: −1 is the negative class's mean, +1 the positive's.

    0 where the classes do not differ, as at row 0 of prompt_last: every prompt ends with the same token.
    """
    up, down = float(stats.positive_mean[row]), float(stats.negative_mean[row])
    return (projection - (up + down) / 2) / ((up - down) / 2) if up != down else projection * 0
