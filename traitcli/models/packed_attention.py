"""Runs sequences of different lengths through a model side by side without padding, over keys and values kept in place.

The model sees one row of tokens, so its matrix products hold no padding. What belongs together is
known to the attention alone, which is registered with transformers; whatever model calls it works.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.nn.functional import scaled_dot_product_attention

from traitcli.models.memory import ran_out_of_memory

if TYPE_CHECKING:
    from torch import Tensor

    from traitcli.models.loaded import LoadedModel

Reads = Literal["stems", "prompts", "texts"]
_NAME = "traitcli_packed"
_MANY = 4
"""Sequences of one new token each, from which on plain matrix products are faster on a CPU than the fused kernel."""


class KVStore:
    """Keys and values of sequences, one place each: [places, heads, capacity, D] for every layer.

    They are written where they stay; nothing is copied when a sequence grows.
    """

    def __init__(self, places: int, capacity: int) -> None:
        """`capacity` tokens a place."""
        self.places = places
        self._capacity = capacity
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}

    def write(
        self, layer: int, places: Tensor, positions: Tensor, keys: Tensor, values: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Keep `keys` and `values` [N, heads, D] at `positions` of `places`, both int64 [N]; returns all there are."""
        held = self._hold(layer, keys, values)
        for kept, new in zip(held, (keys, values), strict=True):
            kept[places, :, positions] = new
        return held

    def write_one(
        self, layer: int, place: int, position: int, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same for one token, `key` and `value` [heads, D]; returns [heads, capacity, D] of its sequence."""
        held = self._hold(layer, key[None], value[None])
        held[0][place, :, position] = key
        held[1][place, :, position] = value
        return held[0][place], held[1][place]

    def copy(self, source: KVStore, there: int, here: slice, tokens: int) -> None:
        """Take over the first tokens of the sequence at place `there` of a store, for all places `here`."""
        for layer, held in source._layers.items():
            own = self._hold(layer, held[0][:, :, 0], held[1][:, :, 0])
            for kept, new in zip(own, held, strict=True):
                kept[here, :, :tokens] = new[there, :, :tokens]

    def _hold(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Zeros at first: what is masked must still be finite."""
        if layer not in self._layers:
            shapes = (
                (self.places, like.shape[1], self._capacity, like.shape[2])
                for like in (keys, values)
            )
            new = [
                like.new_zeros(shape) for like, shape in zip((keys, values), shapes, strict=True)
            ]
            self._layers[layer] = new[0], new[1]
        return self._layers[layer]


class PackedInput:
    """Tokens to be read next, of sequences at neighbouring places of a store.

    ids        int64 [N], the new tokens of all sequences, one after another
    positions  int64 [N], each one's place in its sequence
    owners     int64 [N], each one's sequence, counted from the first
    ends       int64 [R], where the last token of each sequence stands
    reads      stems: beginnings of prompts · prompts: the rest of them, to the end · texts: what follows them
    """

    def __init__(
        self,
        store: KVStore,
        first: int,
        known: Sequence[int],
        new: Sequence[Sequence[int]],
        device: torch.device,
        reads: Reads = "texts",
    ) -> None:
        """Sequence i lies at place `first` + i, holds `known[i]` tokens, and reads `new[i]`."""
        lengths, begins = torch.tensor([len(ids) for ids in new]), torch.tensor(known)
        owners = torch.arange(len(new)).repeat_interleave(lengths)
        offsets = torch.arange(len(owners)) - (lengths.cumsum(0) - lengths)[owners]
        positions = begins[owners] + offsets
        self.reads = reads
        self._store, self._count = store, len(new)
        self._here = slice(first, first + len(new))
        self._width, self._span = int(lengths.max()), int((begins + lengths).max())
        columns = torch.full((len(new), self._width), -1)
        columns[owners, offsets] = positions
        # [R, width]: the position of each query, -1 where there is none; it stays on the CPU, where asking is cheap.
        self._columns = columns
        self._padded = (
            None
            if int(lengths.min()) == self._width
            else (owners * self._width + offsets).to(device)
        )
        self._masks: dict[tuple[int | None, torch.dtype, torch.device], Tensor | None] = {}
        self.ids = torch.tensor([token for ids in new for token in ids], device=device)
        self.positions = positions.to(device)
        self.owners = owners.to(device)
        self.ends = (lengths.cumsum(0) - 1).to(device)

    @property
    def is_step(self) -> bool:
        """Whether each sequence reads one token."""
        return self._width == 1

    @property
    def windows(self) -> set[int | None]:
        """The sliding windows that layers have attended with; none stands for no window."""
        return {window for window, *_ in self._masks}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, how: _How) -> Tensor:
        """[N, heads, D] from `query` [N, heads, D], and `key` and `value` [N, kv heads, D]."""
        if self._count == self._width == 1:
            return self._attend_alone(layer, query[0], key[0], value[0], how)
        owners, positions = (
            self.owners.to(key.device),
            self.positions.to(key.device),
        )  # layers may lie on several
        written = self._store.write(layer, self._here.start + owners, positions, key, value)
        keys, values = (held[self._here, :, : self._span] for held in written)
        groups = query.shape[1] // keys.shape[1]
        shape = (self._count, self._width, keys.shape[1], groups, query.shape[2])
        # [R, kv heads, groups · width, D]: the queries of one kv head side by side, so that no key is copied.
        rows = self._spread(query).view(*shape).permute(0, 2, 3, 1, 4).flatten(2, 3)
        if how.plain_only or (
            rows.device.type == "cpu" and self._width == 1 and self._count >= _MANY
        ):
            mask = self._mask(how.window, groups, torch.float32, rows.device)
            mixed = _attend_plainly(rows, keys, values, mask, how)
        else:
            mask = self._mask(how.window, groups, torch.bool, rows.device)
            mixed = scaled_dot_product_attention(
                rows, keys, values, attn_mask=mask, scale=how.scale
            )
        mixed = mixed.view(self._count, keys.shape[1], groups, self._width, -1)
        return self._gather(mixed.permute(0, 3, 1, 2, 4).flatten(2, 3))

    def _attend_alone(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, how: _How
    ) -> Tensor:
        """The same for one token of one sequence, [heads, D] each: without a mask, and with few steps."""
        written = self._store.write_one(layer, self._here.start, self._span - 1, key, value)
        seen = slice(0 if how.window is None else max(0, self._span - how.window), self._span)
        keys, values = (held[None, :, seen] for held in written)
        rows = query.view(1, keys.shape[1], -1, query.shape[1])
        return _attend_plainly(rows, keys, values, None, how).view(1, *query.shape[:1], -1)

    def _spread(self, packed: Tensor) -> Tensor:
        """[N, …] -> [R, width, …]"""
        if self._padded is not None:
            padded = packed.new_zeros(self._count * self._width, *packed.shape[1:])
            packed = padded.index_copy_(0, self._padded.to(padded.device), packed)
        return packed.reshape(self._count, self._width, *packed.shape[1:])

    def _gather(self, padded: Tensor) -> Tensor:
        """[R, width, …] -> [N, …]"""
        flat = padded.flatten(0, 1)
        return flat if self._padded is None else flat[self._padded.to(flat.device)]

    def _mask(
        self, window: int | None, groups: int, dtype: torch.dtype, device: torch.device
    ) -> Tensor | None:
        """[R, 1, groups · width, span], true or 0 where a query sees a key, else false or −inf; none if all is seen."""
        if (window, dtype, device) not in self._masks:
            columns = self._columns[:, :, None]
            keys = torch.arange(self._span)
            seen = keys <= columns
            if window is not None:
                seen &= keys > columns - window
            seen |= columns < 0  # padding sees anything, and is left out afterwards
            mask = None if seen.all() else seen.to(device)
            if mask is not None and dtype != torch.bool:
                mask = torch.zeros(seen.shape, dtype=dtype, device=device).masked_fill_(
                    ~mask, -torch.inf
                )
            self._masks[window, dtype, device] = (
                None if mask is None else mask[:, None].repeat(1, 1, groups, 1)
            )
        return self._masks[window, dtype, device]


