"""Steers a model: adds a vector to the output of one of its blocks while it runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np
import torch

from traitcli.errors import UserError, VectorError
from traitcli.models.hooks import find_blocks, hidden_of
from traitcli.models.packed_attention import PackedInput

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Vector = Tensor | NDArray[np.floating[Any]] | Sequence[float]

SteeredPositions = Literal["all", "prompt", "response"]

_USE_ONE_LAYER = "use one layer of a vector built from this model"
_NO_POSITIONS = slice(0)


class ActivationSteerer:
    """Adds coeff · vector to the output [B, T, H] of a block, in every forward pass inside `with`.

    Steerers add up, on one block too. Hooks and `output_hidden_states` see steered states.

    Args:
        model: a causal language model of transformers.
        vector: float [H], in activation units; it is copied.
        coeff: a factor without unit; 0 changes nothing at all. See `relative_dose`.
        layer_idx: a block, counted from 0. Block k outputs layer k+1, so layer K is layer_idx K−1.
            The last block is steered before the final norm, which layer L has behind it.
        positions: "all": every position.
            "prompt": the positions of prefill, which are passes over more than one position.
            "response": the last position of every pass: that of the prompt, then each new token.
            All sequences of a padded batch must end in the same column.

    Raises:
        VectorError: the vector does not fit the model, or there is no such block.
        UserError: unknown positions, or a coeff that is not finite or too large. Also raised when
            entered twice, and by a forward pass over existing texts unless positions are "all".

    Example:
        with ActivationSteerer(model, vector[14], coeff=4, layer_idx=13):
            model.generate(**inputs)

    Source: `ActivationSteerer` of Persona Vectors (Chen et al. 2025, arXiv:2507.21509), with the
    same arguments.
    """

    def __init__(
        self,
        model: Any,
        vector: Vector,
        coeff: float = 1.0,
        layer_idx: int = 15,
        positions: SteeredPositions = "response",
    ) -> None:
        if positions not in get_args(SteeredPositions):
            known = ", ".join(get_args(SteeredPositions))
            raise UserError(
                f"invalid positions {positions!r}",
                cause=f"positions are {known}",
                fix="choose one of them",
            )

        blocks = find_blocks(model)
        if layer_idx not in range(len(blocks)):
            last = len(blocks) - 1
            raise VectorError(
                f"no block {layer_idx}",
                cause=f"the model has blocks 0 to {last}, which output layers 1 to {last + 1}",
                fix="choose one of them: layer K is layer_idx K−1",
            )

        self._block = blocks[layer_idx]
        self._positions = positions
        self._added = _scale(model, vector, coeff)
        self._has_effect = coeff != 0
        self._hooks: ExitStack | None = None

    def __enter__(self) -> Self:
        if self._hooks is not None:
            raise UserError(
                "this steerer is active already",
                cause="it was entered a second time before it was left",
                fix="leave it first, or create a second steerer: they add up",
            )
        self._hooks = ExitStack()
        if self._has_effect:
            # Before all other hooks: transformers' own, which collect hidden states, stay on the
            # model once they were needed, and must see what is steered.
            hook = self._block.register_forward_hook(self._steer, with_kwargs=True, prepend=True)
            self._hooks.callback(hook.remove)
        return self

    def __exit__(self, *raised: object) -> None:
        if self._hooks is not None:
            self._hooks.close()
            self._hooks = None

    def _steer(self, block: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        hidden = hidden_of(output)
        steered = self._add_to(hidden, self._steered_columns(hidden, kwargs.get("packed_input")))
        return (steered, *output[1:]) if isinstance(output, tuple) else steered

    def _steered_columns(self, hidden: Tensor, packed: object) -> slice | Tensor:
        """Which positions of [B, T, H] are steered; `packed` is none outside our own engine."""
        if self._positions == "all":
            return slice(None)
        if isinstance(packed, PackedInput):
            return _packed_columns(packed, self._positions, hidden.device)
        if self._positions == "response":
            return slice(-1, None)
        return slice(None) if hidden.shape[1] > 1 else _NO_POSITIONS

    def _add_to(self, hidden: Tensor, columns: slice | Tensor) -> Tensor:
        """A steered copy: others may still hold the tensor that the block returned."""
        # With a device map, only the first pass shows which device the block is on.
        self._added = self._added.to(hidden.device)
        steered = hidden.clone()
        steered[:, columns] += self._added.to(hidden.dtype)
        return steered


def relative_dose(coeff: float, vector: Vector, norm: float) -> float:
    """How strong a push is relative to the hidden state: |coeff| · ‖vector‖ / `norm`.

    From 0.3 to 0.5 answers usually stay coherent; near 1 they fall apart.

    Args:
        coeff: as for `ActivationSteerer`.
        vector: float [H], in activation units.
        norm: the typical norm of hidden states at that layer, in activation units.

    Raises:
        VectorError: the vector is not finite.
        UserError: the norm is not positive and finite.
    """
    if not 0 < norm < math.inf:
        raise UserError(
            f"invalid norm {norm:g}",
            cause="the norm of hidden states is positive and finite",
            fix="measure it at that layer",
        )
    return abs(coeff) * float(_to_float32(vector).norm()) / norm


def _scale(model: Any, vector: Vector, coeff: float) -> Tensor:
    """float32 [H], coeff · vector."""
    if not math.isfinite(coeff):
        raise UserError(f"invalid coeff {coeff}", cause="it must be finite", fix="give a number")

    direction = _to_float32(vector)
    shape, wanted = list(direction.shape), [model.config.get_text_config().hidden_size]
    if shape != wanted:
        raise VectorError(
            "the vector does not fit the model",
            cause=f"its shape is {shape}; the model needs {wanted}",
            fix=_USE_ONE_LAYER,
        )

    scaled = coeff * direction
    # In the dtype it will be added in: float16 ends at 65,504.
    if not scaled.to(model.dtype).isfinite().all():
        raise UserError(
            f"coeff {coeff:g} is too large",
            cause=f"coeff · vector overflows {model.dtype}, the model's dtype",
            fix="see relative_dose for a sensible one",
        )
    return scaled


def _to_float32(vector: Vector) -> Tensor:
    """The vector as float32 on the CPU; raises VectorError unless all its numbers are finite."""
    try:
        if isinstance(vector, torch.Tensor):
            tensor = vector.detach()
        else:
            # Through float64: a list may hold integers, and NumPy has types that torch lacks.
            tensor = torch.from_numpy(np.array(vector, np.float64))
    except (TypeError, ValueError) as error:
        raise VectorError(
            "the vector is not made of numbers", cause=str(error), fix=_USE_ONE_LAYER
        ) from None

    converted = tensor.to("cpu", torch.float32)
    if not converted.isfinite().all():
        raise VectorError(
            "the vector is not finite",
            cause="it has NaN or infinity in float32",
            fix="rebuild the vector",
        )
    return converted


def _packed_columns(
    packed: PackedInput, positions: Literal["prompt", "response"], device: torch.device
) -> slice | Tensor:
    """Which packed tokens are steered: those that would be if each sequence ran alone."""
    if packed.content == "responses" and not packed.is_step:
        # A text that is read in one pass has no prefill and no steps: only "all" means something.
        raise UserError(
            f"cannot steer {positions} positions here",
            cause="existing texts are read, several tokens of a sequence in one pass",
            fix='steer with positions="all"',
        )
    if positions == "prompt":
        return _NO_POSITIONS if packed.content == "responses" else slice(None)
    # The end of a shared prefix is not the end of a prompt.
    return _NO_POSITIONS if packed.content == "prefixes" else packed.ends.to(device)
