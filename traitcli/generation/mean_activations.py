"""A reader that sums hidden states, so that an answer's mean activations exist when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from traitcli.models.finite import check_layers
from traitcli.models.loaded import LoadedModel
from traitcli.models.massive import is_massive
from traitcli.models.reader import PassTokens, Phase, ReaderState
from traitcli.records import Position

if TYPE_CHECKING:
    from torch import Tensor

Activations = dict[Position, "Tensor"]

# The second axis of ActivationSums: for prompt and response the sums over ordinary and over massive
# tokens, which are neighbors; and one state that is kept as it is.
_PROMPT, _RESPONSE, _PROMPT_LAST = 0, 2, 4
_KINDS = 5


class MeanReader:
    """Reads all layers; `finished` maps each request to its mean activations.

    They are position -> float32 [L+1, H] on the CPU, or none when the answer is empty. At each
    layer, a mean leaves out the tokens that are massive there (see `is_massive`), unless all are.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.layers = range(loaded.layer_count)
        self.finished: dict[int, Activations | None] = {}
        self.loaded = loaded

    def open(self, slots: int) -> ActivationSums:
        shape = (len(self.layers), _KINDS, slots, self.loaded.hidden_size)
        return ActivationSums(self, torch.zeros(shape, device=self.loaded.device))


class ActivationSums(ReaderState):
    """Sums of the sequences of one batch: float32 [L+1, 5, slots, H].

    The second axis is: sums over ordinary and over massive tokens of the prompt, the same of the
    response, state at the last prompt token.
    """

    def __init__(self, reader: MeanReader, sums: Tensor) -> None:
        self._reader = reader
        self._sums = sums
        # Tokens summed, float32 [L+1, prompt or response × ordinary or massive, slots].
        self._counts = torch.zeros(sums.shape[0], _PROMPT_LAST, sums.shape[2], device=sums.device)

    def begin(self, phase: Phase, tokens: PassTokens) -> None:
        self._kind = _RESPONSE if phase == "response" else _PROMPT
        self._slots = tokens.slots
        self._ends = tokens.ends
        self._ones = torch.ones(len(tokens.slots), device=tokens.slots.device)

    def read_layer(self, layer: int, hidden: Tensor) -> None:
        # float32 whatever the model's dtype: single dimensions of the residual stream are so large
        # that half precision overflows.
        hidden = hidden.to(self._sums.device, torch.float32)
        slot_count, width = self._sums.shape[2:]
        # Two sums in one step, and no wait for the device: which sum is part of the index.
        index = self._slots + slot_count * is_massive(self._reader.loaded, layer, hidden)
        both = slice(self._kind, self._kind + 2)
        self._sums[layer, both].view(-1, width).index_add_(0, index, hidden)
        self._counts[layer, both].view(-1).index_add_(0, index, self._ones)

        if self._kind == _PROMPT:
            # A prompt that is read in several passes overwrites this; the last pass counts.
            last = self._sums[layer, _PROMPT_LAST]
            last.index_copy_(0, self._slots[self._ends], hidden[self._ends])

    def copy_prefix(self, slots: range, source: ActivationSums, source_slot: int) -> None:
        own, one = slice(slots.start, slots.stop), slice(source_slot, source_slot + 1)
        prompt, last = slice(_PROMPT, _PROMPT + 2), _PROMPT_LAST
        self._sums[:, prompt, own] = source._sums[:, prompt, one]
        self._sums[:, last, own] = source._sums[:, last, one]
        self._counts[:, prompt, own] = source._counts[:, prompt, one]

    def finish(self, slots: Sequence[int], requests: Sequence[int]) -> None:
        if not slots:
            return
        # On the CPU, so that complete answers take no memory of the device; and all in one copy,
        # which waits for the device once.
        sums = torch.stack([self._sums[:, :, slot] for slot in slots])
        counts = torch.stack([self._counts[:, :, slot] for slot in slots])
        both = torch.cat([sums.flatten(1), counts.flatten(1)], 1).cpu()
        for slot, request, one in zip(slots, requests, both, strict=True):
            self._clear(slot)
            own_sums, own_counts = one.split([sums[0].numel(), counts[0].numel()])
            self._reader.finished[request] = self._means(
                own_sums.view(sums.shape[1:]), own_counts.view(counts.shape[1:])
            )

    def _means(self, sums: Tensor, counts: Tensor) -> Activations | None:
        """The means of one answer, whose sums are on the CPU; none if it is empty."""
        if not counts[0, _RESPONSE : _RESPONSE + 2].any():
            return None
        # One state that is not finite makes its sum so too. Layers are looked at only then.
        if not sums.isfinite().all():
            check_layers(self._reader.loaded, enumerate(sums))
        return {
            "response_avg": _mean(sums, counts, _RESPONSE),
            "prompt_avg": _mean(sums, counts, _PROMPT),
            "prompt_last": sums[:, _PROMPT_LAST].clone(),
        }

    def move(self, source_slot: int, slot: int) -> None:
        self._sums[:, :, slot] = self._sums[:, :, source_slot]
        self._counts[:, :, slot] = self._counts[:, :, source_slot]
        self._clear(source_slot)

    def _clear(self, slot: int) -> None:
        self._sums[:, :, slot].zero_()
        self._counts[:, :, slot].zero_()


def _mean(sums: Tensor, counts: Tensor, kind: int) -> Tensor:
    """Means over ordinary tokens, float32 [L+1, H]; over massive ones where there are no others."""
    chosen = kind + (counts[:, kind] == 0).long()
    layers = torch.arange(len(sums))
    return sums[layers, chosen] / counts[layers, chosen, None]
