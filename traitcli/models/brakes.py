"""Steers a model by removing a direction, by capping it, or by a push that a gate lets act."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch

from traitcli.models.block_edit import BlockEdit, unit_vector
from traitcli.models.massive import lengths
from traitcli.models.score_gate import ScoreGate
from traitcli.models.steerer import ActivationSteerer

if TYPE_CHECKING:
    from torch import Tensor

    from traitcli.models.block_edit import Vector


class ActivationAblator(BlockEdit):
    """Removes the component along a vector from the output [B, T, H] of a block: h − (h · u) u.

    It acts at every position, of prompts too.

    Args:
        model: a causal language model of transformers.
        vector: float [H]; only its direction counts: u has length 1.
        layer_idx: a block, counted from 0. Block k outputs layer k+1.

    Raises:
        VectorError: the vector is zero or does not fit the model, or there is no such block.

    Source: directional ablation of Arditi et al. 2024 (arXiv:2406.11717).
    """

    turn = 1

    def __init__(self, model: Any, vector: Vector, layer_idx: int) -> None:
        super().__init__(model, layer_idx, "all")
        self._unit = unit_vector(model, vector)

    def edit(self, states: Tensor) -> Tensor:
        """The states [B, n, H] without their component along u."""
        self._unit = self._unit.to(states.device)
        whole = states.float()
        along = whole @ self._unit
        return (whole - along[..., None] * self._unit).to(states.dtype)


class ActivationCapper(BlockEdit):
    """Clamps the projection of the output [B, T, H] of a block, h · u, to a bound.

    It acts at every position, of prompts too. A state within the bound stays as it is, bit by bit,
    and so does a massive one: its projection follows from its length and means nothing.

    Args:
        model: a causal language model of transformers.
        vector: float [H]; only its direction counts: u has length 1.
        layer_idx: a block, counted from 0. Block k outputs layer k+1.
        bound: the projection that states are clamped to, in activation units.
        at_most: whether projections stay at or below the bound, or at or above it.
        massive_above: length of a state above which it is massive, in activation units.

    Raises:
        VectorError: the vector is zero or does not fit the model, or there is no such block.

    Source: activation capping of Assistant Axis (Lu et al. 2026, `ActivationSteering` of
    safety-research/assistant-axis), which subtracts only what exceeds the threshold.
    """

    turn = 2

    def __init__(
        self,
        model: Any,
        vector: Vector,
        layer_idx: int,
        bound: float,
        at_most: bool = True,
        massive_above: float = math.inf,
    ) -> None:
        super().__init__(model, layer_idx, "all")
        self._unit = unit_vector(model, vector)
        self._bound = bound
        self._at_most = at_most
        self._massive_above = massive_above
        self.held: Tensor | None = None
        """bool [B · T], the positions of the last pass that were beyond the bound."""

    def edit(self, states: Tensor) -> Tensor:
        """The states [B, n, H] with none beyond the bound."""
        self._unit = self._unit.to(states.device)
        whole = states.float()
        excess = whole @ self._unit - self._bound
        is_beyond = excess > 0 if self._at_most else excess < 0
        if self._massive_above < math.inf:
            is_beyond &= lengths(states) <= self._massive_above
        self.held = is_beyond.flatten()
        capped = (whole - excess[..., None] * self._unit).to(states.dtype)
        return torch.where(is_beyond[..., None], capped, states)


class GatedSteerer(ActivationSteerer):
    """An `ActivationSteerer` that adds to the tokens of an answer while a gate is open.

    Args:
        model: a causal language model of transformers.
        vector: float [H], in activation units; it is copied.
        coeff: a factor without unit; 0 changes nothing at all.
        layer_idx: a block, counted from 0. Block k outputs layer k+1.
        gate: decides for each sequence; it is entered and left with the steerer.

    Raises:
        VectorError, UserError: as `ActivationSteerer`.
    """

    def __init__(
        self, model: Any, vector: Vector, coeff: float, layer_idx: int, gate: ScoreGate
    ) -> None:
        super().__init__(model, vector, coeff, layer_idx, "response")
        self.gate = gate
        self.held: Tensor | None = None
        """bool [B], the sequences of the last pass whose gate was open; none: none was."""

    def edit(self, states: Tensor) -> Tensor:
        """The states [B, n, H] of the sequences' last tokens, pushed where the gate is open."""
        is_open = self.gate.is_open
        self.held = is_open
        if is_open is None:
            return states
        # Our engine packs sequences as [1, n, H], and padded batches are [B, 1, H].
        marks = is_open.to(states.device).view(*states.shape[:2], 1)
        # Not a sum with zeros, which would turn −0 into +0.
        return torch.where(marks, super().edit(states), states)

    def _add_hooks(self, hooks: ExitStack) -> None:
        super()._add_hooks(hooks)
        hooks.enter_context(self.gate)
