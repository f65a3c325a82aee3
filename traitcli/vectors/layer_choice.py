"""Chooses the layer at which a vector is read."""

from __future__ import annotations

import math
from collections.abc import Sequence

from traitcli.vectors.held_out import HeldOutScores
from traitcli.vectors.separation import measure_auroc


def middle_layers(layer_count: int) -> range:
    """Layers between 25 % and 75 % of the depth of a model with layers 0 to `layer_count` − 1."""
    blocks = layer_count - 1
    return range(math.ceil(blocks * 0.25), math.floor(blocks * 0.75) + 1)


def choose_layer(auroc: Sequence[float], error: Sequence[float]) -> int:
    """The layer nearest to the middle of those within one standard error of the best middle layer.

    Both arguments have one value per layer; `error` is the standard error of each AUROC. Of two
    equally near layers the earlier one is chosen. A model of one block has no middle layer, and
    layer 1 is chosen.
    """
    inside = middle_layers(len(auroc))
    if not inside:
        return default_layer(len(auroc))
    # Layers within one error are equals. With few rollouts these are nearly all layers, and those
    # at the edge carry over worst: docs/design/0026-nearest-to-the-middle.md.
    best = max(inside, key=lambda layer: auroc[layer])
    enough = auroc[best] - error[best]
    equals = [layer for layer in inside if auroc[layer] >= enough]
    middle = default_layer(len(auroc))
    return min(equals, key=lambda layer: abs(layer - middle))


def choose_layer_by_scores(held_out: HeldOutScores | None, layer_count: int) -> int:
    """What `vector.layer: auto` chooses, given the scores of held-out extraction rollouts."""
    if held_out is None:
        return default_layer(layer_count)
    # all layers, although only a middle one can win: choose_layer takes a value for each
    measured = [measure_auroc(held_out, layer) for layer in range(layer_count)]
    aurocs = [one.value for one in measured]
    return choose_layer(aurocs, [one.error for one in measured])


def default_layer(layer_count: int) -> int:
    """The layer in the middle, for vectors whose separation cannot be measured."""
    # with a single block the middle would be layer 0, which no block computes
    return (layer_count - 1) // 2 or 1
