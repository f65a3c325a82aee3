"""Define what a judge backend does: for each answer, return a score or a reason for none."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from traitcli.config import ModelConfig
from traitcli.records import Judgement, Polarity, Score, Trait

if TYPE_CHECKING:
    from traitcli.models.loaded import LoadedModel


@dataclass(frozen=True, slots=True)
class Answer:
    """One rollout as a judge sees it.

    polarity, pair  the persona that the rollout was generated with
    """

    rollout: str
    polarity: Polarity
    pair: int
    question: str
    response: str


EMPTY_ANSWER = Score(None, "empty answer", final=True)
"""What every backend returns for an answer without text. It is never asked again."""

OnJudged = Callable[[Sequence[Judgement]], None]
"""Receives final judgements, one or several at a time."""


class Judge(Protocol):
    """A judge backend."""

    identity: str
    """Name and settings in one line. Judgements of different identities are never mixed."""
    prompted: bool
    """True if the backend reads the trait's judge prompt. The prompt is then part of `judge_id`."""
    overlaps: bool
    """True if judging leaves the model's device free.

    Judging may then run while rollouts are generated, and several threads may call `score` at once,
    one for each trait.
    """

    def check(self) -> None:
        """Check the settings without sending a request. Raises ConfigError."""
        ...

    def score(self, trait: Trait, answers: Iterable[Answer], on_judged: OnJudged) -> None:
        """Judge every answer and pass final judgements to `on_judged` in the calling thread.

        The iterator `answers` may block while answers are still being generated. If one answer
        cannot be judged, its judgement has no score but a reason.

        Raises JudgeError if no answer can be judged (key rejected, model or endpoint not found,
        budget spent), and any error that `on_judged` raises.
        """
        ...

    def take_notes(self) -> list[str]:
        """What it has learned since the last call that a user should know."""
        ...

    def close(self) -> None:
        """Cancel the work in progress and close connections.

        Calls of `score` in other threads raise CancelledError.
        """
        ...


class ModelProvider(Protocol):
    """Loads the models that judges read with."""

    config: ModelConfig
    """The run's model, on the device of this worker."""

    def load(self, config: ModelConfig) -> LoadedModel:
        """Return the model of a config. The first call with that config loads it."""
        ...


# The text is stored in runs, so it stays "given" although the code says "provided".
LABELLED = "given:labels"
"""The judge id of labelled responses without scores: only their polarity is known."""


def judge_id(judge: Judge, trait: Trait) -> str:
    """Return the name that a judge's scores of a trait are stored under.

    The name is the judge's identity, with a digest of the judge prompt if the judge reads it.
    Labelled responses have a name of their own: the files of their scores, and a digest of the
    scores.
    """
    if trait.responses:
        return _provided_id(trait) if trait.is_scored else LABELLED
    if not judge.prompted:
        return judge.identity
    return f"{judge.identity}~{_digest(trait.judge_prompt)}"


def write_identity(name: str, scale: str, coherence: bool, settings: Mapping[str, object]) -> str:
    """Return the identity of a prompted judge.

    name      the backend and its model
    settings  all other settings that can change a score, JSON-able; a hash stands for them
    """
    # Judgements are stored under this text: in another form, none of them would be found.
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    return f"{name}:{scale}{'+coherence' if coherence else ''}#{digest}"


def _provided_id(trait: Trait) -> str:
    files = "+".join(dict.fromkeys(response.file for response in trait.responses))
    # Other scores in the same file are another judge, so they are part of the digest.
    scores = [(key.id, one.score, one.coherence) for key, one in trait.by_rollout().items()]
    return f"given:{files}~{_digest(repr(sorted(scores)))}"


def _digest(text: str) -> str:
    # Short, because people read and type these ids, and a run has few judge prompts.
    return hashlib.sha256(text.encode()).hexdigest()[:6]
