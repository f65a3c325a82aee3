"""Handles as many sequences together as fit: halves their number when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from traitcli.models.memory import ran_out_of_memory

_GROW_AFTER = 4
"""A halved size doubles after this many complete answers for each of its sequences."""

Result = TypeVar("Result")


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

    @property
    def share(self) -> float:
        """The size, as a share of its maximum."""
        return self.now / self._maximum if self._maximum else 1.0

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


def as_batch_size(size: int | BatchSize) -> BatchSize:
    """A number is a size that never changes."""
    return BatchSize(size) if isinstance(size, int) else size


def shrinking(
    size: int, things: str, warn: Callable[[str], None] = lambda message: None
) -> BatchSize:
    """A size that is only halved; `warn` then gets `memory_warning`."""
    return BatchSize(size, size, lambda old, new: warn(memory_warning(old, new, things)))


def memory_warning(old: int, new: int, things: str) -> str:
    """What to tell the user about a smaller size; `things` are counted, such as texts."""
    return f"out of memory with {old} {things} at a time: continuing with {new}"


def run_shrinking(
    count: int, size: BatchSize, run: Callable[[Sequence[int]], Iterator[tuple[int, Result]]]
) -> Iterator[tuple[int, Result]]:
    """Yield the index and the result of `count` items, with smaller batches if memory runs out.

    Everything that reads or writes with a model goes through here.

    Args:
        count: the number of items.
        size: how many are handled together. If it cannot shrink, the error is raised.
        run: takes the indices of items without a result, and yields an index and its result as soon
            as there is one. It is called again while items are left, with a size that has changed.
    """
    from accelerate.utils.memory import clear_device_cache

    pending = dict.fromkeys(range(count))
    while pending:
        try:
            for index, result in run(list(pending)):
                del pending[index]
                yield index, result
        except (RuntimeError, MemoryError) as error:
            if not (ran_out_of_memory(error) and size.shrink()):
                raise
        if pending:
            # What failed must have freed its memory before the next attempt starts.
            clear_device_cache(garbage_collection=True)
