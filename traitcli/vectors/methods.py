"""Computes a direction from positive and negative activations; pure functions on arrays."""

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
"""float32 [n+, L+1, H] and [n−, L+1, H] -> float32 [L+1, H].

At each layer a direction has the length of the difference of means, and points to the same side, so
that coefficients and doses mean the same with every method."""


def mean_difference(positive: Floats, negative: Floats) -> Floats:
    """Mean positive − mean negative, layer by layer.

    Source: the persona-vectors procedure (Chen et al., 2025).
    """
    # float32 sums over thousands of large activations drift
    difference: Floats = (
        positive.mean(0, dtype=np.float64) - negative.mean(0, dtype=np.float64)
    ).astype(np.float32)
    return difference


def logistic(positive: Floats, negative: Floats) -> Floats:
    """The weights of a logistic probe, in activation units.

    Dimensions are scaled to unit variance first; L2 with C = 1.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    labels = np.repeat([1, 0], [len(positive), len(negative)])

    def probe(layer: int) -> Floats:
        activations = np.concatenate([positive[:, layer], negative[:, layer]]).astype(np.float64)
        # the penalty is on all weights alike, so it would suppress unscaled small dimensions
        scaler = StandardScaler()
        scaled = scaler.fit_transform(activations)
        model = LogisticRegression(max_iter=2000).fit(scaled, labels)
        # w · (h / s) = (w / s) · h, so this probe applies to unscaled activations
        weights: Floats = model.coef_[0] / scaler.scale_
        return weights

    return _layer_by_layer(probe, positive, negative)


def whitened_difference(positive: Floats, negative: Floats) -> Floats:
    """Σ⁻¹ (mean positive − mean negative): the discriminant of LDA.

    Σ is the pooled within-class covariance [H, H], shrunk as by Ledoit and Wolf (2004).
    """
    from sklearn.covariance import ledoit_wolf_shrinkage

    def whiten(layer: int) -> Floats:
        up, down = positive[:, layer].astype(np.float64), negative[:, layer].astype(np.float64)
        difference: Floats = up.mean(0) - down.mean(0)
        within = np.concatenate([up - up.mean(0), down - down.mean(0)])
        count, width = within.shape
        spread = (within**2).sum() / (count * width)
        # equal activations within each class: Σ is zero and has no inverse
        if spread == 0:
            return difference

        # Σ is never formed: its inverse follows from an n × n matrix (Woodbury), and n is below H
        shrinkage = ledoit_wolf_shrinkage(within, assume_centered=True)
        ridge = max(shrinkage, _LEAST_SHRINKAGE) * spread
        scaled = within * np.sqrt((1 - shrinkage) / count)
        inner = scaled @ scaled.T + ridge * np.eye(count)
        explained = scaled.T @ np.linalg.solve(inner, scaled @ difference)
        whitened: Floats = (difference - explained) / ridge
        return whitened

    return _layer_by_layer(whiten, positive, negative)


def pca_of_differences(positive: Floats, negative: Floats) -> Floats:
    """The first principal axis, through the origin, of positive[i] − negative[i].

    The arrays must be paired: of one length, and the i-th rollouts are counterparts. Raises
    VectorError otherwise.
    """
    if len(positive) != len(negative):
        raise VectorError(
            "PCA of differences needs pairs",
            cause=f"there are {len(positive)} positive and {len(negative)} negative rollouts",
            fix="set filter.pairing to paired, or use another method",
        )

    def first_axis(layer: int) -> Floats:
        # not centered: that would remove what all differences have in common, which is the trait
        differences = positive[:, layer].astype(np.float64) - negative[:, layer]
        # full_matrices would compute all H axes, an [H, H] matrix, and only the first is used
        axis: Floats = np.linalg.svd(differences, full_matrices=False)[2][0]
        return axis

    return _layer_by_layer(first_axis, positive, negative)


_LEAST_SHRINKAGE = 1e-6
"""Keeps Σ invertible when many rollouts make the estimated shrinkage zero."""

METHODS: dict[str, Method] = {
    "mean_difference": mean_difference,
    "logistic": logistic,
    "whitened_difference": whitened_difference,
    "pca_of_differences": pca_of_differences,
}


def _layer_by_layer(compute: Callable[[int], Floats], positive: Floats, negative: Floats) -> Floats:
    """Directions of each layer, with the length and the side of the difference of means there.

    A layer at which the means do not differ stays zero.
    """
    differences = mean_difference(positive, negative)
    directions = np.zeros_like(differences)
    for layer, difference in enumerate(differences):
        length = np.linalg.norm(difference)
        # for example layer 0 of prompt_last: every prompt ends with the same token
        if length == 0:
            continue
        direction = compute(layer)
        direction = direction / np.linalg.norm(direction)
        # the sign of an axis is arbitrary; positive rollouts must project higher
        sign = -1 if direction @ difference < 0 else 1
        directions[layer] = direction * length * sign
    return directions


def project(activations: Floats, direction: Floats) -> Floats:
    """(h · v) / ‖v‖ at every layer, in activation units.

    float32 [n, L+1, H] and [L+1, H] -> float32 [n, L+1]. A layer whose direction is zero gives 0.
    """
    norms = np.linalg.norm(direction, axis=1)
    dots = np.einsum("nlh,lh->nl", activations, direction)
    projections: Floats = (dots / np.where(norms == 0, 1, norms)).astype(np.float32)
    return projections


def class_stats(activations: Floats, positive: NDArray[np.bool_], direction: Floats) -> ClassStats:
    """Means and standard deviations of the projections of both classes, [L+1] each.

    float32 [n, L+1, H], bool [n], and float32 [L+1, H].
    """
    projections = project(activations, direction)
    up, down = projections[positive], projections[~positive]
    return ClassStats(up.mean(0), down.mean(0), up.std(0), down.std(0))


def calibrate(projection: Floats | float, stats: ClassStats, layer: int) -> Floats | float:
    """The calibrated score: −1 is the mean of the negative class, +1 of the positive one.

    0 where the classes have one mean, as at layer 0 of prompt_last: every prompt ends with the same
    token.
    """
    up, down = float(stats.positive_mean[layer]), float(stats.negative_mean[layer])
    return (projection - (up + down) / 2) / ((up - down) / 2) if up != down else projection * 0
