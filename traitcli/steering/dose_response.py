"""Says what pushing along a vector does, from answers that were scored: how far it holds, and whether it rises."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Literal

LESS_LIKELY = 1.0
"""Nats a token: answers that are less likely than unsteered ones by more count as fallen apart.

Their perplexity is 2.7 times as high then. Chosen by reading: see docs/steering-sweep.md.
"""
MORE_REPEATED = 0.1
"""The same for the share of three-token runs that were there before; loops are likely, so likelihood misses them."""
LEAST_SAID = 0.5
"""A coefficient under which fewer of the answers say anything at all is not kept."""
SURE = 2.5
"""Standard errors that a paired difference must have to count; many are looked at, so 2 would often be chance.

Of pure noise (20 questions, 9 coefficients) a drop is then seen in a fifth of trials, a push in one of forty.
"""
FEWEST = 5
"""Questions with a score under both of two coefficients, from which on their difference is looked at."""

Verdict = Literal[
    "pushes both ways",
    "pushes up only",
    "pushes down only",
    "pushes",
    "pushes the wrong way",
    "does not steer",
    "falls apart",
    "cannot tell",
]


@dataclass(frozen=True, slots=True)
class Scored:
    """An answer written under a coefficient.

    score            0–100, by the judge; none where it is missing, or the answer is empty
    coherence        the same, where the judge gives it
    log_probability  nats a token, mean over the answer, of the unsteered model after the bare question
    repetition       share of its three-token runs that were there before
    """

    question: str
    is_empty: bool
    score: float | None = None
    coherence: float | None = None
    log_probability: float | None = None
    repetition: float | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """What one coefficient gave; means are over the answers that have a number, and none where none has.

    dose        coefficient · ‖v‖ / ‖h‖, with the sign of the coefficient
    missing     answers that say something and have no score
    error       standard error of the mean score
    perplexity  exp(−mean log-probability)
    kept        whether it keeps coherence, and so do all between it and 0
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


@dataclass(frozen=True, slots=True)
class Difference:
    """A mean of differences between answers to the same question, its standard error, and their number."""

    mean: float
    error: float
    questions: int

    @property
    def rises(self) -> bool:
        return self.mean > SURE * self.error

    @property
    def falls(self) -> bool:
        return -self.mean > SURE * self.error


@dataclass(frozen=True, slots=True)
class DoseResponse:
    """What is to be said of a trait; ranges are of coefficients, from low to high, with 0 in them.

    coherence_by  judge, or stand-ins: likelihood and repetition
    kept          the largest coefficients either way that keep coherence; none where unsteered answers have none
    rising        how far either way the score rises within `kept`; see `sum_up`
    rise          of the score, from the low end of `rising` to its high end; none where that cannot be told
    """

    steps: tuple[Step, ...]
    coherence_by: Literal["judge", "stand-ins"]
    kept: tuple[float, float] | None
    rising: tuple[float, float] | None
    rise: Difference | None
    verdict: Verdict

    @property
    def is_monotone(self) -> bool:
        """Whether the score rises over all that keeps coherence."""
        return self.kept is not None and self.rising == self.kept and self.kept[0] < self.kept[1]


def sum_up(
    held: Mapping[float, Sequence[Scored]], dose: float, least_coherence: float
) -> DoseResponse:
    """Answers by coefficient, 0 among them, and the dose of a coefficient of 1 -> what is to be said of them.

    kept      With a judge's coherence: its mean is `least_coherence` or more. Without: the mean
              log-probability is at most LESS_LIKELY below that of the unsteered answers, and repetition at
              most MORE_REPEATED above. And LEAST_SAID of the answers say something. From 0 outward, a side
              ends before the first coefficient that does not keep it, whatever lies behind.
    rising    From 0 outward on either side, until a score lies on the wrong side of one that is nearer to 0,
              by more than SURE standard errors of the difference, answers being paired by question. Less may
              be chance. Comparing with all nearer ones finds a slow decline too.
    verdict   "pushes" when the score rises from the low end of `rising` to its high end by more than SURE
              standard errors; "both ways" when it does so on either side of 0, "up only" or "down only" when
              on one. "pushes the wrong way" when it drops from the low end of `kept` to the high end. "falls
              apart" when no coefficient but 0 is kept, and "cannot tell" below FEWEST questions.
    """
    order = sorted(held)
    by_judge = any(one.coherence is not None for answers in held.values() for one in answers)
    steps = {c: _step(c, c * dose, held[c]) for c in order}
    coherent = {
        c: _is_coherent(steps[c], steps[0.0], least_coherence if by_judge else None) for c in order
    }
    kept = _reach(order, lambda c, nearer: coherent[c]) if coherent[0.0] else None
    inside = [c for c in order if kept and kept[0] <= c <= kept[1]]
    rising = _reach(inside, lambda c, nearer: _goes_on_rising(held, c, nearer)) if kept else None
    return DoseResponse(
        steps=tuple(replace(steps[c], kept=c in inside) for c in order),
        coherence_by="judge" if by_judge else "stand-ins",
        kept=kept,
        rising=rising,
        rise=_difference(held[rising[0]], held[rising[1]]) if rising else None,
        verdict=_verdict(held, kept, rising) if kept and rising else "falls apart",
    )