@dataclass(frozen=True, slots=True)
class _How:
    """A layer's way to attend: scores · `scale`, kept below `cap` softly, the last `window` tokens only.

    sinks  [heads], the score of nothing at all, which takes its share of the attention
    """

    scale: float
    window: int | None
    cap: float | None
    sinks: Tensor | None

    @property
    def plain_only(self) -> bool:
        """Whether the fused kernel cannot do it."""
        return self.cap is not None or self.sinks is not None


def _attend_plainly(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, how: _How
) -> Tensor:
    """Faster than the fused kernel where there are few queries; the only way to cap scores, and for sinks."""
    scores = (query @ keys.transpose(2, 3)).float() * how.scale
    if how.cap is not None:
        scores = torch.tanh(scores / how.cap) * how.cap
    if mask is not None:
        scores += mask
    if how.sinks is not None:
        heads = how.sinks.float().view(
            keys.shape[1], -1
        )  # [kv heads, groups], each before all tokens of a query head
        column = heads.repeat_interleave(scores.shape[2] // heads.shape[1], 1)[None, :, :, None]
        scores = torch.cat([scores, column.expand(len(scores), -1, -1, -1)], -1)
    return scores.softmax(-1)[..., : keys.shape[2]].to(values.dtype) @ values


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in every layer; among its `options` is the `feed` that went into the model."""
    scale = options.get("scaling")
    how = _How(
        scale=query.shape[-1] ** -0.5 if scale is None else scale,
        window=options.get("sliding_window"),
        cap=options.get("softcap"),
        sinks=options.get("s_aux"),
    )
    query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
    feed: PackedInput = options["feed"]
    return feed.attend(module.layer_idx, query, key, value, how)[None], None


@contextmanager
def packed(loaded: LoadedModel) -> Iterator[None]:
    """Have the model read feeds; it attends as before on exit."""
    from transformers import AttentionInterface

    AttentionInterface.register(_NAME, _attention)
    before = loaded.model.config._attn_implementation
    loaded.model.set_attn_implementation(_NAME)
    try:
        yield
    finally:
        loaded.model.set_attn_implementation(before)


def read(loaded: LoadedModel, feed: PackedInput, keep: Tensor) -> Tensor:
    """Logits [K, V] after the tokens at `keep` int64 [K] of a feed.

    Where the model lies on several devices, its last states are on another one than `keep`: it gives all logits.
    """
    few = 0 if loaded.is_spread else keep
    output = loaded.model(
        input_ids=feed.ids[None],
        position_ids=feed.positions[None],
        use_cache=False,
        logits_to_keep=few,
        feed=feed,
    )
    logits: Tensor = output.logits[0]
    return logits[keep.to(logits.device)] if loaded.is_spread else logits


def why_not(loaded: LoadedModel) -> str:
    """Why a model cannot read feeds, found out by trying; empty when it can.

    Two short texts are read in packed steps and compared with the model's own logits, so what a model
    does beside plain attention (sinks, biases, memory of another kind) is noticed.
    """
    kinds = set(
        getattr(loaded.model.config.get_text_config(), "layer_types", None) or ["full_attention"]
    )
    if odd := kinds - {"full_attention", "sliding_attention"}:
        return f"it has layers of {' and '.join(sorted(odd))}"
    texts = [(7, 11, 5, 13, 9), (3, 8, 4)]
    store = KVStore(len(texts), max(map(len, texts)))
    begins = [text[:-1] for text in texts]
    known = [len(begin) for begin in begins]
    try:
        with torch.inference_mode():
            expected = [
                loaded.model(torch.tensor([text], device=loaded.device)).logits[0, -1]
                for text in texts
            ]
            with packed(loaded):
                first = PackedInput(store, 0, [0] * len(texts), begins, loaded.device)
                read(loaded, first, first.ends)
                feed = PackedInput(store, 0, known, [text[-1:] for text in texts], loaded.device)
                found = read(loaded, feed, feed.ends)
    except (
        TypeError,
        ValueError,
        RuntimeError,
        AttributeError,
        KeyError,
        NotImplementedError,
    ) as error:
        if ran_out_of_memory(error):
            raise
        return f"its attention does not take packed tokens ({type(error).__name__})"
    if "sliding_attention" in kinds and feed.windows <= {None}:
        return "its attention does not tell its sliding window"
    wanted = torch.stack(expected).float()
    difference = float((found.float() - wanted).norm() / wanted.norm())
    if not difference < (1e-3 if found.dtype == torch.float32 else 0.05):
        return f"packed tokens change its logits by {difference:.1g}"
    return ""
