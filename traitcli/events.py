"""Typed messages that a stage sends while it works. Views listen; nothing else depends on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from traitcli.interventions import Intervention
from traitcli.records import Crossing, TokenScores, Usage
from traitcli.vector_quality import VectorQuality

Stage = Literal["rollouts", "readings", "judgements", "vectors"]

STAGES: tuple[Stage, ...] = ("rollouts", "readings", "judgements", "vectors")
"""The stages of a run, in order. `readings` read responses again, behind their bare questions."""


# Events are frozen, because several listeners get the same one.


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A command starts.

    notes   facts that the user should read before the work begins
    todo    stage -> how many items the command still has to make, of all traits
    builds  whether the command builds vectors
    """

    run: str
    directory: str
    traits: tuple[str, ...]
    devices: tuple[str, ...]
    notes: tuple[str, ...] = ()
    todo: Mapping[Stage, int] = field(default_factory=dict)
    builds: bool = True


@dataclass(frozen=True, slots=True)
class ModelLoading:
    """A model is being loaded.

    step  converting (a GGUF file, the first time) or loading
    """

    model: str
    device: str
    step: str


@dataclass(frozen=True, slots=True)
class ModelLoaded:
    """A model is ready.

    revision  a commit of the hub or a digest of the file; empty if unknown
    hardware  the GPU's name; empty if unknown
    id        the hub's name, or the absolute path of a folder or file
    fingerprint  of its weights
    """

    model: str
    device: str
    blocks: int
    hidden_size: int
    seconds: float
    revision: str = ""
    hardware: str = ""
    id: str = ""
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class StageStarted:
    """A stage starts with `done` of `total` items on disk."""

    trait: str
    stage: Stage
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Progressed:
    """`done` of `total` items are on disk.

    tokens     tokens generated since the last event
    missing    judgements without a score so far
    waiting    answers not yet sent to the judge
    in_flight  answers sent to the judge and not yet scored
    usd        judge cost of this command so far; None if the price is unknown
    """

    trait: str
    stage: Stage
    done: int
    total: int
    tokens: int = 0
    missing: int = 0
    waiting: int = 0
    in_flight: int = 0
    usd: float | None = None


@dataclass(frozen=True, slots=True)
class StageFinished:
    """A stage ends, `seconds` after it started."""

    trait: str
    stage: Stage
    seconds: float


@dataclass(frozen=True, slots=True)
class WorkerSeen:
    """The state of a worker.

    doing   starting, loading, waiting, gone, or the stage of `trait` that it works on
    done    items done of the `total` assigned to it
    tokens  tokens generated since the last event
    memory  bytes used on its device; 0: unknown
    """

    worker: int
    device: str
    doing: str
    trait: str = ""
    done: int = 0
    total: int = 0
    tokens: int = 0
    memory: int = 0


@dataclass(frozen=True, slots=True)
class VectorBuilt:
    """A vector is on disk."""

    trait: str
    path: str
    quality: VectorQuality


@dataclass(frozen=True, slots=True)
class Warned:
    """A warning: the user should know, and the work goes on. `trait` may be empty."""

    trait: str
    message: str


@dataclass(frozen=True, slots=True)
class TraitFailed:
    """One trait failed. The others go on."""

    trait: str
    stage: str
    problem: str
    cause: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True)
class RunFinished:
    """A command ends. `used` is the usage of its judge."""

    run: str
    directory: str
    seconds: float
    failures: int
    used: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class MonitorStarted:
    """A monitored answer starts.

    layers  trait -> the layer that is read
    about   the origin that the record will state
    marks   trait -> the calibrated score where its first alarm lies
    """

    prompt: str
    model: str
    traits: tuple[str, ...]
    layers: Mapping[str, int]
    notes: tuple[str, ...] = ()
    steering: tuple[Intervention, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    marks: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PromptScored:
    """Scores of all prompt tokens, template included: trait -> n scores.

    massive  trait -> indices of the tokens whose scores mean nothing (see Scores)
    """

    tokens: tuple[str, ...]
    raw: Mapping[str, tuple[float, ...]]
    calibrated: Mapping[str, tuple[float, ...]]
    massive: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TokenScored:
    """One response token.

    text        empty while a character is incomplete; the token that completes it has all of it
    raw         trait -> projection, in activation units
    calibrated  trait -> score, −1 and +1 at the class means
    by_layer    one trait's scores at every layer, if requested: calibrated, or raw if its vector
                has no class means
    skipped     whether it is part of the thinking that means and alarms leave out
    massive     traits for which its score means nothing, and is not counted (see Scores)
    braked      texts of the caps and gates that held at it

    `str(token)` is its text.
    """

    index: int
    text: str
    raw: Mapping[str, float]
    calibrated: Mapping[str, float]
    by_layer: tuple[float, ...] = ()
    skipped: bool = False
    massive: frozenset[str] = frozenset()
    braked: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class AlarmRaised:
    """An alarm's rule was met for the first time in an answer."""

    crossing: Crossing


@dataclass(frozen=True, slots=True)
class TextsRead:
    """`done` of `total` existing texts are read. `tokens` counts all, prompts included.

    skipped  how many of those done have no scores, because they cannot be read
    """

    done: int
    total: int
    tokens: int
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class MonitorFinished:
    """An answer is complete or interrupted. `path` holds its record; empty: none was written."""

    path: str
    tokens: int
    seconds: float
    finish_reason: str
    record: TokenScores | None = None


# A union and not a base class, so that type checkers know each kind of event in a match.
Event = (
    RunStarted
    | ModelLoading
    | ModelLoaded
    | StageStarted
    | Progressed
    | StageFinished
    | WorkerSeen
    | VectorBuilt
    | Warned
    | TraitFailed
    | RunFinished
    | MonitorStarted
    | PromptScored
    | TokenScored
    | AlarmRaised
    | TextsRead
    | MonitorFinished
)
Listener = Callable[[Event], None]
