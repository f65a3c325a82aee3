"""How many sequences are decoded together: from free memory and the model's shape, and fewer when that runs out."""

from __future__ import annotations

from collections.abc import Callable

from traitcli.models.footprint import pass_bytes, sequence_bytes
from traitcli.models.loaded import LoadedModel
from traitcli.models.memory import free_bytes

_MOST = {"cpu": 128, "cuda": 512}
"""From here on more sequences are hardly faster."""
_SHARE = {"cpu": 0.5, "cuda": 0.85}
"""Of the free memory: a CPU's is shared with all other programs."""
_STRETCH = 4
"""So many times the size must be completed before a halved one is doubled again."""


class BatchSize:
    """A number that is halved when memory runs out, and doubled after a clean stretch.

    Each time it runs out, the next stretch must be twice as long. `most` is its ceiling; without one
    it stays what it is.
    """

    def __init__(
        self,
        now: int,
        most: int | None = None,
        on_change: Callable[[int, int], None] = lambda old, new: None,
    ) -> None:
        """`on_change` is told of the old size and the new one."""
        self.now = now
        self._most = most
        self._on_change = on_change
        self._stretch = _STRETCH
        self._clean = 0

    def shrink(self) -> bool:
        """Memory ran out: halve, if that is possible."""
        if self._most is None or self.now == 1:
            return False
        self._stretch *= 2
        self._change(self.now // 2)
        return True

    def complete(self) -> None:
        """One more answer is complete."""
        self._clean += 1
        if self._most and self.now < self._most and self._clean >= self._stretch * self.now:
            self._change(min(self.now * 2, self._most))

    def _change(self, size: int) -> None:
        old, self.now, self._clean = self.now, size, 0
        self._on_change(old, size)


def estimate_size(loaded: LoadedModel, capacity: int) -> int:
    """How many sequences of `capacity` tokens fit into the free memory of the model's device."""
    kind, text, item = (
        loaded.device.type,
        loaded.model.config.get_text_config(),
        loaded.model.dtype.itemsize,
    )
    room = free_bytes(loaded.device) * _SHARE.get(kind, 0.5) - pass_bytes(text, item)
    return max(1, min(_MOST.get(kind, 128), int(room // sequence_bytes(text, item, capacity))))
