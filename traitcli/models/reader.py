"""What reads along while the decode loop writes: it sees every hidden state once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

Phase = Literal["prompt", "response"]


class ReaderState(Protocol):
    """What was read of the sequences at some places of a batch."""

    def begin(self, phase: Phase, owners: Tensor, ends: Tensor) -> None:
        """The next pass reads N tokens: of the sequences at places `owners` int64 [N], each one's last at `ends`."""
        ...

    def __call__(self, row: int, hidden: Tensor) -> None:
        """Hidden states [N, H] of one row."""
        ...

    def inherit(self, place: int, parent: Any, there: int) -> None:
        """The prompt at a place begins with all that was read at place `there` of another account."""
        ...

    def finish(self, place: int, request: int) -> None:
        """All of a request has been read; its place becomes free."""
        ...

    def move(self, source: int, place: int) -> None:
        """A sequence moves to a free place, and leaves its own free."""
        ...


class Reader(Protocol):
    """Reads the hidden states of `rows` in every forward pass."""

    @property
    def layers(self) -> Iterable[int]: ...

    def open(self, places: int) -> ReaderState:
        """An account of so many sequences, with nothing read yet."""
        ...


class Blind:
    """A reader of no rows, and its own account: one that sees a single sequence is made from it."""

    layers: Iterable[int] = ()

    def open(self, places: int) -> ReaderState:
        return self

    def begin(self, phase: Phase, owners: Tensor, ends: Tensor) -> None:
        pass

    def __call__(self, row: int, hidden: Tensor) -> None:
        pass

    def inherit(self, place: int, parent: Any, there: int) -> None:
        pass

    def finish(self, place: int, request: int) -> None:
        pass

    def move(self, source: int, place: int) -> None:
        pass
