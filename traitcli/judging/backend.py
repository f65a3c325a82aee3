"""What a judge is: it is handed answers and says, for each, a score or why there is none."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from traitcli.config import ModelConfig
from traitcli.records import Judgement, Polarity, Trait

if TYPE_CHECKING:
    from traitcli.models.loaded import LoadedModel


@dataclass(frozen=True, slots=True)
class Answer:
    """One rollout as a judge sees it; `polarity` and `pair` say which persona wrote it."""

    rollout: str
    polarity: Polarity
    pair: int
    question: str
    response: str


OnJudged = Callable[[Sequence[Judgement]], None]
"""Takes judgements that are final, one or several at a time."""


class Judge(Protocol):
    """A judge backend."""

    identity: str
    """Name and settings in one line; judgements of different identities never mix."""
    prompted: bool
    """True when it reads the trait's judge prompt, which then is part of what a score means."""
    overlaps: bool
    """True when judging leaves the model's device free: it may run while rollouts are generated, and traits
    may be scored side by side, each in a thread of its own."""

    def check(self) -> None:
        """Raise ConfigError when it could not score anything with what it was given; asks nobody."""
        ...

    def score(self, trait: Trait, answers: Iterable[Answer], on_judged: OnJudged) -> None:
        """Judge every answer, handing over judgements as soon as they are final, in this thread.

        `answers` may still be being made while they are judged. One answer's failure is a judgement
        without a score and with a reason. Raises JudgeError when no answer could ever be judged (key
        refused, no such model or endpoint, no money left), and what `on_judged` raises.
        """
        ...

    def close(self) -> None:
        """Drop what is under way and let go of connections; `score` in other threads ends with CancelledError."""
        ...


class ModelProvider(Protocol):
    """Where a judge that reads with a model finds it."""

    config: ModelConfig
    """The model of the run, on the device of this worker."""

    def load(self, config: ModelConfig) -> LoadedModel:
        """The model, loaded at the first call with this config."""
        ...


LABELLED = "given:labels"
"""Who has judged ready responses without scores: whoever put them on one side or the other."""


def judge_id(judge: Judge, trait: Trait) -> str:
    """What a judgement of a trait is filed under: the judge, and the judge prompt where one is read.

    Ready responses have their own: the files that their scores are from, and a digest of the scores.
    """
    if trait.responses:
        return _given_id(trait) if trait.is_scored else LABELLED
    if not judge.prompted:
        return judge.identity
    return f"{judge.identity}~{_digest(trait.judge_prompt)}"


def _given_id(trait: Trait) -> str:
    files = "+".join(dict.fromkeys(response.file for response in trait.responses))
    scores = [(key.id, one.score, one.coherence) for key, one in trait.ready().items()]
    return f"given:{files}~{_digest(repr(sorted(scores)))}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:6]
