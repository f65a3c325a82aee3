"""Attention over packed tokens: sequences of any lengths go through a model without padding.

The model gets all N tokens as one sequence: its linear layers, norms and hooks see no padding.
Only attention must know which token belongs to which sequence. Ours is registered with
transformers, and a `PackedInput` tells it: models pass this keyword on to their attention layers.

    packed tokens   a5 a6 b2 c0 c1 c2        (letter: sequence, digit: position in it)

    In each layer:

    1. Write the new keys and values where      position  0  1  2  3  4  5  6
       they stay, at (slot, position) of        slot 0    .  .  .  .  .  a5 a6
       the KV store. Nothing moves when a       slot 1    .  .  b2
       sequence grows.                          slot 2    c0 c1 c2

    2. Pad the queries [R, width].              a5 a6 --
                                                b2 -- --
                                                c0 c1 c2

    3. Each query sees the keys of its slot up to its own position, under a mask [width, span].
       Of a long text some queries at a time, because masks grow with the square of its length.
    4. Take the padding out again: [N, heads, D].
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import add
from typing import TYPE_CHECKING, Any, Literal

import torch

from traitcli.models.attention import AttentionRule, fused_attention, matmul_attention
from traitcli.models.masks import as_mask, see_keys

if TYPE_CHECKING:
    from torch import Tensor

    from traitcli.models.kv_store import KVStore
    from traitcli.models.loaded import LoadedModel

Content = Literal["prefixes", "prompts", "responses"]

_NAME = "traitcli_packed"
"""The name under which transformers finds this attention."""
ATTENTION_BYTES = 2**28
"""Limits masks, and scores where they are kept: queries of a long text attend in several parts."""
_MATMUL_FROM = 4
"""With at least this many sequences of one new token, matrix products beat the fused CPU kernel."""


@dataclass(frozen=True, slots=True, eq=False)
class NewTokens:
    """Tokens to read of R sequences.

    known      tokens that each sequence has already
    new        the new ones of each, at least one
    slots      slot of each sequence, rising
    logits_at  K indices into all new tokens; none: each sequence's last one
    """

    known: Sequence[int]
    new: Sequence[Sequence[int]]
    slots: Sequence[int]
    logits_at: Sequence[int] | None = None


class PackedInput:
    """New tokens of R sequences, N in all.

    ids        int64 [N], the tokens of all sequences, one sequence after another
    positions  int64 [N], each token's position in its sequence
    slots      int64 [N], the slot of each token's sequence
    ends       int64 [R], the index of each sequence's last token
    logits_at  int64 [K], the indices of the tokens after which logits are wanted
    content    prefixes: shared beginnings of prompts
               prompts: the rest of prompts, to their end
               responses: what follows prompts
    """

    def __init__(
        self,
        store: KVStore,
        sequences: NewTokens,
        device: torch.device,
        content: Content = "responses",
    ) -> None:
        lengths = [len(ids) for ids in sequences.new]
        totals = list(map(add, sequences.known, lengths))
        self.content = content
        self._store = store
        self._sequences = sequences
        self._count = len(lengths)
        first, last = sequences.slots[0], sequences.slots[-1]
        # Neighbors are read where they are; a copy is made of others.
        self._own_slots = slice(first, last + 1) if last - first < self._count else None
        self._width = max(lengths)
        self._span = max(totals)
        self._shortest = min(totals)
        self._is_padded = min(lengths) != self._width
        # Layers with the same window share a mask.
        self._masks: dict[tuple[int | None, torch.dtype, torch.device], Tensor | None] = {}
        self._copies: dict[tuple[str, torch.device], Tensor] = {}

        parts = _step_numbers(sequences) if self.is_step else _pass_numbers(sequences, self._width)
        if sequences.logits_at is not None:
            parts["logits_at"] = sequences.logits_at
        if self._own_slots is None:
            parts["sequence_slots"] = sequences.slots
        # In one tensor: each copy to a device takes as long as a small kernel.
        numbers = torch.tensor([number for part in parts.values() for number in part])
        sent = torch.split(numbers.to(device), list(map(len, parts.values())))
        self._parts = dict(zip(parts, sent, strict=True))
        self.ids, self.positions = self._parts["ids"], self._parts["positions"]
        self.slots, self.ends = self._parts["slots"], self._parts["ends"]
        self.logits_at = self._parts.get("logits_at", self.ends)

    @property
    def store(self) -> KVStore:
        """Where the keys and values of the sequences are."""
        return self._store

    @property
    def is_step(self) -> bool:
        """Whether one token of each sequence is read."""
        return self._width == 1

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, rule: AttentionRule
    ) -> Tensor:
        """[N, heads, D] from `query` [N, heads, D], and `key` and `value` [N, kv heads, D]."""
        self._store.windows.add(rule.window)
        if self._count == self._width == 1:
            return self._attend_one_token(layer, query[0], key[0], value[0], rule)
        slots, positions = self._on(key.device, "slots"), self._on(key.device, "positions")
        all_keys, all_values = self._store.write(layer, slots, positions, key, value)
        return self.mix(query, all_keys, all_values, rule)

    def mix(
        self, query: Tensor, all_keys: Tensor, all_values: Tensor, rule: AttentionRule
    ) -> Tensor:
        """[N, heads, D] from the keys and values of a layer, the new ones among them."""
        neighbors = self._own_slots
        chosen = self._on(query.device, "sequence_slots") if neighbors is None else neighbors
        keys = all_keys[chosen, :, : self._span]
        values = all_values[chosen, :, : self._span]

        # [R, kv heads, groups, width, D]: no key is repeated for the heads that share it.
        kv_heads = keys.shape[1]
        groups = query.shape[1] // kv_heads
        shape = (self._count, self._width, kv_heads, groups, query.shape[2])
        queries = self._pad(query).view(*shape).permute(0, 2, 3, 1, 4)

        is_large_cpu_step = (
            queries.device.type == "cpu" and self.is_step and self._count >= _MATMUL_FROM
        )
        attend, dtype = fused_attention, torch.bool
        bytes_per_query = self._count * groups * self._span
        if rule.needs_matmul or is_large_cpu_step:
            attend, dtype = matmul_attention, torch.float32
            bytes_per_query *= 4 * kv_heads  # scores of every head, in float32
        together = max(1, ATTENTION_BYTES // bytes_per_query)

        if together >= self._width:
            mask = self._mask(rule.window, groups, dtype, queries.device)
            mixed = attend(queries.flatten(2, 3), keys, values, mask, rule)
            whole = mixed.view(self._count, kv_heads, groups, self._width, -1)
        else:
            parts = []
            for start in range(0, self._width, together):
                own = queries[:, :, :, start : start + together]
                # Not kept for the next layer: all of them grow with the square of a text's length.
                positions = self._queries(own.device)[:, start : start + together]
                span = self._span_between(start, start + together)
                seen = see_keys(positions, span, rule.window)
                mask = as_mask(seen, groups, dtype)
                found = attend(
                    own.flatten(2, 3), keys[:, :, :span], values[:, :, :span], mask, rule
                )
                parts.append(found.view(*own.shape[:4], -1))
            whole = torch.cat(parts, 3)
        return self._unpad(whole.permute(0, 3, 1, 2, 4).flatten(2, 3))

    def _attend_one_token(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, rule: AttentionRule
    ) -> Tensor:
        """The same for one token of one sequence, [heads, D] each.

        It needs no mask and fewer kernels: a monitored answer is written this way, token by token.
        """
        position = self._span - 1
        all_keys, all_values = self._store.write_one(
            layer, self._sequences.slots[0], position, key, value
        )
        start = 0 if rule.window is None else max(0, self._span - rule.window)
        keys = all_keys[None, :, start : self._span]
        values = all_values[None, :, start : self._span]
        queries = query.view(1, keys.shape[1], -1, query.shape[1])
        mixed = matmul_attention(queries, keys, values, None, rule)
        return mixed.view(1, query.shape[0], -1)

    def _on(self, device: torch.device, name: str) -> Tensor:
        """A part on a device: accelerate may have put layers on several."""
        part = self._parts[name]
        if part.device == device:
            return part
        # Kept, so that a device gets it once and not once for each of its layers.
        if (name, device) not in self._copies:
            self._copies[name, device] = part.to(device)
        return self._copies[name, device]

    def _queries(self, device: torch.device) -> Tensor:
        """[R, width]: the position of each padded query, −1 for padding."""
        part = self._on(device, "positions" if self.is_step else "queries")
        return part.view(self._count, self._width)

    def _span_between(self, start: int, end: int) -> int:
        """How many keys the queries of the columns `start` to `end` see."""
        pairs = zip(self._sequences.known, self._sequences.new, strict=True)
        return max(known + min(len(ids), end) for known, ids in pairs if len(ids) > start)

    def _pad(self, packed: Tensor) -> Tensor:
        """[N, …] -> [R, width, …]"""
        if self._is_padded:
            padded = packed.new_zeros(self._count * self._width, *packed.shape[1:])
            packed = padded.index_copy_(0, self._on(packed.device, "padded"), packed)
        return packed.reshape(self._count, self._width, *packed.shape[1:])

    def _unpad(self, padded: Tensor) -> Tensor:
        """[R, width, …] -> [N, …]"""
        flat = padded.flatten(0, 1)
        return flat[self._on(flat.device, "padded")] if self._is_padded else flat

    def _mask(
        self, window: int | None, groups: int, dtype: torch.dtype, device: torch.device
    ) -> Tensor | None:
        """[R, 1, groups · width, span]; none if every query sees every key."""
        key = (window, dtype, device)
        if key not in self._masks:
            # Known here from the lengths: a look at the mask would wait for the device.
            is_one_length = self.is_step and self._shortest == self._span
            sees_all = is_one_length and (window is None or self._span <= window)
            seen = None if sees_all else see_keys(self._queries(device), self._span, window)
            self._masks[key] = None if seen is None else as_mask(seen, groups, dtype)
        return self._masks[key]


def _step_numbers(sequences: NewTokens) -> dict[str, Sequence[int]]:
    """The numbers of `_pass_numbers` where each sequence has one new token, and no padding."""
    return {
        "ids": [ids[0] for ids in sequences.new],
        "positions": sequences.known,
        "slots": sequences.slots,
        "ends": range(len(sequences.new)),
    }


def _pass_numbers(sequences: NewTokens, width: int) -> dict[str, Sequence[int]]:
    """What the device must know of new tokens, besides `ids`, `positions`, `slots` and `ends`:

    queries  [R · width], the position of each padded query, −1 for padding
    padded   [N], where each token goes among the padded queries
    """
    ids: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    ends: list[int] = []
    queries: list[int] = []
    padded: list[int] = []
    for number, (known, new) in enumerate(zip(sequences.known, sequences.new, strict=True)):
        own = range(known, known + len(new))
        ids += new
        positions += own
        slots += [sequences.slots[number]] * len(new)
        ends.append(len(ids) - 1)
        queries += [*own, *[-1] * (width - len(new))]
        padded += range(number * width, number * width + len(new))
    names = ("ids", "positions", "slots", "ends", "queries", "padded")
    return dict(zip(names, (ids, positions, slots, ends, queries, padded), strict=True))


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Called by transformers in every layer, with [1, heads, N, D]; see `AttentionInterface`."""
    scale = options.get("scaling")
    rule = AttentionRule(
        scale=query.shape[-1] ** -0.5 if scale is None else scale,
        window=options.get("sliding_window"),
        cap=options.get("softcap"),
        sinks=options.get("s_aux"),
    )
    query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
    packed: PackedInput = options["packed_input"]
    return packed.attend(module.layer_idx, query, key, value, rule)[None], None


