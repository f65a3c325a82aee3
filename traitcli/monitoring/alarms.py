"""Alarms on trait scores: reads rules, and tells when an answer meets one."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from traitcli.errors import UserError, suggest
from traitcli.records import Crossing

Action = Literal["stop", "fail"]
Kind = Literal["any", "mean", "run"]

MEAN_FROM = 8
"""A running mean can stop an answer from this token on. That of fewer tokens is mostly noise."""

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)"
_RULE = re.compile(
    rf"(?:(?P<kind>any|mean|run)\()?(?P<trait>[^()<>,\s]+)(?:,\s*(?P<length>\d+))?(?P<close>\))?"
    rf"\s*(?P<side>[<>])\s*(?P<bound>{_NUMBER})",
    re.ASCII,
)
_FORMS = "expected TRAIT>BOUND, mean(TRAIT)>BOUND or run(TRAIT,TOKENS)>BOUND; < works too"
_EXAMPLES = "for example evil>1.5, mean(evil)>0.8 or run(evil,5)>1 (5 tokens in a row)"


@dataclass(frozen=True, slots=True)
class Rule:
    """When to raise an alarm.

    text    the rule as the user wrote it
    kind    any: one token · mean: the mean of the answer · run: `length` tokens in a row
    above   whether a score must be above the bound, or below it
    """

    text: str
    action: Action
    trait: str
    kind: Kind
    length: int
    above: bool
    bound: float

    def is_met_by(self, score: float) -> bool:
        """Whether a score is beyond the bound; a score that is not finite always is."""
        if not math.isfinite(score):
            return True
        return score > self.bound if self.above else score < self.bound


def parse_rule(text: str, action: Action, monitored: Collection[str]) -> Rule:
    """Read `evil>1.5`, `mean(evil)>0.8` or `run(evil,5)>1`.

    Raises UserError when the text has another form, or names a trait that is not monitored.
    """
    found = _RULE.fullmatch(text.strip())
    option = f"--{action}-on {text}"
    if not found:
        raise UserError(f"invalid {option}", cause=_FORMS, fix=_EXAMPLES)
    # The pattern lets only these three words pass.
    kind: Kind = found["kind"] or "any"  # type: ignore[assignment]

    # The pattern also accepts one parenthesis alone, and a length for any kind.
    is_closed = bool(found["kind"]) == bool(found["close"])
    has_length = bool(found["length"]) == (kind == "run")
    if not is_closed or not has_length:
        raise UserError(f"invalid {option}", cause=_FORMS, fix=_EXAMPLES)
    length = int(found["length"] or 1)
    if length < 1:
        raise UserError(f"invalid {option}", cause="a run has at least 1 token", fix=_EXAMPLES)
    trait = found["trait"]
    # Checked now and not at the first token, which comes after the model was loaded.
    if trait not in monitored:
        raise UserError(
            f"{option}: the trait {trait} is not monitored",
            cause=f"monitored: {', '.join(monitored)}",
            fix=suggest(trait, monitored) or "choose one of these",
        )
    return Rule(
        text=text.strip(),
        action=action,
        trait=trait,
        kind=kind,
        length=length,
        above=found["side"] == ">",
        bound=float(found["bound"]),
    )


class Alarm:
    """Follows one rule through one answer. An alarm is raised at most once.

    A mean stops the answer as soon as the running mean is beyond the bound, from token MEAN_FROM
    on. A mean with the action `fail` is that of the whole answer.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._count = 0
        self._sum = 0.0
        self._run = 0
        self._is_raised = False

    def add(self, score: float) -> Crossing | None:
        """Take the next token's score; returns the crossing when the rule is met by it."""
        self._count += 1
        self._sum += score
        # A rule for any token is a run of length 1.
        self._run = self._run + 1 if self.rule.is_met_by(score) else 0
        if self.rule.kind != "mean":
            return self._raise_for(score) if self._run >= self.rule.length else None
        if self.rule.action == "stop" and self._count >= MEAN_FROM:
            return self._raise_for(self._sum / self._count)
        return None

    def end(self) -> Crossing | None:
        """Finish the answer; returns the crossing when its mean meets the rule."""
        if self.rule.kind == "mean" and self.rule.action == "fail" and self._count:
            return self._raise_for(self._sum / self._count)
        return None

    def _raise_for(self, score: float) -> Crossing | None:
        # Once an answer: a view would repeat the warning for every further token.
        if self._is_raised or not self.rule.is_met_by(score):
            return None
        self._is_raised = True
        return Crossing(self.rule.text, self.rule.action, self._count - 1, score)
