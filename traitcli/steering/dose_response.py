"""Measures how far steered answers stay coherent, and how far their score rises."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Literal

MAX_LIKELIHOOD_DROP = 1.0
"""Nats per token by which coherent answers may be less likely than unsteered ones.

Their perplexity is 2.7 times as high then. Chosen by reading answers: see docs/steering-sweep.md.
"""
MAX_REPETITION_RISE = 0.1
"""The same for repetition. Loops are likely text, so the likelihood does not show them."""
MIN_ANSWERED = 0.5
"""A coefficient is not coherent when a smaller share of its answers has any text."""
MIN_STANDARD_ERRORS = 2.5
"""Standard errors that a paired difference must have to count.

Many differences are tested, so 2 would often be chance. In pure noise (20 questions, 9
coefficients), 2.5 still finds a drop in a fifth of the trials, and an effect in one of forty.
"""
MIN_QUESTIONS = 5
"""Questions that must have a score under both of two coefficients for a comparison."""

Verdict = Literal[
    "steers both ways",
    "steers up only",
    "steers down only",
    "steers",
    "steers the wrong way",
    "does not steer",
    "falls apart",
    "cannot tell",
]


@dataclass(frozen=True, slots=True)
class ScoredAnswer:
    """An answer generated under a coefficient.

    score            0–100, by the judge; None if it is missing or the answer is empty
    coherence        the same, for a judge that gives it
    log_probability  nats per token, mean over the answer, of the unsteered model after the bare
                     question
    repetition       share of three-token runs that occurred earlier in the answer
    """

    question: str
    is_empty: bool
    score: float | None = None
    coherence: float | None = None
    log_probability: float | None = None
    repetition: float | None = None


@dataclass(frozen=True, slots=True)
class CoefficientResult:
    """The answers under one coefficient. A mean is over the answers that have the number, or None.

    dose        coefficient · ‖v‖ / ‖h‖, with the sign of the coefficient
    missing     answers with text and without a score
    error       standard error of the mean score
    perplexity  exp(−mean log-probability)
    kept        whether this coefficient and all between it and 0 are coherent
    wrong       share of the questions whose score moves against the sign of the coefficient; None
                for 0, or without a question that has a score under both
    """

    coefficient: float
    dose: float
    answers: int
    empty: int
    missing: int
    score: float | None
    error: float | None
    coherence: float | None
    log_probability: float | None
    perplexity: float | None
    repetition: float | None
    kept: bool = False
    wrong: float | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """The mean of differences between answers to the same question, and its standard error."""

    mean: float
    error: float
    questions: int

    @property
    def rises(self) -> bool:
        return self.mean > MIN_STANDARD_ERRORS * self.error

    @property
    def falls(self) -> bool:
        return -self.mean > MIN_STANDARD_ERRORS * self.error


@dataclass(frozen=True, slots=True)
class DoseResponse:
    """What steering does to a trait. A range is (lowest, highest) coefficient and includes 0.

    coherence_by  judge, or stand-ins: likelihood and repetition
    kept          the coherent range; None if unsteered answers are not coherent
    rising        the part of `kept` in which the score rises; see `measure_dose_response`
    rise          of the score, from the low end of `rising` to its high end; None if unknown
    """

    steps: tuple[CoefficientResult, ...]
    coherence_by: Literal["judge", "stand-ins"]
    kept: tuple[float, float] | None
    rising: tuple[float, float] | None
    rise: Difference | None
    verdict: Verdict

    @property
    def is_monotone(self) -> bool:
        """Whether the score rises over the whole coherent range."""
        return self.kept is not None and self.rising == self.kept and self.kept[0] < self.kept[1]


def measure_dose_response(
    answers: Mapping[float, Sequence[ScoredAnswer]], dose: float, least_coherence: float
) -> DoseResponse:
    """Measure how far answers stay coherent and how far the score rises.

    Args:
        answers: Coefficient -> its answers; 0 must be among the coefficients.
        dose: The dose of a coefficient of 1.
        least_coherence: The mean coherence, 0–100, that answers need to count as coherent.

    Returns:
        kept: With a judge's coherence, its mean is at least `least_coherence`. Without, the mean
            log-probability is at most MAX_LIKELIHOOD_DROP below the unsteered one, and repetition
            is at most MAX_REPETITION_RISE above. In both cases MIN_ANSWERED of the answers have
            text. From 0 outward, each side ends before its first coefficient that is not coherent,
            whatever comes after it.
        rising: From 0 outward, each side ends before the first coefficient whose score lies on the
            wrong side of one nearer to 0, by more than MIN_STANDARD_ERRORS.
        verdict: "steers" when the score rises from the low end of `rising` to its high end by more
            than MIN_STANDARD_ERRORS; "both ways" when it does so on both sides of 0, "up only" or
            "down only" when on one. "steers the wrong way" when it falls from the low end of `kept`
            to the high end. "falls apart" when only 0 is coherent, or 0 is not. "cannot tell" below
            MIN_QUESTIONS.
    """
    order = sorted(answers)
    steps = {c: summarize(c, c * dose, answers[c]) for c in order}
    # One scale for all: a judge's coherence and its stand-ins cannot be compared.
    by_judge = any(step.coherence is not None for step in steps.values())
    least = least_coherence if by_judge else None
    coherent = {c: is_coherent(steps[c], steps[0.0], least) for c in order}

    kept = rising = None
    inside: list[float] = []
    # When unsteered answers are not coherent, no steered one can be measured against them.
    if coherent[0.0]:
        kept = _reach(order, lambda c, nearer: coherent[c])
        inside = [c for c in order if kept[0] <= c <= kept[1]]
        rising = _reach(inside, lambda c, nearer: _keeps_rising(answers, c, nearer))
    marked = [
        replace(steps[c], kept=c in inside, wrong=wrong_share(answers[0.0], answers[c], sign=c))
        for c in order
    ]
    return DoseResponse(
        steps=tuple(marked),
        coherence_by="judge" if by_judge else "stand-ins",
        kept=kept,
        rising=rising,
        rise=difference(answers[rising[0]], answers[rising[1]]) if rising else None,
        verdict=_verdict(answers, kept, rising) if kept and rising else "falls apart",
    )


def repetition(ids: Sequence[int]) -> float:
    """Share of an answer's three-token runs that occurred earlier in it; 0 below three tokens."""
    runs = [tuple(ids[start : start + 3]) for start in range(len(ids) - 2)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def wrong_share(
    unsteered: Sequence[ScoredAnswer], steered: Sequence[ScoredAnswer], sign: float
) -> float | None:
    """Share of the questions whose score moves against `sign`; None if nothing can be compared."""
    moves = _moves(unsteered, steered)
    if not sign or not moves:
        return None
    return fmean(move * sign < 0 for move in moves)


def summarize(
    coefficient: float, dose: float, answers: Sequence[ScoredAnswer]
) -> CoefficientResult:
    """The means of the answers under one coefficient."""
    scores = [one.score for one in answers if one.score is not None]
    # An empty answer has no score. It is counted, and must not pull a mean towards 0.
    empty = sum(one.is_empty for one in answers)
    coherences = [one.coherence for one in answers]
    repetitions = [one.repetition for one in answers]
    log_probability = _mean([one.log_probability for one in answers])
    return CoefficientResult(
        coefficient=coefficient,
        dose=dose,
        answers=len(answers),
        empty=empty,
        missing=len(answers) - empty - len(scores),
        score=_mean(scores),
        error=stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else None,
        coherence=_mean(coherences),
        log_probability=log_probability,
        perplexity=None if log_probability is None else math.exp(-log_probability),
        repetition=_mean(repetitions),
    )


def is_coherent(
    step: CoefficientResult, unsteered: CoefficientResult, least_coherence: float | None
) -> bool:
    """Decide by the judge's coherence; without `least_coherence`, by its stand-ins."""
    # A model that has fallen silent would otherwise count by its few remaining answers.
    if step.answers - step.empty < MIN_ANSWERED * step.answers:
        return False
    if least_coherence is not None:
        return step.coherence is not None and step.coherence >= least_coherence
    if step.log_probability is None or unsteered.log_probability is None:
        return False
    drop = unsteered.log_probability - step.log_probability
    rise = (step.repetition or 0.0) - (unsteered.repetition or 0.0)
    return drop <= MAX_LIKELIHOOD_DROP and rise <= MAX_REPETITION_RISE


def _reach(
    order: Sequence[float], accepts: Callable[[float, Sequence[float]], bool]
) -> tuple[float, float]:
    """How far one gets from 0, downward and upward.

    `accepts` decides about a coefficient; it also gets those nearer to 0 on the same side, 0 first.
    """
    ends = []
    below = [c for c in reversed(order) if c < 0]
    above = [c for c in order if c > 0]
    for side in (below, above):
        nearer = [0.0]
        for coefficient in side:
            if not accepts(coefficient, nearer):
                break
            nearer.append(coefficient)
        ends.append(nearer[-1])
    return ends[0], ends[1]


def _keeps_rising(
    answers: Mapping[float, Sequence[ScoredAnswer]], coefficient: float, nearer: Sequence[float]
) -> bool:
    # Compared with every nearer one: each step of a slow decline alone could be chance.
    for other in nearer:
        low, high = sorted((coefficient, other))
        rise = difference(answers[low], answers[high])
        if rise is None or rise.falls:
            return False
    return True


def _verdict(
    answers: Mapping[float, Sequence[ScoredAnswer]],
    kept: tuple[float, float],
    rising: tuple[float, float],
) -> Verdict:
    # Only 0 is coherent, so there is no pair of coefficients to compare.
    if kept == (0.0, 0.0):
        return "falls apart"
    whole = difference(answers[kept[0]], answers[kept[1]])
    rise = difference(answers[rising[0]], answers[rising[1]])
    down = difference(answers[rising[0]], answers[0.0])
    up = difference(answers[0.0], answers[rising[1]])
    if whole is None or rise is None or down is None or up is None:
        return "cannot tell"
    if rise.rises:
        return _DIRECTIONS[down.rises, up.rises]
    return "steers the wrong way" if whole.falls else "does not steer"


def difference(low: Sequence[ScoredAnswer], high: Sequence[ScoredAnswer]) -> Difference | None:
    """high − low, paired by question; None with too few questions."""
    differences = _moves(low, high)
    count = len(differences)
    if count < MIN_QUESTIONS:
        return None
    return Difference(fmean(differences), stdev(differences) / math.sqrt(count), count)


def _moves(low: Sequence[ScoredAnswer], high: Sequence[ScoredAnswer]) -> list[float]:
    """high − low for each question that has a score under both."""
    # Paired, because questions differ in difficulty by more than a dose changes.
    before = {one.question: one.score for one in low if one.score is not None}
    return [
        one.score - before[one.question]
        for one in high
        if one.score is not None and one.question in before
    ]


def _mean(numbers: Sequence[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return fmean(known) if known else None


_DIRECTIONS: dict[tuple[bool, bool], Verdict] = {
    (True, True): "steers both ways",
    (False, True): "steers up only",
    (True, False): "steers down only",
    (False, False): "steers",
}
"""Whether the score rises below 0 and above 0 -> verdict."""
