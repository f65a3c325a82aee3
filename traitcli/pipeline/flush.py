"""Sends rollouts in batches as they are completed, and the last batch also when work is stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from traitcli.pipeline.messages import (
    Message,
    ResponsesRead,
    RolloutsMade,
    RolloutsReleased,
    Send,
    StoppedError,
)
from traitcli.records import Position, Rollout

if TYPE_CHECKING:
    from traitcli.records import Floats

_MAX_BATCH = 16
"""Rollouts sent together. A kill loses at most this many, and their activations are in memory."""


@dataclass(frozen=True, slots=True)
class FinishedRollout:
    """A complete rollout.

    activations  position -> float32 [L+1, H]; None for an empty response
    """

    rollout: Rollout
    activations: Mapping[Position, Floats] | None


def rollouts_made(finished: Sequence[FinishedRollout]) -> Message:
    """The message that delivers rollouts."""
    activations = {one.rollout.id: one.activations for one in finished if one.activations}
    return RolloutsMade(tuple(one.rollout for one in finished), activations)


def responses_read(finished: Sequence[FinishedRollout]) -> Message:
    """The message that delivers neutral readings of rollouts."""
    return ResponsesRead(
        {one.rollout.id: one.activations["response_avg"] for one in finished if one.activations}
    )


def send_in_batches(
    finished: Iterable[FinishedRollout | RolloutsReleased],
    send: Send,
    max_batch: Callable[[], int] = lambda: _MAX_BATCH,
    message: Callable[[Sequence[FinishedRollout]], Message] = rollouts_made,
) -> None:
    """Send rollouts as they are completed, at most `max_batch` together, and releases at once.

    If the work is stopped, what is complete is sent first.
    """
    waiting: list[FinishedRollout] = []

    def flush() -> None:
        if waiting:
            send(message(waiting))
            waiting.clear()

    try:
        for one in finished:
            if isinstance(one, RolloutsReleased):
                send(one)
                continue
            waiting.append(one)
            # A batch smaller than 16 ends about together: send it and do not wait for the next.
            # Asked each time, because the batch size changes when memory runs out.
            if len(waiting) >= min(max_batch(), _MAX_BATCH):
                flush()
    except (KeyboardInterrupt, SystemExit, StoppedError):
        flush()
        raise
    flush()
