"""What goes into the decode loop, and what comes out of it at every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt to continue, and the seed of its own random numbers."""

    ids: tuple[int, ...]
    seed: int


Withdraw = Callable[[int], int]
"""Asked at every step with how many requests are not begun yet; says how many of them to give up."""


def keep_all(unbegun: int) -> int:
    """Give nothing up."""
    return 0


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the loop.

    written    (request, token) of each token just written; its state has been read
    ended      (request, why) of each answer that is complete now
    withdrawn  requests that were not begun, and will not be
    """

    written: Sequence[tuple[int, int]] = ()
    ended: Sequence[tuple[int, FinishReason]] = ()
    withdrawn: Sequence[int] = ()
