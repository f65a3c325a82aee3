"""What hooks remember of each sequence, kept with its keys and values, so that it moves with them.

A hook that needs the past of a sequence keeps one tensor [sequences, …] for a batch. It belongs to
the batch's KV store or cache: where a sequence is copied, moved or dropped there, so is its memory.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Memories = dict[Hashable, "Tensor"]
"""Who remembers -> what it remembers, one row for each sequence."""

_NAME = "traitcli_memories"
"""The attribute of a cache of transformers that holds its memories."""


def memories_of(cache: Any) -> Memories:
    """The memories that belong to a cache of transformers; they end with it."""
    found: Memories = cache.__dict__.setdefault(_NAME, {})
    return found


def copy_memories(
    own: Memories, size: int, source: Memories, source_slot: int, slots: range
) -> None:
    """Let sequences begin with what is remembered of another one.

    Args:
        own: the memories of `size` sequences.
        size: the number of rows that `own` has, or gets.
        source: those of a batch, which may be the same.
        source_slot: the sequence there.
        slots: the sequences in `own` that begin like it.
    """
    for key, memory in list(source.items()):
        if key not in own:
            own[key] = memory.new_zeros(size, *memory.shape[1:])
        own[key][slots.start : slots.stop] = memory[source_slot]
    for key in own.keys() - source.keys():
        own[key][slots.start : slots.stop] = 0
