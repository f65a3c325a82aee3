"""Explains hidden states and logits that are not finite."""

from __future__ import annotations

from typing import TYPE_CHECKING

from traitcli.errors import ModelError

if TYPE_CHECKING:
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
    return ModelError(
        f"{loaded.name} gives values that are not finite",
        cause=f"{place} contain NaN or infinity in {dtype}",
        fix=fixes.get(dtype, "check the weights: they may contain NaN, or be cut"),
    )
