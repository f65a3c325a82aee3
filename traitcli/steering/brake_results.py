"""Measures what a brake does to answers, and what a push of the same effect costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from traitcli.interventions import Cap, Gate, Intervention, Push
from traitcli.steering.dose_response import (
    CoefficientResult,
    Difference,
    DoseResponse,
    ScoredAnswer,
    difference,
    is_coherent,
    summarize,
    wrong_share,
)


@dataclass(frozen=True, slots=True)
class EqualPush:
    """The push that moves the mean score as far as a brake does, between two that were tried.

    coherence, perplexity, repetition  interpolated, like the coefficient; None if unknown
    """

    coefficient: float
    dose: float
    coherence: float | None
    perplexity: float | None
    repetition: float | None


@dataclass(frozen=True, slots=True)
class BrakeResult:
    """The answers under a way of steering that is not a plain push. Means are as for a coefficient.

    text   the interventions, as a user types them
    effect of the score, against unsteered answers; None if unknown
    wrong  share of the questions whose score moves the wrong way: up, or down for a way that should
           raise it
    kept   whether the answers are coherent
    equal  the push with the same effect; None if no push that was tried moves the score as far
    """

    text: str
    answers: int
    empty: int
    missing: int
    score: float | None
    error: float | None
    coherence: float | None
    perplexity: float | None
    repetition: float | None
    effect: Difference | None
    wrong: float | None
    kept: bool
    equal: EqualPush | None


def wanted_sign(trait: str, interventions: Sequence[Intervention]) -> int:
    """Whether interventions should raise a trait's score (+1) or lower it (−1).

    The first one that pushes or caps the trait decides. Anything else is meant to lower it.
    """
    for one in interventions:
        if one.trait == trait and isinstance(one, Push | Gate) and one.coefficient:
            return 1 if one.coefficient > 0 else -1
        if one.trait == trait and isinstance(one, Cap):
            return -1 if one.at_most else 1
    return -1


def measure_brake(
    text: str,
    sign: int,
    answers: Sequence[ScoredAnswer],
    unsteered: Sequence[ScoredAnswer],
    pushes: DoseResponse,
    least_coherence: float,
) -> BrakeResult:
    """Summarize the answers under one brake.

    Args:
        text: The brake, as a user types it.
        sign: What it should do to the score, see `wanted_sign`.
        answers: Its answers.
        unsteered: Those under a coefficient of 0.
        pushes: What pushes along the trait do.
        least_coherence: The mean coherence, 0–100, that answers need to count as coherent.
    """
    plain, step = summarize(0.0, 0.0, unsteered), summarize(0.0, 0.0, answers)
    least = least_coherence if pushes.coherence_by == "judge" else None
    equal = None
    if step.score is not None and plain.score is not None:
        equal = push_of_equal_effect(pushes.steps, step.score - plain.score)
    return BrakeResult(
        text=text,
        answers=step.answers,
        empty=step.empty,
        missing=step.missing,
        score=step.score,
        error=step.error,
        coherence=step.coherence,
        perplexity=step.perplexity,
        repetition=step.repetition,
        effect=difference(unsteered, answers),
        wrong=wrong_share(unsteered, answers, sign),
        kept=is_coherent(step, plain, least),
        equal=equal,
    )


def push_of_equal_effect(steps: Sequence[CoefficientResult], effect: float) -> EqualPush | None:
    """The push, on either side of 0, that first moves the mean score by `effect`.

    Between two coefficients that were tried, everything is interpolated; perplexity on the scale of
    log-probabilities.
    """
    known = {step.coefficient: step for step in steps if step.score is not None}
    if 0.0 not in known or not effect:
        return None
    for side in (-1, 1) if effect < 0 else (1, -1):
        path = sorted((one for one in known.values() if one.coefficient * side >= 0), key=_size)
        for near, far in pairwise(path):
            start, end = (_moved(one, known[0.0]) for one in (near, far))
            if (end - effect) * math.copysign(1, effect) >= 0:
                share = (effect - start) / (end - start)
                return EqualPush(
                    coefficient=_between(near.coefficient, far.coefficient, share) or 0.0,
                    dose=_between(near.dose, far.dose, share) or 0.0,
                    coherence=_between(near.coherence, far.coherence, share),
                    perplexity=_perplexity(near, far, share),
                    repetition=_between(near.repetition, far.repetition, share),
                )
    return None


def _size(step: CoefficientResult) -> float:
    return abs(step.coefficient)


def _moved(step: CoefficientResult, unsteered: CoefficientResult) -> float:
    assert step.score is not None  # noqa: S101 - steps without a score are left out
    assert unsteered.score is not None  # noqa: S101
    return step.score - unsteered.score


def _between(near: float | None, far: float | None, share: float) -> float | None:
    if near is None or far is None:
        return None
    return near + share * (far - near)


def _perplexity(near: CoefficientResult, far: CoefficientResult, share: float) -> float | None:
    found = _between(near.log_probability, far.log_probability, share)
    return None if found is None else math.exp(-found)