def repetition(ids: Sequence[int]) -> float:
    """Share of the three-token runs of an answer that were there before; 0 in less than three tokens."""
    runs = [tuple(ids[start : start + 3]) for start in range(len(ids) - 2)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _step(coefficient: float, dose: float, answers: Sequence[Scored]) -> Step:
    scores = [one.score for one in answers if one.score is not None]
    empty = sum(one.is_empty for one in answers)
    likely = _mean([one.log_probability for one in answers])
    return Step(
        coefficient=coefficient,
        dose=dose,
        answers=len(answers),
        empty=empty,
        missing=len(answers) - empty - len(scores),
        score=_mean(scores),
        error=stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else None,
        coherence=_mean([one.coherence for one in answers]),
        log_probability=likely,
        perplexity=None if likely is None else math.exp(-likely),
        repetition=_mean([one.repetition for one in answers]),
    )


def _is_coherent(step: Step, unsteered: Step, least: float | None) -> bool:
    """By the judge's coherence, where `least` says how much there must be of it; else by its stand-ins."""
    if step.answers - step.empty < LEAST_SAID * step.answers:
        return False
    if least is not None:
        return step.coherence is not None and step.coherence >= least
    if step.log_probability is None or unsteered.log_probability is None:
        return False
    more = (step.repetition or 0.0) - (unsteered.repetition or 0.0)
    return unsteered.log_probability - step.log_probability <= LESS_LIKELY and more <= MORE_REPEATED


def _reach(
    order: Sequence[float], accepts: Callable[[float, Sequence[float]], bool]
) -> tuple[float, float]:
    """How far one gets from 0 down and up; `accepts` a coefficient, given those nearer to 0 on its side, 0 first."""
    ends = []
    for side in ([c for c in reversed(order) if c < 0], [c for c in order if c > 0]):
        nearer = [0.0]
        for coefficient in side:
            if not accepts(coefficient, nearer):
                break
            nearer.append(coefficient)
        ends.append(nearer[-1])
    return ends[0], ends[1]


def _goes_on_rising(
    held: Mapping[float, Sequence[Scored]], coefficient: float, nearer: Sequence[float]
) -> bool:
    pairs = [sorted((coefficient, other)) for other in nearer]
    found = [_difference(held[low], held[high]) for low, high in pairs]
    return all(one is not None and not one.falls for one in found)


def _verdict(
    held: Mapping[float, Sequence[Scored]], kept: tuple[float, float], rising: tuple[float, float]
) -> Verdict:
    if kept == (0.0, 0.0):
        return "falls apart"
    whole = _difference(held[kept[0]], held[kept[1]])
    rise, down, up = (
        _difference(held[a], held[b]) for a, b in (rising, (rising[0], 0.0), (0.0, rising[1]))
    )
    if whole is None or rise is None or down is None or up is None:
        return "cannot tell"
    if rise.rises:
        return _WAYS[down.rises, up.rises]
    return "pushes the wrong way" if whole.falls else "does not steer"


def _difference(low: Sequence[Scored], high: Sequence[Scored]) -> Difference | None:
    """high − low; none with too few questions."""
    before = {one.question: one.score for one in low if one.score is not None}
    each = [
        one.score - before[one.question]
        for one in high
        if one.score is not None and one.question in before
    ]
    if len(each) < FEWEST:
        return None
    return Difference(fmean(each), stdev(each) / math.sqrt(len(each)), len(each))


def _mean(numbers: Sequence[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return fmean(known) if known else None


_WAYS: dict[tuple[bool, bool], Verdict] = {
    (True, True): "pushes both ways",
    (False, True): "pushes up only",
    (True, False): "pushes down only",
    (False, False): "pushes",
}
