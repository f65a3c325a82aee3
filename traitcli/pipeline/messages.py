"""What a worker is asked to do, and what it answers: plain records, so that they may cross any border."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from traitcli.errors import TraitError
from traitcli.events import Event, Stage
from traitcli.judging import Answer
from traitcli.records import Judgement, Position, Rollout, RolloutKey, Trait

if TYPE_CHECKING:
    from traitcli.records import Floats


@dataclass(frozen=True, slots=True)
class Generating:
    """Some rollouts of a trait that are to be made."""

    trait: Trait
    keys: tuple[RolloutKey, ...]

    stage: Stage = "rollouts"

    @property
    def ids(self) -> tuple[str, ...]:
        """What is finished piece by piece."""
        return tuple(key.id for key in self.keys)


@dataclass(frozen=True, slots=True)
class Scoring:
    """Some answers of a trait that a judge on a worker's device is to score."""

    trait: Trait
    answers: tuple[Answer, ...]

    stage: Stage = "judgements"

    @property
    def ids(self) -> tuple[str, ...]:
        """What is finished piece by piece."""
        return tuple(answer.rollout for answer in self.answers)


Task = Generating | Scoring


@dataclass(frozen=True, slots=True)
class Share:
    """Asks a worker to give up `part` of the rollouts that it has not begun; 1 is all of them."""

    part: float


@dataclass(frozen=True, slots=True)
class Stop:
    """Asks a worker to hand over what is finished, and to end."""


Order = Task | Share | Stop


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker waits for its first task."""

    where: str = ""
    """The machine and device, if its lead does not know them."""


@dataclass(frozen=True, slots=True)
class Began:
    """The model is loaded, and the task is at work."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A sign of life.

    tokens   written since the last one
    unbegun  rollouts of the task that are not begun
    memory   bytes that the worker takes on its device
    """

    tokens: int
    unbegun: int
    memory: int


@dataclass(frozen=True, slots=True)
class Made:
    """Rollouts that are complete; `activations` is rollout id -> position -> float32 [L+1, H]."""

    rollouts: tuple[Rollout, ...]
    activations: Mapping[str, Mapping[Position, Floats]]


@dataclass(frozen=True, slots=True)
class Judged:
    """Judgements that are final."""

    judgements: tuple[Judgement, ...]


@dataclass(frozen=True, slots=True)
class GaveUp:
    """The answer to Share: rollouts that this worker will not make."""

    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """The task is over; `failure` says what is wrong with its trait."""

    failure: TraitError | None = None


@dataclass(frozen=True, slots=True)
class Fatal:
    """No task can go on anywhere: the model or the judge cannot work."""

    error: TraitError


@dataclass(frozen=True, slots=True)
class Gone:
    """A worker has ended; said by the crew in its place where it could not say so itself."""

    cause: str


@dataclass(frozen=True, slots=True)
class Logged:
    """Lines for the worker's log."""

    text: str


class StoppedError(Exception):
    """A worker was asked to stop; what was complete has been handed over."""


Message = Ready | Began | Heartbeat | Made | Judged | GaveUp | Ended | Fatal | Gone | Logged | Event
Tell = Callable[[Message], None]
