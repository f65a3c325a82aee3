"""A reader that keeps every hidden state, to compare ways of reading a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch

from traitcli.models.reader import NullReader, Phase

if TYPE_CHECKING:
    from torch import Tensor

States = list[dict[int, "Tensor"]]
"""For each text: layer -> the hidden states of its tokens, float32 [T, H] on the CPU."""


class StateKeeper(NullReader):
    """Keeps the hidden states of its layers on the CPU; it is its own state."""

    def __init__(self, layers: Iterable[int], slots: int = 0) -> None:
        self.layers = layers
        self._kept: list[dict[int, list[Tensor]]] = [{} for _ in range(slots)]
        self._slots = torch.tensor([])

    def open(self, slots: int) -> StateKeeper:
        return StateKeeper(self.layers, slots)

    def begin(self, phase: Phase, slots: Tensor, ends: Tensor) -> None:
        self._slots = slots.cpu()

    def read_layer(self, layer: int, hidden: Tensor) -> None:
        states = on_cpu(hidden)
        for slot in set(self._slots.tolist()):
            self._kept[slot].setdefault(layer, []).append(states[self._slots == slot])

    def copy_prefix(self, slot: int, source: StateKeeper, source_slot: int) -> None:
        kept = source._kept[source_slot]
        self._kept[slot] = {layer: list(parts) for layer, parts in kept.items()}

    def states_with(self, layer: int, logits: Mapping[int, Tensor]) -> States:
        """All states, and as one more layer the logits [V] after each text."""
        states: States = []
        for slot, kept in enumerate(self._kept):
            of_text = {layer: torch.cat(parts) for layer, parts in kept.items()}
            states.append({**of_text, layer: on_cpu(logits[slot])[None]})
        return states


def on_cpu(states: Tensor) -> Tensor:
    """The same numbers in float32 on the CPU."""
    return states.detach().float().cpu()
