"""Keeps the keys and values of sequences where attention finds them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from traitcli.models.sequence_memory import Memories, copy_memories

if TYPE_CHECKING:
    from torch import Tensor

Groups = tuple[tuple[int, ...], ...]
"""Layers whose keys and values have the same shapes on the same device."""


class KVStore:
    """Keys and values of sequences, one slot each: [slots, kv heads, capacity, D] for every layer.

    They are written where they stay; nothing is copied when a sequence grows. Layers of a group are
    neighbors in memory: a sequence is copied with one operation for all of them.
    """

    def __init__(
        self, slots: int, capacity: int, groups: Groups = (), *, token_by_token: bool = False
    ) -> None:
        """`capacity` is the number of tokens that fit in a slot; layers without a group have none.

        With `token_by_token`, the heads of a token are neighbors in memory, as kernels want it that
        attend to sequences of different lengths; else the tokens of a head are. The shapes are the
        same. `windows` are the sliding windows that layers have attended with; none means all
        tokens. `memories` are what hooks remember of the sequences; see `sequence_memory`.
        """
        self._token_by_token = token_by_token
        self.slots = slots
        self.memories: Memories = {}
        self.windows: set[int | None] = set()
        self.capacity = capacity
        self._group_of = {layer: group for group in groups for layer in group}
        # Group -> its keys and values, [layers, slots, kv heads, capacity, D]; layer -> its own.
        self._groups: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def groups(self) -> Groups:
        """The groups that the layers written so far could have."""
        alike: dict[object, list[int]] = {}
        for layer, states in self._layers.items():
            key = tuple((part.shape, part.dtype, part.device) for part in states)
            alike.setdefault(key, []).append(layer)
        return tuple(map(tuple, alike.values()))

    def write(
        self, layer: int, slots: Tensor, positions: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Store `keys` and `values` [N, kv heads, D] at `slots` and `positions`, both int64 [N].

        Returns all keys and all values of the layer.
        """
        stored_keys, stored_values = self.allocate(layer, keys, values)
        stored_keys[slots, :, positions] = keys
        stored_values[slots, :, positions] = values
        return stored_keys, stored_values

    def write_one(
        self, layer: int, slot: int, position: int, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Store `key` and `value` [kv heads, D] of one token.

        Returns the keys and values of its sequence, [kv heads, capacity, D].
        """
        stored_keys, stored_values = self.allocate(layer, key[None], value[None])
        stored_keys[slot, :, position] = key
        stored_values[slot, :, position] = value
        return stored_keys[slot], stored_values[slot]

    def copy_prefix(self, source: KVStore, source_slot: int, slots: range, tokens: int) -> None:
        """Copy the first tokens of a sequence of a store, and its memories, to each of `slots`."""
        copy_memories(self.memories, self.slots, source.memories, source_slot, slots)
        own, one = slice(slots.start, slots.stop), slice(source_slot, source_slot + 1)
        for group, (keys, values) in source._groups.items():
            self.allocate(group[0], keys[0, :, :, 0], values[0, :, :, 0])
            own_keys, own_values = self._groups[group]
            own_keys[:, own, :, :tokens] = keys[:, one, :, :tokens]
            own_values[:, own, :, :tokens] = values[:, one, :, :tokens]

    def clear(self, slot: int) -> None:
        """Make all keys and values of a slot 0, because masked ones must be finite too."""
        for keys, values in self._groups.values():
            keys[:, slot] = 0
            values[:, slot] = 0

    def allocate(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's tensors, made at first use to match `keys` and `values` [N, kv heads, D]."""
        if layer not in self._layers:
            group = self._group_of.get(layer, (layer,))
            # Zeros, not `empty`: masked keys must be finite, because 0 · NaN is NaN.
            both = self._zeros_like(keys, len(group)), self._zeros_like(values, len(group))
            self._groups[group] = both
            self._layers |= dict(zip(group, zip(*both, strict=True), strict=True))
        return self._layers[layer]

    def _zeros_like(self, states: Tensor, layers: int) -> Tensor:
        _, heads, width = states.shape
        if self._token_by_token:
            zeros = states.new_zeros(layers, self.slots, self.capacity, heads, width)
            return zeros.transpose(2, 3)
        return states.new_zeros(layers, self.slots, heads, self.capacity, width)
