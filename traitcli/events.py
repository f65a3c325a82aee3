"""What a stage says while it works; views listen, and nothing else depends on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from traitcli.records import Crossing, Intervention, TokenScores, Usage

Stage = Literal["rollouts", "judgements", "vectors", "readings"]

STAGES: tuple[Stage, ...] = ("rollouts", "judgements", "vectors")
"""Those of a run, in the order in which they are done; readings are made where steering is inspected."""


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A command begins; `notes` are facts worth reading before it works, `todo` rollouts are to be made.

    builds  whether vectors come of it
    """

    run: str
    directory: str
    traits: tuple[str, ...]
    devices: tuple[str, ...]
    notes: tuple[str, ...] = ()
    todo: int = 0
    builds: bool = True


@dataclass(frozen=True, slots=True)
class ModelLoading:
    model: str
    device: str
    step: str
    """What is being done, in words: 'converting', 'loading'."""


@dataclass(frozen=True, slots=True)
class ModelLoaded:
    """`revision` is a commit of the hub or a digest of the file, `hardware` the GPU's name; each empty if unknown."""

    model: str
    device: str
    blocks: int
    hidden_size: int
    seconds: float
    revision: str = ""
    hardware: str = ""


@dataclass(frozen=True, slots=True)
class StageStarted:
    """`done` of `total` were on disk already."""

    trait: str
    stage: Stage
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Progressed:
    """`done` of `total` are on disk now; `tokens` were made since the last event.

    missing    judgements without a score so far
    waiting    answers that the judge has not been given yet
    in_flight  answers that the judge has been given and has not scored yet
    usd        what judging has cost in this command, if the judge's price is known
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
    trait: str
    stage: Stage
    seconds: float


@dataclass(frozen=True, slots=True)
class WorkerSeen:
    """What a worker is doing.

    doing   starting, loading, waiting, gone, or the stage of `trait` that it works on
    done    of `total` of its share of that stage
    tokens  made since the last event
    memory  bytes that it takes on its device; 0: not known
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
    """`summary` holds the numbers that `inspect vectors` prints too."""

    trait: str
    path: str
    summary: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Warned:
    """Something the user must know and that stops nothing; `trait` may be empty."""

    trait: str
    message: str


@dataclass(frozen=True, slots=True)
class TraitFailed:
    """One trait cannot go on; the others do."""

    trait: str
    stage: str
    problem: str
    cause: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True)
class RunFinished:
    """A command has done what it could; `used` is what its judge took."""

    run: str
    directory: str
    seconds: float
    failures: int
    used: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class MonitorStarted:
    """A generation is about to be watched; `layers` is trait -> row, `about` what the record says of its origin."""

    prompt: str
    model: str
    traits: tuple[str, ...]
    layers: Mapping[str, int]
    notes: tuple[str, ...] = ()
    steering: tuple[Intervention, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PromptScored:
    """All tokens of the prompt, its template's too: trait -> n scores."""

    tokens: tuple[str, ...]
    raw: Mapping[str, tuple[float, ...]]
    calibrated: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class TokenScored:
    """One response token; raw in activation units, calibrated −1…+1 at the class means.

    `text` is empty while a character is incomplete; the token that completes it has it all. `rows` are the scores
    of one trait at every row, if they are asked for: calibrated, or raw where its vector has no class means.
    """

    index: int
    text: str
    raw: Mapping[str, float]
    calibrated: Mapping[str, float]
    by_layer: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class AlarmRaised:
    """A rule was crossed for the first time in an answer."""

    crossing: Crossing


@dataclass(frozen=True, slots=True)
class TextsRead:
    """`done` of `total` texts that were there already have been scored; `tokens` in all, of prompts too."""

    done: int
    total: int
    tokens: int


@dataclass(frozen=True, slots=True)
class MonitorFinished:
    """An answer is complete, or was interrupted; its record is kept at `path`, unless that is empty."""

    path: str
    tokens: int
    seconds: float
    finish_reason: str
    record: TokenScores | None = None


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
