"""Estimates how many sequences can be handled together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from traitcli.models.batch_size import BatchSize, shrinking
from traitcli.models.footprint import pass_bytes, sequence_bytes
from traitcli.models.loaded import LoadedModel
from traitcli.models.memory import free_bytes

_MAX_SIZE = {"cpu": 128, "cuda": 512}
"""Larger batches are hardly faster."""
_MEMORY_SHARE = {"cpu": 0.5, "cuda": 0.85}
"""Share of the free memory to use; on a CPU other programs need some."""
_MAX_READ = 64
"""Existing texts that are read together; more are no faster."""


def estimate_size(loaded: LoadedModel, capacity: int) -> int:
    """How many sequences of `capacity` tokens fit in the free memory of the model's device.

    If the model is on several devices, the one with the least free memory decides.
    """
    kind = loaded.device.type
    text = loaded.model.config.get_text_config()
    item = loaded.model.dtype.itemsize
    free = min(free_bytes(device) for device in loaded.devices)
    usable = free * _MEMORY_SHARE.get(kind, 0.5)
    # Prompts are read in one large pass while other sequences are being generated.
    for_sequences = usable - pass_bytes(text, item)
    fitting = int(for_sequences // sequence_bytes(text, item, capacity))
    return max(1, min(_MAX_SIZE.get(kind, 128), fitting))


def choose_read_size(
    loaded: LoadedModel,
    longest: int,
    chosen: int | Literal["auto"],
    warn: Callable[[str], None] = lambda message: None,
) -> BatchSize:
    """How many existing texts to read together.

    Args:
        loaded: the model that reads; its free memory counts now.
        longest: tokens of the longest text, prompt included.
        chosen: `extract.batch_size`. A number stays.
        warn: for auto, gets a sentence each time memory runs out and the size is halved.
    """
    if chosen != "auto":
        return BatchSize(chosen)
    return shrinking(min(_MAX_READ, estimate_size(loaded, longest)), "texts", warn)
