"""A reader that sums hidden states, so that an answer's mean activations exist when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from traitcli.models.finite import check_layers
from traitcli.models.loaded import LoadedModel
from traitcli.models.reader import Phase, ReaderState
from traitcli.records import Position

if TYPE_CHECKING:
    from torch import Tensor

Activations = dict[Position, "Tensor"]

# The first axis of ActivationSums: two running sums, and one state that is kept as it is.
_PROMPT_SUM, _RESPONSE_SUM, _PROMPT_LAST = range(3)


class MeanReader:
    """Reads all layers; `finished` maps each request to its mean activations.

    They are position -> float32 [L+1, H] on the CPU, or none when the answer is empty.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.layers = range(loaded.layer_count)
        self.finished: dict[int, Activations | None] = {}
        self.loaded = loaded

    def open(self, slots: int) -> ActivationSums:
        shape = (3, len(self.layers), slots, self.loaded.hidden_size)
        return ActivationSums(self, torch.zeros(shape, device=self.loaded.device))


class ActivationSums(ReaderState):
    """Sums of the sequences of one batch: float32 [3, L+1, slots, H].

    The first axis is: sum over the prompt, sum over the response, state at the last prompt token.
    """

    def __init__(self, reader: MeanReader, sums: Tensor) -> None:
        self._reader = reader
        self._sums = sums
        # Tokens summed: [prompt or response, slots].
        self._counts = torch.zeros(2, sums.shape[2], device=sums.device)

    def begin(self, phase: Phase, slots: Tensor, ends: Tensor) -> None:
        self._kind = _RESPONSE_SUM if phase == "response" else _PROMPT_SUM
        self._slots = slots
        self._ends = ends

        ones = torch.ones(len(slots), device=slots.device)
        self._counts[self._kind].index_add_(0, slots, ones)

    def read_layer(self, layer: int, hidden: Tensor) -> None:
        # float32 whatever the model's dtype: single dimensions of the residual stream are so large
        # that half precision overflows.
        hidden = hidden.to(self._sums.device, torch.float32)
        self._sums[self._kind, layer].index_add_(0, self._slots, hidden)

        if self._kind == _PROMPT_SUM:
            # A prompt that is read in several passes overwrites this; the last pass counts.
            last = self._sums[_PROMPT_LAST, layer]
            last.index_copy_(0, self._slots[self._ends], hidden[self._ends])

    def copy_prefix(self, slot: int, source: ActivationSums, source_slot: int) -> None:
        for kind in (_PROMPT_SUM, _PROMPT_LAST):
            self._sums[kind, :, slot] = source._sums[kind, :, source_slot]
        self._counts[_PROMPT_SUM, slot] = source._counts[_PROMPT_SUM, source_slot]

    def finish(self, slot: int, request: int) -> None:
        prompt_tokens, response_tokens = self._counts[:, slot].tolist()
        means = self._sums[:, :, slot].clone()
        self._clear(slot)

        if not response_tokens:
            self._reader.finished[request] = None
            return

        means[_PROMPT_SUM] /= prompt_tokens
        means[_RESPONSE_SUM] /= response_tokens
        # On the CPU, so that complete answers take no memory of the device.
        means = means.cpu()
        # One state that is not finite makes its sum so too. Layers are looked at only then.
        if not means.isfinite().all():
            check_layers(self._reader.loaded, enumerate(means.unbind(1)))
        self._reader.finished[request] = {
            "response_avg": means[_RESPONSE_SUM],
            "prompt_avg": means[_PROMPT_SUM],
            "prompt_last": means[_PROMPT_LAST],
        }

    def move(self, source_slot: int, slot: int) -> None:
        self._sums[:, :, slot] = self._sums[:, :, source_slot]
        self._counts[:, slot] = self._counts[:, source_slot]
        self._clear(source_slot)

    def _clear(self, slot: int) -> None:
        self._sums[:, :, slot] = 0
        self._counts[:, slot] = 0
