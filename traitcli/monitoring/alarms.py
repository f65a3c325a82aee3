"""Alarms on trait scores: what a rule says, and when an answer crosses it."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from traitcli.errors import UserError, suggest
from traitcli.records import Crossing

Action = Literal["stop", "fail"]
MEAN_FROM = 8
"""Tokens from which on a running mean can stop an answer: earlier it is a few tokens' noise."""

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)"
_RULE = re.compile(
    rf"(?:(?P<kind>any|mean|run)\()?(?P<trait>[^()<>,\s]+)(?:,\s*(?P<length>\d+))?(?P<close>\))?"
    rf"\s*(?P<side>[<>])\s*(?P<bound>{_NUMBER})",
    re.ASCII,
)
_FORMS = "write evil>1.5 (any token), mean(evil)>0.8, or run(evil,5)>1 (so many tokens in a row); < works too"


@dataclass(frozen=True, slots=True)
class Rule:
    """When to raise an alarm: `any` token, the `mean` of the answer, or a `run` of so many tokens beyond a bound."""

    text: str
    action: Action
    trait: str
    kind: Literal["any", "mean", "run"]
    length: int
    above: bool
    bound: float

    def is_beyond(self, score: float) -> bool:
        """Whether a score lies strictly on the alarming side; one that is not a number never does."""
        return score > self.bound if self.above else score < self.bound


def parse_rule(text: str, action: Action, known: Collection[str]) -> Rule:
    """`evil>1.5`, `mean(evil)>0.8`, `run(evil,5)>1` -> Rule; raises UserError when it is none, or names no trait."""
    found = _RULE.fullmatch(text.strip())
    option = f"--{action}-on {text}"
    if (
        not found
        or bool(found["kind"]) != bool(found["close"])
        or bool(found["length"]) != (found["kind"] == "run")
    ):
        raise UserError(
            f"{option} is not an alarm", cause="it has no form that is known", fix=_FORMS
        )
    if found["trait"] not in known:
        raise UserError(
            f"{option} names no trait that is watched",
            cause=f"watched: {', '.join(known)}",
            fix=suggest(found["trait"], known) or "choose one of them",
        )
    length = int(found["length"] or 1)
    if length < 1:
        raise UserError(
            f"{option} is not an alarm", cause="a run has at least one token", fix=_FORMS
        )
    kind: Literal["any", "mean", "run"] = found["kind"] or "any"  # type: ignore[assignment]
    return Rule(
        text.strip(),
        action,
        found["trait"],
        kind,
        length,
        found["side"] == ">",
        float(found["bound"]),
    )


class Alarm:
    """Follows one rule through one answer; it is raised once at most.

    A mean stops an answer as soon as its running mean crosses, from the eighth token on; a mean that
    fails is the whole answer's.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._count = 0
        self._sum = 0.0
        self._run = 0
        self._is_raised = False

    def take(self, score: float) -> Crossing | None:
        """The next token's score; what it crosses, if it is the first time."""
        self._count += 1
        self._sum += score
        self._run = self._run + 1 if self.rule.is_beyond(score) else 0
        if self.rule.kind == "mean":
            running = self.rule.action == "stop" and self._count >= MEAN_FROM
            return self._raise_by(self._sum / self._count) if running else None
        return self._raise_by(score) if self._run >= self.rule.length else None

    def end(self) -> Crossing | None:
        """The answer is complete."""
        whole = self.rule.kind == "mean" and self.rule.action == "fail" and self._count
        return self._raise_by(self._sum / self._count) if whole else None

    def _raise_by(self, score: float) -> Crossing | None:
        if self._is_raised or not self.rule.is_beyond(score):
            return None
        self._is_raised = True
        return Crossing(self.rule.text, self.rule.action, self._count - 1, score)
