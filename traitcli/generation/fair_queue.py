"""A bounded queue in which clients take turns."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from traitcli.errors import BusyError

Item = TypeVar("Item")


class FairQueue(Generic[Item]):
    """Gives the items of every client in their order, and one of each client in turn.

    So a client that sends hundreds of requests delays another one by one request at a time.
    """

    def __init__(self, bound: int) -> None:
        """`bound` is the largest number of items that wait."""
        self.bound = bound
        # The client whose turn comes next is the first.
        self._waiting: dict[str, deque[Item]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def put(self, client: str, item: Item, free: int = 0) -> None:
        """Add an item behind those of its client; raises BusyError if the queue is full."""
        self.check_room(free)
        self._waiting.setdefault(client, deque()).append(item)

    def check_room(self, free: int = 0) -> None:
        """Raise BusyError if the queue is full, and more than `free` would be taken at once."""
        waiting = len(self)
        if waiting >= self.bound + free:
            raise BusyError(
                "too many requests wait",
                cause=f"{waiting} requests wait, and the limit is {self.bound}",
                fix="send the request again later",
            )

    def first(self) -> Item:
        """The item that `take` will give; the queue must not be empty."""
        return next(iter(self._waiting.values()))[0]

    def take(self) -> Item:
        """Remove the next item; the queue must not be empty."""
        client = next(iter(self._waiting))
        own = self._waiting.pop(client)
        item = own.popleft()
        if own:
            # At the end: all others come first.
            self._waiting[client] = own
        return item

    def remove(self, condition: Callable[[Item], bool]) -> list[Item]:
        """Remove all items that meet a condition, and return them."""
        removed: list[Item] = []
        for client, own in list(self._waiting.items()):
            kept: deque[Item] = deque()
            for item in own:
                # Asked once: it may change meanwhile, and an item must not be in both.
                (removed if condition(item) else kept).append(item)
            if kept:
                self._waiting[client] = kept
            else:
                del self._waiting[client]
        return removed