@contextmanager
def use_packed_attention(loaded: LoadedModel) -> Iterator[None]:
    """Let the model read packed inputs; restores its own attention on exit."""
    from transformers import AttentionInterface

    AttentionInterface.register(_NAME, _attention)
    before = loaded.model.config._attn_implementation
    loaded.model.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        loaded.model.set_attn_implementation(before)


def run_packed(loaded: LoadedModel, packed: PackedInput, logits_at: Tensor) -> Tensor:
    """One forward pass; logits [K, V] after the tokens at `logits_at` int64 [K]."""
    with _choosing_states(loaded, logits_at) as logits_to_keep:
        output = loaded.model(
            input_ids=packed.ids[None],
            position_ids=packed.positions[None],
            use_cache=False,
            logits_to_keep=logits_to_keep,
            packed_input=packed,
        )
    return output.logits[0]  # type: ignore[no-any-return]


@contextmanager
def _choosing_states(loaded: LoadedModel, logits_at: Tensor) -> Iterator[Tensor | int]:
    """Let the model compute the logits at `logits_at` only; yields its `logits_to_keep`."""
    if not loaded.is_spread:
        yield logits_at
        return

    # accelerate moves all arguments to the first device, and the last states are on another one. So
    # the output layer chooses among them itself. 0 means that it gets all.
    def choose(module: Any, args: tuple[Tensor]) -> tuple[Tensor]:
        (hidden,) = args
        return (hidden[:, logits_at.to(hidden.device)],)

    hook = loaded.model.get_output_embeddings().register_forward_pre_hook(choose)
    try:
        yield 0
    finally:
        hook.remove()
