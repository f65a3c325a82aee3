"""Finds the beginnings that prompts share, so that each of them is read only once.

Shared beginnings form a prefix tree, as in SGLang's RadixAttention and vLLM's prefix caching; but
all prompts are known in advance, so a prefix is dropped as soon as nothing follows it any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

Ids = tuple[int, ...]

_MIN_NEW_TOKENS = 8
"""Tokens that a prefix must add to its parent to be worth a forward pass of its own."""


@dataclass(slots=True, eq=False)
class SharedPrefix:
    """A node of the prefix tree: the beginning of several prompts, or the whole of equal ones.

    ids       its tokens, those of its parent included
    users     prompts and longer prefixes that will still be read after it
    location  (SequenceBatch, slot) where it was read; none before that, and after the last user
    logits    [V] after its last token, once one of several equal prompts was read; none if it is
              only a beginning
    """

    ids: Ids
    parent: SharedPrefix | None
    users: int = 0
    location: Any = field(default=None, repr=False)
    logits: Any = field(default=None, repr=False)

    @property
    def unread(self) -> list[SharedPrefix]:
        """This prefix and its ancestors, from the first one that is not read yet."""
        # A prefix stays in memory until all its users are read, so none above a read one is needed.
        if self.location is not None:
            return []
        ancestors = self.parent.unread if self.parent else []
        return [*ancestors, self]

    def release(self, users: int) -> None:
        """Count this many users as read; the last one frees the memory."""
        self.users -= users
        if not self.users:
            self.location = self.logits = None


def find_shared_prefixes(prompts: Sequence[Ids]) -> list[tuple[int, SharedPrefix | None]]:
    """Build the prefix tree of prompts.

    Returns (index, longest shared prefix or none) of every prompt, sorted so that each prefix is
    needed for the shortest time. A prefix is shorter than its prompts, unless these are all equal:
    at least one token must be read to give logits.
    """
    if not prompts:
        return []
    order = sorted(range(len(prompts)), key=prompts.__getitem__)
    return list(_grow(prompts, order, None))


def _grow(
    prompts: Sequence[Ids], order: Sequence[int], parent: SharedPrefix | None
) -> Iterator[tuple[int, SharedPrefix | None]]:
    """Add the prompts of `order`, which is sorted; all of them begin with `parent`."""
    first, last = prompts[order[0]], prompts[order[-1]]
    common = common_start([first, last])
    # `first` may be the beginning of all others: one of its tokens must be left to read.
    shared = first if first == last else common[: len(first) - 1]

    new_tokens = len(shared) - (len(parent.ids) if parent else 0)
    if len(order) > 1 and (first == last or new_tokens >= _MIN_NEW_TOKENS):
        if parent:
            parent.users += 1
        parent = SharedPrefix(shared, parent)

    # Prompts that agree on one token more form a subtree.
    for _, group in groupby(order, key=lambda index: prompts[index][: len(common) + 1]):
        same = list(group)
        if 1 < len(same) < len(order):
            yield from _grow(prompts, same, parent)
            continue
        for index in same:
            if parent:
                parent.users += 1
            yield index, parent


def common_start(sequences: Sequence[Ids]) -> Ids:
    """The longest beginning that all sequences share."""
    # All others lie between the lexicographic first and last, so they share what these two do.
    first, last = min(sequences), max(sequences)
    for length, (one, other) in enumerate(zip(first, last, strict=False)):
        if one != other:
            return first[:length]
    return first
