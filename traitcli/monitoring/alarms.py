"""Alarms on trait scores: reads rules, and tells when an answer meets one."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal, get_args

from traitcli.errors import UserError, suggest
from traitcli.monitoring.summaries import Kind, Running, Summary
from traitcli.records import Crossing

Action = Literal["stop", "fail"]
BoundOf = Callable[[int], float]
"""The bound for an answer of this many tokens."""
OperatingPoint = Callable[[str, Summary, float], BoundOf]
"""The bounds of a trait, a way to sum up and a false-positive rate."""

RATE = r"(?P<rate>\d+\.?\d*|\.\d+)\s*(?P<percent>%?)"
"""A false-positive rate as text, such as 1% or .01; `read_rate` gives its number."""
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_RULE = re.compile(
    rf"(?:(?P<kind>{'|'.join(get_args(Kind))})\()?(?P<trait>[^()<>@,\s]+)"
    rf"(?:,\s*(?P<length>\d+))?(?P<close>\))?"
    rf"\s*(?:(?P<side>[<>])\s*(?P<bound>{_NUMBER})"
    rf"|@\s*fpr\s*=\s*{RATE})",
    re.ASCII,
)
_FORMS = (
    "expected TRAIT>BOUND, FUNCTION(TRAIT)>BOUND or TRAIT@fpr=RATE%; < works too; functions: "
    "rolling, mean, first, any, ema, run"
)
_EXAMPLES = (
    "for example evil>1.5 (mean of 8 tokens in a row), any(evil)>3, run(evil,5)>1 "
    "(5 tokens in a row) or evil@fpr=1%"
)


@dataclass(frozen=True, slots=True)
class Rule:
    """When to raise an alarm.

    text     the rule as the user wrote it
    summary  how the tokens of an answer are summed up
    above    whether the sum must be above the bound, or below it
    bound    a number, or the bound for an answer of a given length
    """

    text: str
    action: Action
    trait: str
    summary: Summary
    above: bool
    bound: float | BoundOf

    def bound_at(self, tokens: int) -> float:
        """The bound for an answer of this many tokens."""
        return self.bound(tokens) if callable(self.bound) else self.bound


def parse_rule(
    text: str,
    action: Action,
    monitored: Collection[str],
    operating_point: OperatingPoint | None = None,
    option: str = "",
) -> Rule:
    """Read `evil>1.5`, `mean(evil)>0.8`, `run(evil,5)>1` or `evil@fpr=1%`.

    A rule without a function is about the highest mean of 8 tokens in a row.

    Args:
        text: The rule.
        action: What it does when it is met.
        monitored: The traits that have scores.
        operating_point: Finds the bounds of a false-positive rate.
        option: What an error calls the rule (default: the option of the action).

    Raises UserError when the text has another form, or names a trait that is not monitored.
    """
    found = _RULE.fullmatch(text.strip())
    option = f"{option or f'--{action}-on'} {text}"
    # The pattern also accepts one parenthesis alone, and a length without a function.
    if not found or bool(found["kind"]) != bool(found["close"]):
        raise UserError(f"invalid {option}", cause=_FORMS, fix=_EXAMPLES)
    summary = _parse_summary(found, option)
    trait = found["trait"]
    # Checked now and not at the first token, which comes after the model was loaded.
    if trait not in monitored:
        raise UserError(
            f"{option}: the trait {trait} is not monitored",
            cause=f"monitored: {', '.join(monitored)}",
            fix=suggest(trait, monitored) or "choose one of these",
        )
    bound: float | BoundOf
    if found["rate"]:
        bound = _find_bounds(found, action, option, summary, operating_point)
    else:
        bound = float(found["bound"])
    return Rule(text.strip(), action, trait, summary, found["side"] != "<", bound)


def _parse_summary(found: re.Match[str], option: str) -> Summary:
    # The pattern lets only these words pass.
    kind: Kind = found["kind"] or "rolling"  # type: ignore[assignment]
    length = found["length"]
    takes_length = bool(found["kind"]) and kind not in ("any", "mean")
    if (length and not takes_length) or (not length and kind == "run"):
        raise UserError(f"invalid {option}", cause=_FORMS, fix=_EXAMPLES)
    if length and int(length) < 1:
        raise UserError(f"invalid {option}", cause=f"{kind} has at least 1 token", fix=_EXAMPLES)
    return Summary(kind, int(length)) if length else Summary(kind)


def read_rate(found: re.Match[str]) -> float:
    """The false-positive rate of a match of RATE."""
    return float(found["rate"]) / (100 if found["percent"] else 1)


def is_rate(rate: float) -> bool:
    """Whether thresholds can have this false-positive rate."""
    return 0 < rate < 0.5


def _find_bounds(
    found: re.Match[str],
    action: Action,
    option: str,
    summary: Summary,
    operating_point: OperatingPoint | None,
) -> BoundOf:
    # Its thresholds are those of whole answers; a running mean crosses them sooner and more often.
    if summary.kind == "mean" and action == "stop":
        raise UserError(
            f"invalid {option}",
            cause="the false-positive rate of a mean is known for whole answers only",
            fix=f"--stop-on '{found['trait']}@fpr={found['rate']}{found['percent']}', or --fail-on",
        )
    rate = read_rate(found)
    if not is_rate(rate):
        raise UserError(
            f"invalid {option}",
            cause=f"a false-positive rate is above 0% and below 50%, not {rate:.4g}",
            # Who leaves out the sign mostly means per cent.
            fix=f"{found['trait']}@fpr={found['rate'] if is_rate(rate / 100) else 1}%",
        )
    if operating_point is None:
        raise UserError(
            f"invalid {option}",
            cause="no thresholds are known here",
            fix="name the bound, for example evil>1.5",
        )
    return operating_point(found["trait"], summary, rate)


class Alarm:
    """Follows one rule through one answer. An alarm is raised at most once.

    A rule is met by the first token from which on the answer's sum is beyond the bound. A mean with
    the action `fail` is that of the whole answer. An answer that is shorter than what the rule sums
    up is summed up at its end; then a rule that stops has nothing to stop, and a run is none.
    A score that is not finite meets every rule at once.

    tokens  length of the answer, or the most it can have; it selects the bound
    """

    def __init__(self, rule: Rule, tokens: int) -> None:
        self.rule = rule
        self._bound = rule.bound_at(tokens)
        # What is summed up must be above a bound: the scores of a rule with < change sides.
        self._sign = 1 if rule.above else -1
        self._running = Running(rule.summary)
        self._count = 0
        self._is_raised = False

    def add(self, score: float) -> Crossing | None:
        """Take the next token's score; returns the crossing when the rule is met by it."""
        self._count += 1
        value = self._running.add(self._sign * score)
        if not math.isfinite(score):
            return self._raise_for(score)
        if self.rule.summary.kind == "mean" and self.rule.action == "fail":
            return None
        return self._raise_for(value)

    def end(self) -> Crossing | None:
        """Finish the answer; returns the crossing when its sum meets the rule only now."""
        if self.rule.action == "stop" or self.rule.summary.kind == "run":
            return None
        # Now the length is known.
        self._bound = self.rule.bound_at(self._count) if self._count else self._bound
        return self._raise_for(self._running.end())

    def _raise_for(self, value: float | None) -> Crossing | None:
        # Once an answer: a view would repeat the warning for every further token.
        if value is None or self._is_raised:
            return None
        if math.isfinite(value) and not value > self._sign * self._bound:
            return None
        self._is_raised = True
        return Crossing(self.rule.text, self.rule.action, self._count - 1, self._sign * value)
