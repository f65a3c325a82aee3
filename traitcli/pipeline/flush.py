"""Sends rollouts in batches as they are completed, and the last batch also when work is stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
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
from traitcli.runs.states import stack_neutral, stack_states

if TYPE_CHECKING:
    from traitcli.records import Floats

_MAX_BATCH = 16
"""Rollouts sent together. A kill loses these, and the batches that are on their way."""


@dataclass(frozen=True, slots=True)
class FinishedRollout:
    """A complete rollout.

    activations  position -> float32 [L+1, H]; None for an empty response
    prompt       the prompt that the states are of; see `digest_prompt`
    """

    rollout: Rollout
    activations: Mapping[Position, Floats] | None
    prompt: str


@dataclass(frozen=True, slots=True)
class Packer:
    """Makes the messages that deliver rollouts of one trait.

    half  whether states are stored in half precision
    sent  the prompts whose means this worker has sent; its next batches leave them out
    """

    trait: str
    half: bool
    sent: set[str]

    def rollouts_made(self, finished: Sequence[FinishedRollout]) -> Message:
        """The message that delivers rollouts."""
        states = {one.rollout.id: one.activations for one in finished if one.activations}
        prompts = {one.rollout.id: one.prompt for one in finished if one.activations}
        batch = stack_states(self.trait, states, prompts, self.sent, self.half) if states else None
        # A worker that dies loses the set with the messages: the next one sends the means again.
        self.sent.update(prompts.values())
        return RolloutsMade(tuple(one.rollout for one in finished), batch)

    def responses_read(self, finished: Sequence[FinishedRollout]) -> Message:
        """The message that delivers neutral readings of rollouts."""
        states = {
            one.rollout.id: one.activations["response_avg"] for one in finished if one.activations
        }
        batch = stack_neutral(self.trait, states, self.half) if states else None
        return ResponsesRead(tuple(states), batch)


def pack_states(message: Message) -> Message:
    """The message with its states, if it has any, in the precision in which they are stored.

    A thread that sends messages calls this: it takes ten milliseconds for an 8B model.
    """
    if isinstance(message, RolloutsMade | ResponsesRead) and message.states:
        return replace(message, states=message.states.pack())
    return message


def send_in_batches(
    finished: Iterable[FinishedRollout | RolloutsReleased],
    send: Send,
    message: Callable[[Sequence[FinishedRollout]], Message],
    max_batch: Callable[[], int] = lambda: _MAX_BATCH,
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
