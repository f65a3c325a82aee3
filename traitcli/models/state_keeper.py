"""A reader that keeps every hidden state, to compare ways of reading a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from traitcli.models.reader import NullReader, PassTokens, Phase

if TYPE_CHECKING:
    from torch import Tensor

States = list[dict[int, "Tensor"]]
"""For each text: layer -> the hidden states of its tokens, float32 [T, H] on the CPU."""


class StateKeeper(NullReader):
    """Keeps the hidden states of its layers on the CPU; it is its own state."""

    def __init__(self, layers: Iterable[int], slots: int = 0) -> None:
        self.layers = layers
        self._kept: list[dict[int, list[Tensor]]] = [{} for _ in range(slots)]
        self._counts: Sequence[tuple[int, int]] = ()

    def open(self, slots: int) -> StateKeeper:
        return StateKeeper(self.layers, slots)

    def begin(self, phase: Phase, tokens: PassTokens) -> None:
        self._counts = tokens.counts

    def read_layer(self, layer: int, hidden: Tensor) -> None:
        parts = torch.split(on_cpu(hidden), [count for _, count in self._counts])
        for (slot, _), part in zip(self._counts, parts, strict=True):
            self._kept[slot].setdefault(layer, []).append(part)

    def copy_prefix(self, slots: range, source: StateKeeper, source_slot: int) -> None:
        kept = source._kept[source_slot]
        for slot in slots:
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
