"""What a judge is: it is handed answers and says, for each, a score or why there is none."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from traitcli.records import Judgement, Polarity, Trait


@dataclass(frozen=True, slots=True)
class Answer:
    """One rollout as a judge sees it; `polarity` and `pair` say which persona wrote it."""

    rollout: str
    polarity: Polarity
    pair: int
    question: str
    response: str


class Judge(Protocol):
    """A judge backend."""

    identity: str
    """Name and settings in one line; judgements of different identities never mix."""
    prompted: bool
    """True when it reads the trait's judge prompt, which then is part of what a score means."""
    overlaps: bool
    """True when judging leaves the model's device free, so it may run while rollouts are generated."""

    def check(self) -> None:
        """Raise ConfigError when it could not score anything with what it was given; asks nobody."""
        ...

    def score(self, trait: Trait, answers: Sequence[Answer], on_judged: Callable[[Judgement], None]) -> None:
        """Judge every answer, handing over each judgement as soon as it is final.

        One answer's failure is a judgement without a score and with a reason. Raises JudgeError
        when no answer could ever be judged (key refused, no such model or endpoint).
        """
        ...


def judge_id(judge: Judge, trait: Trait) -> str:
    """What a judgement of a trait is filed under: the judge, and the judge prompt where one is read."""
    if not judge.prompted:
        return judge.identity
    return f"{judge.identity}~{hashlib.sha256(trait.judge_prompt.encode()).hexdigest()[:6]}"
