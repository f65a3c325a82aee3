"""From positive and negative activations to a direction; pure functions on arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from traitcli.errors import VectorError
from traitcli.records import ClassStats

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

Method = Callable[["Floats", "Floats"], "Floats"]
"""float32 [n+, L+1, H] and [n−, L+1, H] -> [L+1, H]. All but the difference of means are given its length at each
row, and point the way it does, so that coefficients and doses mean the same whatever the method."""


def mean_difference(positive: Floats, negative: Floats) -> Floats:
    """float32 [n+, L+1, H] and [n−, L+1, H] -> [L+1, H]: mean positive − mean negative, row by row.

    Source: the persona-vectors procedure (Chen et al., 2025).
    """
    difference: Floats = (
        positive.mean(0, dtype=np.float64) - negative.mean(0, dtype=np.float64)
    ).astype(np.float32)
    return difference


def logistic(positive: Floats, negative: Floats) -> Floats:
    """The weights of a logistic probe on dimensions scaled to unit variance, L2 with C = 1, in activation units."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    labels = np.repeat([1, 0], [len(positive), len(negative)])

    def weights(row: int) -> Floats:
        scaler = StandardScaler()
        scaled = scaler.fit_transform(
            np.concatenate([positive[:, row], negative[:, row]]).astype(np.float64)
        )
        found: Floats = (
            LogisticRegression(max_iter=2000).fit(scaled, labels).coef_[0] / scaler.scale_
        )
        return found

    return _row_by_row(weights, positive, negative)


def whitened_difference(positive: Floats, negative: Floats) -> Floats:
    """Σ⁻¹ (mean positive − mean negative): the discriminant of LDA.

    Σ is the pooled within-class covariance, shrunk as by Ledoit and Wolf (2004). It is never formed: with n
    rollouts in H dimensions its inverse follows from an n × n matrix (Woodbury).
    """
    from sklearn.covariance import ledoit_wolf_shrinkage

    def whitened(row: int) -> Floats:
        sides = [side[:, row].astype(np.float64) for side in (positive, negative)]
        difference = sides[0].mean(0) - sides[1].mean(0)
        within = np.concatenate([side - side.mean(0) for side in sides])
        count, width = within.shape
        spread = (within**2).sum() / (count * width)
        if spread == 0:
            unchanged: Floats = difference
            return unchanged
        shrinkage = ledoit_wolf_shrinkage(within, assume_centered=True)
        ridge = max(shrinkage, _LEAST_SHRINKAGE) * spread
        scaled = within * np.sqrt((1 - shrinkage) / count)
        inner = scaled @ scaled.T + ridge * np.eye(count)
        found: Floats = (
            difference - scaled.T @ np.linalg.solve(inner, scaled @ difference)
        ) / ridge
        return found

    return _row_by_row(whitened, positive, negative)


def pca_of_differences(positive: Floats, negative: Floats) -> Floats:
    """The first principal axis, through the origin, of positive[i] − negative[i].

    The arrays must be paired: of one length, the i-th of both being each other's counterpart. Raises VectorError
    otherwise. Not centred: centring would take away what all differences have in common, which is the trait.
    """
    if len(positive) != len(negative):
        raise VectorError(
            "PCA of differences needs pairs",
            cause=f"there are {len(positive)} positive and {len(negative)} negative rollouts",
            fix="set filter.pairing to paired, or take another method",
        )

    def axis(row: int) -> Floats:
        differences = positive[:, row].astype(np.float64) - negative[:, row]
        first: Floats = np.linalg.svd(differences, full_matrices=False)[2][0]
        return first

    return _row_by_row(axis, positive, negative)


_LEAST_SHRINKAGE = 1e-6
"""Keeps the inverse there when so many rollouts are at hand that nothing would be shrunk."""

METHODS: dict[str, Method] = {
    "mean_difference": mean_difference,
    "logistic": logistic,
    "whitened_difference": whitened_difference,
    "pca_of_differences": pca_of_differences,
}


def _row_by_row(direction: Callable[[int], Floats], positive: Floats, negative: Floats) -> Floats:
    """A direction for every row at which the classes' means differ, as long as their difference and its way."""
    differences = mean_difference(positive, negative)
    made = np.zeros_like(differences)
    for row, difference in enumerate(differences):
        length = np.linalg.norm(difference)
        if length == 0:
            continue
        found = direction(row)
        found = found / np.linalg.norm(found)
        made[row] = found * length * (-1 if found @ difference < 0 else 1)
    return made


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
