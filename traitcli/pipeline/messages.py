"""The messages between the scheduler and its workers: plain records for any transport."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from traitcli.errors import TraitError
from traitcli.events import Event, Stage
from traitcli.judging import Answer
from traitcli.records import Judgement, Rollout, RolloutKey, Trait
from traitcli.runs.states import StateBatch

# To a worker


@dataclass(frozen=True, slots=True)
class GenerateTask:
    """Rollouts of one trait to make."""

    trait: Trait
    keys: tuple[RolloutKey, ...]

    stage: Stage = "rollouts"

    @property
    def ids(self) -> tuple[str, ...]:
        """The rollouts that the task must deliver."""
        return tuple(key.id for key in self.keys)


@dataclass(frozen=True, slots=True)
class ScoreTask:
    """Answers of one trait to score with a judge that runs on the worker's device."""

    trait: Trait
    answers: tuple[Answer, ...]

    stage: Stage = "judgements"

    @property
    def ids(self) -> tuple[str, ...]:
        """The rollouts whose judgements the task must deliver."""
        return tuple(answer.rollout for answer in self.answers)


@dataclass(frozen=True, slots=True)
class ReadTask:
    """Responses of one trait to read behind their bare questions."""

    trait: Trait
    rollouts: tuple[Rollout, ...]

    stage: Stage = "readings"

    @property
    def ids(self) -> tuple[str, ...]:
        """The rollouts whose states the task must deliver."""
        return tuple(rollout.id for rollout in self.rollouts)


Task = GenerateTask | ScoreTask | ReadTask


@dataclass(frozen=True, slots=True)
class ReleaseRequest:
    """Asks a worker to release a fraction of its unstarted rollouts; 1 is all of them."""

    fraction: float


@dataclass(frozen=True, slots=True)
class StopRequest:
    """Asks a worker to deliver what is finished and to end."""


WorkerInput = Task | ReleaseRequest | StopRequest


# From a worker


@dataclass(frozen=True, slots=True)
class WorkerReady:
    """A worker waits for its first task.

    location  its machine and device, if the scheduler does not know them
    """

    location: str = ""


@dataclass(frozen=True, slots=True)
class TaskStarted:
    """The model is loaded and the task runs."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The worker is alive.

    tokens     generated since the last heartbeat
    unstarted  rollouts of the task that are not started
    memory     bytes that the worker uses on its device
    """

    tokens: int
    unstarted: int
    memory: int


@dataclass(frozen=True, slots=True)
class RolloutsMade:
    """Complete rollouts, with the states of those whose response is not empty.

    states  none without such a response, or if they are stored already
    """

    rollouts: tuple[Rollout, ...]
    states: StateBatch | None = None


@dataclass(frozen=True, slots=True)
class ResponsesRead:
    """Neutral readings of rollouts; no `states` if they are stored already."""

    ids: tuple[str, ...]
    states: StateBatch | None


@dataclass(frozen=True, slots=True)
class RolloutsJudged:
    """Final judgements."""

    judgements: tuple[Judgement, ...]


Made = RolloutsMade | ResponsesRead | RolloutsJudged
"""What a task delivers."""


@dataclass(frozen=True, slots=True)
class RolloutsReleased:
    """The answer to a ReleaseRequest: rollouts that this worker will not make."""

    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TaskEnded:
    """The task is over; `failure` says what is wrong with its trait."""

    failure: TraitError | None = None


@dataclass(frozen=True, slots=True)
class RunFailed:
    """No worker can continue: the model or the judge cannot work."""

    error: TraitError


@dataclass(frozen=True, slots=True)
class WorkerGone:
    """A worker has ended. Its pool sends this if the worker died before it could.

    cause      why
    permanent  whether another worker would end in the same way
    """

    cause: str
    permanent: bool = False


@dataclass(frozen=True, slots=True)
class LogWritten:
    """Lines for the worker's log."""

    text: str


# Not a TraitError: a stop is no failure, and nothing that handles failures may catch it.
class StoppedError(Exception):
    """A worker was asked to stop; what was complete has been delivered."""


# Events too: only the process of the scheduler has a view that can show them.
Message = (
    WorkerReady
    | TaskStarted
    | Heartbeat
    | RolloutsMade
    | ResponsesRead
    | RolloutsJudged
    | RolloutsReleased
    | TaskEnded
    | RunFailed
    | WorkerGone
    | LogWritten
    | Event
)
Send = Callable[[Message], None]
