"""One new token of each sequence, where no shape and no address changes from step to step.

Everything that a step needs is on the device already, so it can be replayed as a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from traitcli.models.attention import AttentionRule
from traitcli.models.kv_store import KVStore
from traitcli.models.packed_attention import PackedInput
from traitcli.models.step_kernels import KERNELS, Asked, Kernel, Lengths, choose_kernel

if TYPE_CHECKING:
    from torch import Tensor


class Kernels:
    """Which kernel attends for each kind of layer; found out in the first step that is run."""

    def __init__(self, kernels: Sequence[Kernel]) -> None:
        self._kernels = kernels
        self._chosen: dict[object, Kernel | None] = {}

    @classmethod
    def for_device(cls, device: torch.device) -> Kernels:
        """All kernels on CUDA; elsewhere our own attention is used."""
        return cls(KERNELS if device.type == "cuda" else ())

    def mix(
        self,
        packed: FixedInput,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        rule: AttentionRule,
    ) -> Tensor:
        """[R, heads, D] from all keys and values of a layer, see `PackedInput.mix`."""
        kind = (rule.window, rule.cap, rule.sinks is None, query.shape, query.dtype, query.device)
        if kernel := self._chosen.get(kind):
            return kernel(query, *packed.own(keys, values), packed.lengths_on(query.device), rule)
        expected = packed.mix_with_mask(query, keys, values, rule)
        if self._kernels and kind not in self._chosen:
            own, lengths = packed.own(keys, values), packed.lengths_on(query.device)
            asked = Asked(query, *own, lengths, rule)
            self._chosen[kind] = choose_kernel(self._kernels, asked, expected)
        return expected

    @property
    def names(self) -> set[str]:
        """The kernels in use; our own attention is called masked."""
        found = self._chosen.values()
        return {getattr(kernel, "__name__", "masked") if kernel else "masked" for kernel in found}


@dataclass(frozen=True, slots=True, eq=False)
class StepTensors:
    """What a step reads on the device, int64 [R] each; the step changes the first two.

    ids        the token of each sequence
    positions  its position
    slots      0 to R − 1
    """

    ids: Tensor
    positions: Tensor
    slots: Tensor


class FixedInput(PackedInput):
    """One token of each sequence in slots 0 to R − 1."""

    def __init__(
        self,
        store: KVStore,
        tensors: StepTensors,
        capacity: int,
        span: int,
        kernels: Kernels,
    ) -> None:
        """Kernels read slots of `capacity` tokens; our own attention only the first `span`."""
        # Not the parent's: it makes everything on the CPU, from lists.
        ids, positions, slots = tensors.ids, tensors.positions, tensors.slots
        self.content = "responses"
        self.ids, self.positions, self.slots = ids, positions, slots
        self.ends = self.logits_at = slots
        self._store = store
        self._capacity, self._kernels = capacity, kernels
        self._count, self._width, self._span = len(slots), 1, span
        self._own_slots = slice(0, len(slots))
        # The lengths are not known here, so there is always a mask.
        self._shortest, self._is_padded = -1, False
        self._masks = {}
        self._copies = {}
        self._parts = {"ids": ids, "positions": positions, "slots": slots}
        self._lengths: dict[torch.device, Lengths] = {}

    def begin(self) -> None:
        """Forget what was made of the last step's positions."""
        self._masks.clear()
        self._copies.clear()
        self._lengths.clear()

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, rule: AttentionRule
    ) -> Tensor:
        self._store.windows.add(rule.window)
        slots, positions = self._on(key.device, "slots"), self._on(key.device, "positions")
        stored = self._store.write(layer, slots, positions, key, value)
        return self._kernels.mix(self, query, *stored, rule)

    def mix_with_mask(
        self, query: Tensor, keys: Tensor, values: Tensor, rule: AttentionRule
    ) -> Tensor:
        """The attention of the parent."""
        return super().mix(query, keys, values, rule)

    def own(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The keys and values of the sequences that are read, up to their capacity."""
        return keys[: self._count], values[: self._count]

    def lengths_on(self, device: torch.device) -> Lengths:
        """How much of each slot is read."""
        if device not in self._lengths:
            self._lengths[device] = Lengths.of(self._on(device, "positions"), self._capacity)
        return self._lengths[device]
