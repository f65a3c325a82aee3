"""What goes into the decode loop, and what comes out of it at every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt to continue, and the seed of its own random numbers."""

    ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class Step:
    """One step of the loop.

    written  (request, token) of each token just written; its state has been read
    ended    (request, why) of each answer that is complete now
    """

    written: Sequence[tuple[int, int]]
    ended: Sequence[tuple[int, FinishReason]]
