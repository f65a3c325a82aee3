"""Changes the output of one block of a model while it runs: the hook that all steering shares."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np
import torch

from traitcli.errors import UserError, VectorError
from traitcli.models.hooks import find_blocks, hidden_of
from traitcli.models.packed_attention import PackedInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    Vector = Tensor | NDArray[np.floating[Any]] | Sequence[float]

SteeredPositions = Literal["all", "prompt", "response"]

_USE_ONE_LAYER = "use one layer of a vector built from this model"
_NO_POSITIONS = slice(0)


class BlockEdit:
    """Edits the output [B, T, H] of a block, in every forward pass inside `with`.

    The hook comes before all hooks that are on the block already: of several edits of a block, the
    one that was entered last acts first.

    Args:
        model: a causal language model of transformers.
        layer_idx: a block, counted from 0. Block k outputs layer k+1.
        positions: see `ActivationSteerer`.

    Raises:
        VectorError: there is no such block.
        UserError: unknown positions. Also raised when entered twice, and by a forward pass over
            existing texts unless positions are "all".
    """

    turn = 0
    """When it acts among those of one block: pushes and gates add first, then ablations remove,
    then caps bound what is left. A cap holds whatever else is asked for."""

    def __init__(self, model: Any, layer_idx: int, positions: SteeredPositions) -> None:
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

        self.block = blocks[layer_idx]
        self.positions: SteeredPositions = positions
        self._hooks: ExitStack | None = None

    def __enter__(self) -> Self:
        if self._hooks is not None:
            raise UserError(
                "this steerer is active already",
                cause="it was entered a second time before it was left",
                fix="leave it first, or create a second steerer: they add up",
            )
        self._hooks = ExitStack()
        if self.has_effect:
            self._add_hooks(self._hooks)
        return self

    def __exit__(self, *raised: object) -> None:
        if self._hooks is not None:
            self._hooks.close()
            self._hooks = None

    @property
    def has_effect(self) -> bool:
        """Whether there is anything to do; if not, the model gets no hook."""
        return True

    def edit(self, states: Tensor) -> Tensor:
        """What becomes of the hidden states [B, n, H] at the steered positions; a new tensor."""
        raise NotImplementedError

    def _add_hooks(self, hooks: ExitStack) -> None:
        # Before all other hooks: transformers' own, which collect hidden states, stay on the
        # model once they were needed, and must see what is steered.
        hook = self.block.register_forward_hook(self._steer, with_kwargs=True, prepend=True)
        hooks.callback(hook.remove)

    def _steer(self, block: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        hidden = hidden_of(output)
        columns = self._steered_columns(hidden, kwargs.get("packed_input"))
        if columns is _NO_POSITIONS:
            return output
        if self.positions == "all":
            steered = self.edit(hidden)
        else:
            # A copy: others may still hold the tensor that the block returned.
            steered = hidden.clone()
            steered[:, columns] = self.edit(hidden[:, columns])
        return (steered, *output[1:]) if isinstance(output, tuple) else steered

    def _steered_columns(self, hidden: Tensor, packed: object) -> slice | Tensor:
        """Which positions of [B, T, H] are steered; `packed` is none outside our own engine."""
        if self.positions == "all":
            return slice(None)
        if isinstance(packed, PackedInput):
            return _packed_columns(packed, self.positions, hidden.device)
        if self.positions == "response":
            return slice(-1, None)
        return slice(None) if hidden.shape[1] > 1 else _NO_POSITIONS


def to_float32(vector: Vector) -> Tensor:
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


def fitting_vector(model: Any, vector: Vector) -> Tensor:
    """The vector as float32 [H] on the CPU; raises VectorError when it does not fit the model."""
    direction = to_float32(vector)
    shape, wanted = list(direction.shape), [model.config.get_text_config().hidden_size]
    if shape != wanted:
        raise VectorError(
            "the vector does not fit the model",
            cause=f"its shape is {shape}; the model needs {wanted}",
            fix=_USE_ONE_LAYER,
        )
    return direction


def unit_vector(model: Any, vector: Vector) -> Tensor:
    """The direction of a vector: float32 [H] of length 1, on the CPU.

    Raises VectorError when it does not fit the model, or is zero.
    """
    direction = fitting_vector(model, vector)
    if not direction.any():
        raise VectorError(
            "the vector has no direction",
            cause="it is zero at this layer",
            fix="choose another layer",
        )
    return torch.nn.functional.normalize(direction, dim=0)


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
