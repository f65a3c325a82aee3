"""Ends an answer where a stop string begins, and holds back tokens that may belong to one."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")


class StopStrings(Generic[Item]):
    """Releases the tokens of one answer as soon as none of their text can be in a stop string.

    Example:
        stop = StopStrings(["\\n\\n"])
        stop.feed("a\\n", first)   # nothing: the line end may be the beginning of the stop string
        stop.feed("b", second)    # [("a\\n", first), ("b", second)]
    """

    def __init__(self, strings: Sequence[str]) -> None:
        """An empty string is ignored."""
        self._strings = [string for string in strings if string]
        self._held: deque[tuple[str, Item]] = deque()
        self._text = ""
        self.found = False
        """Whether a stop string has come. Then `feed` must not be called again."""

    def feed(self, text: str, item: Item) -> list[tuple[str, Item]]:
        """Add a token with its text; returns the tokens that are certain now, in their order.

        The text of the token in which a stop string begins is cut there; a token that lies wholly
        behind that place is dropped.
        """
        self._held.append((text, item))
        self._text += text
        starts = [self._text.find(string) for string in self._strings]
        starts = [start for start in starts if start >= 0]
        if starts:
            self.found = True
            return self._cut(min(starts))
        return self._release(len(self._text) - self._longest_beginning())

    def flush(self) -> list[tuple[str, Item]]:
        """The tokens that are still held, when the answer ends for another reason."""
        return self._release(len(self._text))

    def _release(self, certain: int) -> list[tuple[str, Item]]:
        """The first held tokens that lie within the first `certain` characters."""
        released = []
        # A token without text is certain as soon as those before it are.
        while self._held and len(self._held[0][0]) <= certain:
            text, item = self._held.popleft()
            self._text = self._text[len(text) :]
            certain -= len(text)
            released.append((text, item))
        return released

    def _cut(self, end: int) -> list[tuple[str, Item]]:
        """The held tokens up to a place in their text, and no more of their text."""
        released = []
        for text, item in self._held:
            if end <= 0:
                break
            released.append((text[:end], item))
            end -= len(text)
        self._held.clear()
        self._text = ""
        return released

    def _longest_beginning(self) -> int:
        """How many of the last characters may be the beginning of a stop string."""
        longest = max(map(len, self._strings), default=0)
        for length in range(min(longest - 1, len(self._text)), 0, -1):
            if any(string.startswith(self._text[-length:]) for string in self._strings):
                return length
        return 0
