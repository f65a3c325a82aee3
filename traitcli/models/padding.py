"""Puts sequences of different lengths side by side: padding, positions, one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from traitcli.models.hooks import tap
from traitcli.models.loaded import LoadedModel
from traitcli.models.reader import PassTokens, Phase, Reader, ReaderState
from traitcli.models.sequence_memory import memories_of

if TYPE_CHECKING:
    from torch import Tensor

BeginPass = Callable[[ReaderState, Phase, Sequence[int], "Tensor"], None]


def left_pad(
    sequences: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """int64 [B, T] token ids ending in the same column, and their bool [B, T] mask."""
    # On the left: the logits after every prompt are then in the last column.
    width = max(map(len, sequences))
    ids, mask = [], []
    for sequence in sequences:
        padding = width - len(sequence)
        ids.append([pad] * padding + list(sequence))
        mask.append([False] * padding + [True] * len(sequence))
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def right_pad(
    sequences: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """int64 [B, T] token ids beginning in the same column, and their bool [B, T] mask."""
    ids, mask = left_pad([list(reversed(sequence)) for sequence in sequences], pad, device)
    return ids.flip(1), mask.flip(1)


@contextmanager
def tap_masked(loaded: LoadedModel, reader: Reader) -> Iterator[BeginPass]:
    """Show a reader the hidden states of padded passes, without those of the padding.

    Yields a function to call before every pass, with the reader's state, the phase, the slot of
    each row, and the mask bool [B, T] of the columns that will be read, on the CPU.
    """
    state: ReaderState
    # For each device, the columns of [B · T] that are read; none if all are.
    read: dict[torch.device, Tensor] | None

    def begin(new_state: ReaderState, phase: Phase, slots: Sequence[int], mask: Tensor) -> None:
        nonlocal state, read
        state = new_state
        counts = mask.sum(1)
        parts = [
            torch.tensor(slots).repeat_interleave(counts),
            counts.cumsum(0) - 1,
            mask.flatten().nonzero().squeeze(1),
        ]
        # In one tensor: each copy to a device takes as long as a small kernel.
        sent = torch.split(torch.cat(parts).to(loaded.device), [len(part) for part in parts])
        read = None if mask.all() else {loaded.device: sent[2]}
        state.begin(
            phase, PassTokens(sent[0], sent[1], list(zip(slots, counts.tolist(), strict=True)))
        )

    def read_layer(layer: int, hidden: Tensor) -> None:
        flat = hidden.flatten(0, 1)
        if read is not None:
            # accelerate may have put layers on several devices.
            if flat.device not in read:
                read[flat.device] = read[loaded.device].to(flat.device)
            flat = flat[read[flat.device]]
        state.read_layer(layer, flat)

    with tap(loaded.model, reader.layers, read_layer):
        yield begin


def new_cache(loaded: LoadedModel) -> Any:
    """An empty KV cache of the kind the model wants (sliding windows included)."""
    from transformers import DynamicCache

    return DynamicCache(config=loaded.model.config)


def keep_rows(cache: Any, rows: Tensor) -> None:
    """Keep only these rows int64 [R] of a KV cache, in this order, and of what hooks remember."""
    cache.reorder_cache(rows)
    memories = memories_of(cache)
    for key, memory in memories.items():
        memories[key] = memory.index_select(0, rows.to(memory.device))


def forward(
    loaded: LoadedModel, ids: Tensor, mask: Tensor, cache: Any, last_only: bool = True
) -> Tensor:
    """Run the model on `ids` [B, T], after what the cache holds; the cache grows by T.

    Args:
        loaded: the model.
        ids: int64 [B, T].
        mask: bool [B, past + T], false for padding.
        cache: what `new_cache` made.
        last_only: whether only the last column's logits are needed.

    Returns:
        Logits [B, T or 1, V].
    """
    # Positions count real tokens only, so padding changes nothing.
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    options = {"logits_to_keep": 1} if last_only and loaded.last_logits else {}
    output = loaded.model(
        input_ids=ids,
        attention_mask=mask.long(),
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        **options,
    )
    return output.logits[:, -1:] if last_only else output.logits  # type: ignore[no-any-return]
