"""Sums hidden states while they pass by, so that the mean activations of an answer are there when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from traitcli.models.loaded import LoadedModel
from traitcli.models.reader import Phase
from traitcli.records import Position

if TYPE_CHECKING:
    from torch import Tensor

Activations = dict[Position, "Tensor"]


class MeanReader:
    """Sums all rows on the device in float32, whatever the model's dtype; no token's state is kept.

    `finished` holds what was read of each request that has ended: position -> float32 [L+1, H] on the
    CPU, or none when the answer is empty.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.layers = range(loaded.layer_count)
        self._shape = (loaded.layer_count, loaded.hidden_size)
        self._device = loaded.device
        self.finished: dict[int, Activations | None] = {}

    def open(self, places: int) -> Sums:
        return Sums(
            self, torch.zeros(3, self._shape[0], places, self._shape[1], device=self._device)
        )


class Sums:
    """What was read of the sequences at some places: float32 [3, L+1, places, H].

    The first axis: sum over the prompt, sum over the response, state at the last prompt token.
    """

    def __init__(self, reader: MeanReader, states: Tensor) -> None:
        self._reader = reader
        self._states = states
        self._counts = torch.zeros(2, states.shape[2], device=states.device)

    def begin(self, phase: Phase, owners: Tensor, ends: Tensor) -> None:
        self._phase, self._owners, self._ends = int(phase == "response"), owners, ends
        self._counts[self._phase].index_add_(
            0, owners, torch.ones(len(owners), device=owners.device)
        )

    def __call__(self, row: int, hidden: Tensor) -> None:
        hidden = hidden.to(self._states.device, torch.float32)
        self._states[self._phase, row].index_add_(0, self._owners, hidden)
        if not self._phase:
            self._states[2, row].index_copy_(0, self._owners[self._ends], hidden[self._ends])

    def inherit(self, place: int, parent: Sums, there: int) -> None:
        for kept in (0, 2):
            self._states[kept, :, place] = parent._states[kept, :, there]
        self._counts[0, place] = parent._counts[0, there]

    def finish(self, place: int, request: int) -> None:
        prompt, response = self._counts[:, place].tolist()
        means = self._states[:, :, place].clone()
        self._clear(place)
        self._reader.finished[request] = None
        if response:
            means[0] /= prompt
            means[1] /= response
            means = means.cpu()
            self._reader.finished[request] = {
                "response_avg": means[1],
                "prompt_avg": means[0],
                "prompt_last": means[2],
            }

    def move(self, source: int, place: int) -> None:
        self._states[:, :, place] = self._states[:, :, source]
        self._counts[:, place] = self._counts[:, source]
        self._clear(source)

    def _clear(self, place: int) -> None:
        self._states[:, :, place] = 0
        self._counts[:, place] = 0
