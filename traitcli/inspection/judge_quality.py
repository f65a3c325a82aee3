"""Measures how far a judge's scores of one trait can be trusted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from traitcli.judging.identity import judges_by_latest
from traitcli.judging.reasons import merge_reasons
from traitcli.records import POLARITIES, Judgement, Rollout, Score

BINS = 10
"""Bins of the histogram: [0, 10), [10, 20), … and [90, 100]."""
MIDDLE = 50.0
"""Scores from 50 up are on the positive side. Doubts from 50 up are shown."""
MAX_DOUBTFUL = 10
"""Doubtful rollouts shown."""


def judge_quality(
    rollouts: Sequence[Rollout],
    judgements: Sequence[Judgement],
    judge: str,
    question: Callable[[Rollout], str],
) -> dict[str, Any]:
    """Measure one judge's scores of a trait.

    Args:
        rollouts: The trait's rollouts.
        judgements: Those of all judges, at most one per judge and rollout.
        judge: The id of the judge to measure.
        question: Gives the question of a rollout.

    Returns:
        A JSON-able mapping:

        missing_reasons    reason -> count, and share of all judgements; reasons that differ only in
                           numbers or quotations count as one
        missing_coherence  the same for coherence; empty for a judge that never gives one
        methods            method of scoring -> count, where the judge has several
        histogram          polarity -> ten counts, for [0, 10) to [90, 100]
        agreement          this judge against each other judge of the trait
        doubtful           the number of doubtful rollouts, and the ten most doubtful
    """
    own = [one for one in judgements if one.judge == judge]
    scored = [one for one in own if one.score.value is not None]
    # Latest first, so that the judge of the present run comes first in the table.
    others = {}
    for name in judges_by_latest(judgements):
        if name != judge:
            others[name] = _values(one for one in judgements if one.judge == name)

    # A final missing coherence says that this judge gives none. Any other one is a failure.
    gives_coherence = any(one.coherence.value is not None or not one.coherence.final for one in own)

    methods = Counter(one.score.method for one in scored if one.score.method)
    scores = _values(own)
    histograms = {side: _histogram_of(side, rollouts, scores) for side in POLARITIES}
    agreements = [{"judge": name} | agreement(scores, other) for name, other in others.items()]
    coherences = [one.coherence for one in own] if gives_coherence else []
    return {
        "missing_reasons": _missing([one.score for one in own]),
        "missing_coherence": _missing(coherences),
        "methods": dict(methods),
        "histogram": histograms,
        "agreement": agreements,
        "doubtful": _doubtful(rollouts, scored, others, question),
    }


def histogram(scores: Iterable[float]) -> list[int]:
    """Ten counts, for [0, 10), [10, 20), … and [90, 100]."""
    counts = [0] * BINS
    for score in scores:
        # 100 belongs to the last bin, which would end below it.
        counts[min(max(int(score // 10), 0), BINS - 1)] += 1
    return counts


def agreement(ours: Mapping[str, float], theirs: Mapping[str, float]) -> dict[str, Any]:
    """Compare two judges on the rollouts that both have scored (rollout id -> 0–100).

    both             number of those rollouts; when it is 0, the others are None
    spearman         rank correlation; None below three rollouts, or when a judge's scores are equal
    same_side        share of rollouts on the same side of 50; 50 itself is on the positive side
    kappa            Cohen's kappa of the sides; None when both judges see one side only
    mean_difference  mean |ours − theirs|
    """
    pairs = [(ours[name], theirs[name]) for name in ours if name in theirs]
    sides = [(a >= MIDDLE, b >= MIDDLE) for a, b in pairs]
    count = len(pairs)
    same = sum(a == b for a, b in sides)
    difference = sum(abs(a - b) for a, b in pairs)
    return {
        "both": count,
        "spearman": _spearman(pairs),
        "same_side": same / count if count else None,
        "kappa": _kappa(sides),
        "mean_difference": difference / count if count else None,
    }


@dataclass(frozen=True, slots=True)
class _Doubt:
    """A reason to doubt a score, and its strength from 0 to 100."""

    size: float
    reason: str


def _doubtful(
    rollouts: Sequence[Rollout],
    scored: Sequence[Judgement],
    others: Mapping[str, Mapping[str, float]],
    question: Callable[[Rollout], str],
) -> dict[str, Any]:
    """Rollouts whose score contradicts their instruction or another judge, most doubtful first."""
    judgements = {one.rollout: one for one in scored}
    found = []
    for rollout in rollouts:
        if judgement := judgements.get(rollout.id):
            doubts = _doubts(rollout, judgement.score.value or 0.0, others)
            if doubts:
                found.append((rollout, judgement, doubts))
    # By the strongest doubt of each rollout.
    found.sort(key=lambda entry: -entry[2][0].size)

    rows = []
    for rollout, judgement, doubts in found[:MAX_DOUBTFUL]:
        rows.append(
            {
                "rollout": rollout.id,
                "polarity": rollout.polarity,
                "score": judgement.score.value,
                "coherence": judgement.coherence.value,
                "other_scores": _other_scores(rollout, others),
                "doubt": doubts[0].size,
                "why": ", ".join(doubt.reason for doubt in doubts),
                "question": question(rollout),
                "response": rollout.response,
            }
        )
    return {"total": len(found), "rollouts": rows}


def _doubts(
    rollout: Rollout, score: float, others: Mapping[str, Mapping[str, float]]
) -> list[_Doubt]:
    """The doubts that are worth reading, the strongest first."""
    # A negative rollout with a high score is as doubtful as a positive one with a low score.
    against = 100 - score if rollout.polarity == "positive" else score
    doubts = [_Doubt(against, "against its instruction")]
    if theirs := _other_scores(rollout, others).values():
        furthest = max(theirs, key=lambda other: abs(score - other))
        reason = f"judges disagree {score:.0f} ↔ {furthest:.0f}"
        doubts.append(_Doubt(abs(score - furthest), reason))
    worth_reading = [doubt for doubt in doubts if doubt.size >= MIDDLE]
    return sorted(worth_reading, key=lambda doubt: -doubt.size)


def _other_scores(rollout: Rollout, others: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Other judge -> its score of the rollout."""
    return {name: scores[rollout.id] for name, scores in others.items() if rollout.id in scores}


def _histogram_of(
    polarity: str, rollouts: Iterable[Rollout], scores: Mapping[str, float]
) -> list[int]:
    side = [one.id for one in rollouts if one.polarity == polarity]
    return histogram(scores[name] for name in side if name in scores)


def _missing(scores: Sequence[Score]) -> dict[str, dict[str, Any]]:
    counts = merge_reasons(score.reason for score in scores if score.value is None)
    return {
        reason: {"count": count, "share": count / len(scores)} for reason, count in counts.items()
    }


def _spearman(pairs: Sequence[tuple[float, float]]) -> float | None:
    # scipy warns and gives NaN when all scores of a judge are equal.
    if len(pairs) < 3 or any(len(set(scores)) == 1 for scores in zip(*pairs, strict=True)):
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(*zip(*pairs, strict=True)).statistic)


def _kappa(sides: Sequence[tuple[bool, bool]]) -> float | None:
    # Agreement by chance is 1 then, and kappa would be 0 / 0.
    if len({side for pair in sides for side in pair}) < 2:
        return None
    from sklearn.metrics import cohen_kappa_score

    return float(cohen_kappa_score(*zip(*sides, strict=True)))


def _values(judgements: Iterable[Judgement]) -> dict[str, float]:
    """Rollout id -> score, for judgements that have one."""
    return {one.rollout: one.score.value for one in judgements if one.score.value is not None}
