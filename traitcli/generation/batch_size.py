"""Estimates how many sequences can be handled together."""

from __future__ import annotations

from traitcli.models.footprint import pass_bytes, sequence_bytes
from traitcli.models.loaded import LoadedModel
from traitcli.models.memory import free_bytes

_MAX_SIZE = {"cpu": 128, "cuda": 512}
"""Larger batches are hardly faster."""
_MEMORY_SHARE = {"cpu": 0.5, "cuda": 0.85}
"""Share of the free memory to use; on a CPU other programs need some."""


def estimate_size(loaded: LoadedModel, capacity: int) -> int:
    """How many sequences of `capacity` tokens fit in the free memory of the model's device."""
    kind = loaded.device.type
    text = loaded.model.config.get_text_config()
    item = loaded.model.dtype.itemsize
    usable = free_bytes(loaded.device) * _MEMORY_SHARE.get(kind, 0.5)
    # Prompts are read in one large pass while other sequences are being generated.
    for_sequences = usable - pass_bytes(text, item)
    fitting = int(for_sequences // sequence_bytes(text, item, capacity))
    return max(1, min(_MAX_SIZE.get(kind, 128), fitting))
