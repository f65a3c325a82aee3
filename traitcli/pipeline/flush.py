"""Hands over rollouts as they are completed, some at a time, whatever stops the work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from traitcli.pipeline.messages import GaveUp, Made, StoppedError, Tell
from traitcli.records import Position, Rollout

if TYPE_CHECKING:
    from traitcli.records import Floats

_TOGETHER = 16
"""Rollouts that are handed over together, at most: so many are lost with a kill, and held in memory."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A rollout that is complete; `activations` is position -> float32 [L+1, H], none of an empty answer."""

    rollout: Rollout
    activations: Mapping[Position, Floats] | None


def hand_over(
    coming: Iterable[Finished | GaveUp], tell: Tell, most: Callable[[], int] = lambda: _TOGETHER
) -> None:
    """Tell of rollouts as they come, at most `most` together; of those given up at once.

    Stopped at a step, it tells first of what is complete.
    """
    waiting: list[Finished] = []

    def empty() -> None:
        if waiting:
            tell(
                Made(
                    tuple(one.rollout for one in waiting),
                    {one.rollout.id: one.activations for one in waiting if one.activations},
                )
            )
            waiting.clear()

    try:
        for one in coming:
            if isinstance(one, GaveUp):
                tell(one)
                continue
            waiting.append(one)
            if len(waiting) >= min(most(), _TOGETHER):
                empty()
    except (KeyboardInterrupt, SystemExit, StoppedError):
        empty()
        raise
    empty()
