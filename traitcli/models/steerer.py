"""Steers a model: adds a vector to the output of one of its blocks while it runs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from traitcli.errors import UserError
from traitcli.models.block_edit import BlockEdit, SteeredPositions, fitting_vector, to_float32

if TYPE_CHECKING:
    from torch import Tensor

    from traitcli.models.block_edit import Vector


class ActivationSteerer(BlockEdit):
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
        super().__init__(model, layer_idx, positions)
        self.added = _scale(model, vector, coeff)
        """float32 [H], coeff · vector."""
        self._has_effect = coeff != 0

    @property
    def has_effect(self) -> bool:
        """Whether the coefficient is not 0."""
        return self._has_effect

    def edit(self, states: Tensor) -> Tensor:
        """The states [B, n, H] with coeff · vector added."""
        # With a device map, only the first pass shows which device the block is on.
        self.added = self.added.to(states.device)
        return states + self.added.to(states.dtype)


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
    return abs(coeff) * float(to_float32(vector).norm()) / norm


def _scale(model: Any, vector: Vector, coeff: float) -> Tensor:
    """float32 [H], coeff · vector."""
    if not math.isfinite(coeff):
        raise UserError(f"invalid coeff {coeff}", cause="it must be finite", fix="give a number")

    scaled = coeff * fitting_vector(model, vector)
    # In the dtype it will be added in: float16 ends at 65,504.
    if not scaled.to(model.dtype).isfinite().all():
        raise UserError(
            f"coeff {coeff:g} is too large",
            cause=f"coeff · vector overflows {model.dtype}, the model's dtype",
            fix="see relative_dose for a sensible one",
        )
    return scaled
