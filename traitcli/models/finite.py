"""Notices hidden states and logits that are not finite.

Each is checked where it is on the CPU already, so no device waits for a check: tokens when they are
picked, scores when they are read, sums of states when an answer is complete.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from traitcli.errors import ModelError

if TYPE_CHECKING:
    from torch import Tensor

    from traitcli.models.loaded import LoadedModel


def not_finite(loaded: LoadedModel, layer: int) -> ModelError:
    """The error for a model whose first infinite or NaN values are at `layer`; L + 1: its logits.

    The states of layers below it are finite.
    """
    dtype = str(loaded.model.dtype).removeprefix("torch.")
    place = f"the states of layer {layer}" if layer < loaded.layer_count else "the logits"
    fixes = {
        "float16": "set model.dtype to bfloat16 or float32: float16 ends at 65504",
        "bfloat16": "set model.dtype to float32",
    }
    other = "check the weights, which may contain NaN; if you steer, lower the coefficient"
    return ModelError(
        f"{loaded.name} gives values that are not finite",
        cause=f"{place} contain NaN or infinity in {dtype}",
        fix=fixes.get(dtype, other),
    )


def check_layers(loaded: LoadedModel, by_layer: Iterable[tuple[int, Tensor]]) -> None:
    """Raise ModelError for the first layer whose numbers are not finite; they are on the CPU."""
    for layer, numbers in by_layer:
        if not numbers.isfinite().all():
            raise not_finite(loaded, layer)
