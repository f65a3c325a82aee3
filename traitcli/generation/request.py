"""What goes into the decode loop, and what comes out of it at every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from traitcli.models.reader import Floats

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt to continue, and the seed of its own random numbers."""

    ids: tuple[int, ...]
    seed: int


# A number and not ids: the decode loop alone knows the order in which requests start.
Release = Callable[[int], int]
"""Called at every step with the number of unstarted requests; returns how many to release."""


def release_none(unstarted: int) -> int:
    """Keep all requests."""
    return 0


# Compared by identity, because comparing arrays gives no single truth value.
@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One step of the decode loop.

    written        (request, token) of each token just written; its hidden states have been read
    scores         float32 [n, P], what the reader computed for each of the n written tokens, in
                   their order; none if nothing was written or the reader scores no tokens
    ended          (request, reason) of each answer that is now complete
    released       requests that were not started, and will not be
    prompt_scores  (request, float32 [T, P]) of each prompt just read, if the reader scores prompts
    """

    written: Sequence[tuple[int, int]] = ()
    scores: Floats | None = None
    ended: Sequence[tuple[int, FinishReason]] = ()
    released: Sequence[int] = ()
    prompt_scores: Sequence[tuple[int, Floats]] = ()
