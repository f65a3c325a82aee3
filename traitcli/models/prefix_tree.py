"""Finds what prompts begin with together, so that each common beginning is read once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass

_WORTH = 8
"""Tokens that a stem must add to its parent to be worth a pass of its own."""


@dataclass(slots=True, eq=False)
class SharedPrefix:
    """A beginning that at least two prompts share, or the whole of prompts that are the same.

    ids     its tokens, those of its parent included
    users   prompts and stems that are still to be read behind it
    held    where what was read of it lies; none before and after
    logits  [V] after it, if it is the whole of prompts, of which one was read
    """

    ids: Ids
    parent: SharedPrefix | None
    users: int = 0
    held: Any = field(default=None, repr=False)
    logits: Any = field(default=None, repr=False)

    @property
    def is_read(self) -> bool:
        """Whether it is the whole of prompts, of which one was read."""
        return self.logits is not None

    @property
    def unread(self) -> list[SharedPrefix]:
        """The stem and those it stands on, down to the first that is held; a stem waits for all its users."""
        if self.held is not None:
            return []
        return [*(self.parent.unread if self.parent else ()), self]

    def leave(self, users: int) -> None:
        """Some users less; what was read of it goes with the last."""
        self.users -= users
        if not self.users:
            self.held = self.logits = None


def find_shared_prefixes(prompts: Sequence[Ids]) -> list[tuple[int, SharedPrefix | None]]:
    """(index, stem) of every prompt, in the order in which stems are needed for the shortest time.

    A stem leaves at least one token of each prompt to be read, unless its prompts are all the same.
    """
    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    return list(_grow(prompts, order, None)) if order else []


def _grow(
    prompts: Sequence[Ids], order: Sequence[int], parent: SharedPrefix | None
) -> Iterator[tuple[int, SharedPrefix | None]]:
    """The prompts of `order`, which are sorted and all begin with `parent`."""
    first, last = prompts[order[0]], prompts[order[-1]]
    start = common_start([first, last])  # of all of them
    shared = first if first == last else start[: len(first) - 1]
    if len(order) > 1 and (
        first == last or len(shared) - len(parent.ids if parent else ()) >= _WORTH
    ):
        if parent:
            parent.users += 1
        parent = SharedPrefix(shared, parent)
    for _, group in groupby(order, key=lambda index: prompts[index][: len(start) + 1]):
        same = list(group)
        if 1 < len(same) < len(order):
            yield from _grow(prompts, same, parent)
            continue
        for index in same:
            if parent:
                parent.users += 1
            yield index, parent


Ids = tuple[int, ...]


def common_start(sequences: Sequence[Ids]) -> Ids:
    """The longest beginning that all have in common."""
    # Between the first and the last in lexicographic order, all others share at least what these two do.
    first, last = min(sequences), max(sequences)
    same = next(
        (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first)
    )
    return first[:same]
