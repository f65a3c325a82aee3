"""Chooses how many sequences are decoded together: as many as fit, fewer when memory runs out."""

from __future__ import annotations

from collections.abc import Callable

from traitcli.models.footprint import pass_bytes, sequence_bytes
from traitcli.models.loaded import LoadedModel
from traitcli.models.memory import free_bytes

_MAX_SIZE = {"cpu": 128, "cuda": 512}
"""Larger batches are hardly faster."""
_MEMORY_SHARE = {"cpu": 0.5, "cuda": 0.85}
"""Share of the free memory to use; on a CPU other programs need some."""
_GROW_AFTER = 4
"""A halved size doubles after this many complete answers for each of its sequences."""


class BatchSize:
    """A number that is halved when memory runs out, and doubled after many complete answers.

    Each time memory runs out, twice as many answers are needed before it doubles.
    """

    def __init__(
        self,
        now: int,
        maximum: int | None = None,
        on_change: Callable[[int, int], None] = lambda old, new: None,
    ) -> None:
        """Start with a size.

        Args:
            now: the size.
            maximum: the size never grows beyond it; without one, it never changes.
            on_change: called with the old size and the new one.
        """
        self.now = now
        self._maximum = maximum
        self._on_change = on_change
        self._grow_after = _GROW_AFTER
        self._completed = 0

    def shrink(self) -> bool:
        """Halve the size because memory ran out; returns whether that was possible."""
        # A size that the user chose is never changed.
        if self._maximum is None or self.now == 1:
            return False
        # Memory that ran out once will do so again: later attempts to grow become rarer.
        self._grow_after *= 2
        self._change(self.now // 2)
        return True

    def complete(self) -> None:
        """Count one more complete answer; this may double the size."""
        self._completed += 1
        if self._maximum is None or self.now >= self._maximum:
            return
        if self._completed >= self._grow_after * self.now:
            self._change(min(self.now * 2, self._maximum))

    def _change(self, size: int) -> None:
        old, self.now, self._completed = self.now, size, 0
        self._on_change(old, size)


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
