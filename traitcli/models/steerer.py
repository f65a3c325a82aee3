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
_FITTING = "take one row of a vector made from this model"
_NONE = slice(0)


class ActivationSteerer:
    """Adds coeff · vector to the output [B, T, H] of a block in every forward pass inside a with statement.

    vector     float [H], in activation units; it is copied
    coeff      no unit; 0 changes not a bit; see `relative_dose`
    layer_idx  a block, counted from 0: block k gives row k+1, so our layer K is layer_idx K−1; the last
               block is steered before the final norm, which row L has behind it
    positions  "all": every position
               "prompt": those of prefill, which are passes over more than one position
               "response": the last of every pass, so that of the prompt too, then each generated token

    Several add up, on one block too. Hooks and `output_hidden_states` see what is steered. Rows of a batch
    must end in the same column. Packed sequences are steered as each would be alone; where texts that were
    there already are read packed, the forward pass raises UserError unless it is at all positions. Raises
    VectorError when the vector does not fit or there is no such block, UserError for other positions, for a
    coeff that is not finite or too large, and when entered twice.

    Source: `ActivationSteerer` of Persona Vectors (Chen et al. 2025, arXiv:2507.21509), the same arguments.
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
            names = ", ".join(get_args(SteeredPositions))
            raise UserError(
                f"no positions {positions!r}", cause=f"there are {names}", fix="choose one of them"
            )
        blocks = find_blocks(model)
        if layer_idx not in range(len(blocks)):
            raise VectorError(
                f"no block {layer_idx}",
                cause=f"the model has blocks 0 to {len(blocks) - 1}, which give rows 1 to {len(blocks)}",
                fix="choose one of them: row K is layer_idx K−1",
            )
        self._block = blocks[layer_idx]
        self._positions = positions
        self._added = _scaled(model, vector, coeff)
        self._has_effect = coeff != 0
        self._hooks: ExitStack | None = None

    def __enter__(self) -> Self:
        if self._hooks is not None:
            raise UserError(
                "the model is steered by this already",
                cause="it was entered and not left",
                fix="leave it first, or make a second one: they add up",
            )
        self._hooks = ExitStack()
        if self._has_effect:
            # In front of all others: transformers keeps the hooks that collect hidden states once it has made them.
            hook = self._block.register_forward_hook(self._steer, with_kwargs=True, prepend=True)
            self._hooks.callback(hook.remove)
        return self

    def __exit__(self, *raised: object) -> None:
        if self._hooks is not None:
            self._hooks.close()
            self._hooks = None

    def _steer(self, block: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        hidden = hidden_of(output)
        steered = self._add_to(hidden, self._pushed(hidden, kwargs.get("packed_input")))
        return (steered, *output[1:]) if isinstance(output, tuple) else steered

    def _pushed(self, hidden: Tensor, feed: object) -> slice | Tensor:
        """Which positions of [B, T, H] are pushed; those of packed sequences, where there is a feed."""
        if self._positions == "all":
            return slice(None)
        if isinstance(feed, PackedInput):
            return _pushed_in(feed, self._positions, hidden.device)
        if self._positions == "response":
            return slice(-1, None)
        return slice(None) if hidden.shape[1] > 1 else _NONE

    def _add_to(self, hidden: Tensor, pushed: slice | Tensor) -> Tensor:
        """[B, T, H] of the same dtype and device; `hidden` stays as it is."""
        self._added = self._added.to(hidden.device)
        steered = hidden.clone()
        steered[:, pushed] += self._added.to(hidden.dtype)
        return steered


def relative_dose(coeff: float, vector: Vector, norm: float) -> float:
    """How strong a push is beside what it pushes: |coeff| · ‖vector‖ / `norm`.

    `norm` is the typical norm of the hidden states at that row, in activation units. 0.3 to 0.5 usually
    leaves answers coherent, near 1 they fall apart. Raises VectorError when the vector is not finite,
    UserError when the norm is not positive.
    """
    if not 0 < norm < math.inf:
        raise UserError(
            f"no norm {norm:g}",
            cause="hidden states have a positive one",
            fix="measure it at that row",
        )
    return abs(coeff) * float(_read(vector).norm()) / norm


def _scaled(model: Any, vector: Vector, coeff: float) -> Tensor:
    """float32 [H], coeff · vector."""
    if not math.isfinite(coeff):
        raise UserError(f"no coeff {coeff}", cause="it must be finite", fix="give a number")
    direction, wanted = _read(vector), model.config.get_text_config().hidden_size
    if direction.shape != (wanted,):
        raise VectorError(
            "the vector does not fit the model",
            cause=f"it is {list(direction.shape)}, the model needs {[wanted]}",
            fix=_FITTING,
        )
    scaled = coeff * direction
    if not scaled.to(model.dtype).isfinite().all():
        cause = f"coeff · vector exceeds what the model's {model.dtype} holds"
        raise UserError(
            f"coeff {coeff:g} is too large", cause=cause, fix="see relative_dose for a sensible one"
        )
    return scaled


def _read(vector: Vector) -> Tensor:
    """The same in float32 on the CPU."""
    try:
        plain = (
            vector.detach()
            if isinstance(vector, torch.Tensor)
            else torch.from_numpy(np.array(vector, np.float64))
        )
    except (TypeError, ValueError) as error:
        raise VectorError(
            "the vector is not made of numbers", cause=str(error), fix=_FITTING
        ) from None
    read = plain.to("cpu", torch.float32)
    if not read.isfinite().all():
        raise VectorError(
            "the vector is not finite",
            cause="it holds NaN or infinity in float32",
            fix="build it anew",
        )
    return read


def _pushed_in(
    feed: PackedInput, positions: Literal["prompt", "response"], device: torch.device
) -> slice | Tensor:
    """The same of packed sequences, each of which is pushed where it would be pushed alone."""
    if feed.content == "responses" and not feed.is_step:
        raise UserError(
            f"cannot steer {positions} positions here",
            cause="texts are read that were there already, several tokens of a sequence at once",
            fix='steer with positions="all"',
        )
    if positions == "prompt":
        return _NONE if feed.content == "responses" else slice(None)
    return _NONE if feed.content == "prefixes" else feed.ends.to(device)
