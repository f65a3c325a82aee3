"""Measures how far a judge's scores of one trait can be believed: plain numbers, and rollouts to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from traitcli.judging.identity import judges_by_latest
from traitcli.judging.reasons import merge_reasons
from traitcli.records import POLARITIES, Judgement, Rollout, Score

BINS = 10
"""Of the histogram: [0, 10), [10, 20), … and [90, 100]."""
FENCE = 50.0
"""From here on a score is on the positive side, and a doubt is worth a reader's time."""
MOST_READ = 10
"""Doubtful rollouts shown."""


def judge_quality(
    rollouts: Sequence[Rollout],
    judgements: Sequence[Judgement],
    judge: str,
    question: Callable[[Rollout], str],
) -> dict[str, Any]:
    """What there is to say of one judge's scores of a trait (JSON-able).

    missing_reasons    reason -> count, and share of all that was judged; reasons that differ in figures or
                       quotations are one
    missing_coherence  the same of coherence; nothing for a judge that gives none
    methods            how scores were had -> count, where the judge had a choice
    histogram          polarity -> ten counts, of [0, 10) to [90, 100]
    agreement          this judge against each other one that scored the trait
    doubtful           how many rollouts deserve a look, and the ten that do most

    `judgements` are those of all judges, one of each for a rollout.
    """
    own = [j for j in judgements if j.judge == judge]
    scores = _values(own)
    rivals = [name for name in judges_by_latest(judgements) if name != judge]
    others = {name: _values(j for j in judgements if j.judge == name) for name in rivals}
    gives_coherence = any(j.coherence.value is not None or not j.coherence.final for j in own)
    return {
        "missing_reasons": _missing([j.score for j in own]),
        "missing_coherence": _missing([j.coherence for j in own]) if gives_coherence else {},
        "methods": dict(
            Counter(j.score.method for j in own if j.score.value is not None and j.score.method)
        ),
        "histogram": {
            side: histogram(
                [scores[r.id] for r in rollouts if r.polarity == side and r.id in scores]
            )
            for side in POLARITIES
        },
        "agreement": [
            {"judge": name, **agreement(scores, values)} for name, values in others.items()
        ],
        "doubtful": _doubtful(rollouts, own, others, question),
    }


def histogram(scores: Iterable[float]) -> list[int]:
    """Ten counts, of [0, 10), [10, 20), … and [90, 100]."""
    counts = [0] * BINS
    for score in scores:
        counts[min(max(int(score // 10), 0), BINS - 1)] += 1
    return counts


def agreement(ours: Mapping[str, float], theirs: Mapping[str, float]) -> dict[str, Any]:
    """How alike two judges score the rollouts that both have scored (id -> 0–100).

    both             number of those rollouts; without any, all else is None
    spearman         rank correlation; None with fewer than three, or where a judge gives all the same score
    same_side        share on the same side of 50, which itself is on the positive one
    kappa            Cohen's, of the sides; None where both judges see one side only
    mean_difference  mean |ours − theirs|
    """
    both = [name for name in ours if name in theirs]
    pairs = [(ours[name], theirs[name]) for name in both]
    sides = [(a >= FENCE, b >= FENCE) for a, b in pairs]
    return {
        "both": len(both),
        "spearman": _spearman(pairs),
        "same_side": sum(a == b for a, b in sides) / len(both) if both else None,
        "kappa": _kappa(sides),
        "mean_difference": sum(abs(a - b) for a, b in pairs) / len(both) if both else None,
    }


@dataclass(frozen=True, slots=True)
class _Doubt:
    """Why a score may be wrong, and how much speaks for that, 0–100."""

    size: float
    told: str


def _doubtful(
    rollouts: Sequence[Rollout],
    own: Sequence[Judgement],
    others: Mapping[str, Mapping[str, float]],
    question: Callable[[Rollout], str],
) -> dict[str, Any]:
    """The rollouts whose scores are most at odds with their instruction or with another judge, worst first."""
    scored = {j.rollout: j for j in own if j.score.value is not None}
    found = []
    for rollout in rollouts:
        if rollout.id in scored:
            judgement = scored[rollout.id]
            doubts = _doubts(rollout, judgement.score.value or 0.0, others)
            found += [(rollout, judgement, doubts)] if doubts else []
    found.sort(key=lambda entry: -entry[2][0].size)
    listed = [
        {
            "rollout": rollout.id,
            "polarity": rollout.polarity,
            "score": judgement.score.value,
            "coherence": judgement.coherence.value,
            "other_scores": {
                name: scores[rollout.id] for name, scores in others.items() if rollout.id in scores
            },
            "doubt": doubts[0].size,
            "why": ", ".join(doubt.told for doubt in doubts),
            "question": question(rollout),
            "response": rollout.response,
        }
        for rollout, judgement, doubts in found[:MOST_READ]
    ]
    return {"total": len(found), "rollouts": listed}


def _doubts(
    rollout: Rollout, score: float, others: Mapping[str, Mapping[str, float]]
) -> list[_Doubt]:
    """All that reach the fence, the largest first."""
    doubts = [
        _Doubt(100 - score if rollout.polarity == "positive" else score, "against its instruction")
    ]
    theirs = [scores[rollout.id] for scores in others.values() if rollout.id in scores]
    if theirs:
        furthest = max(theirs, key=lambda other: abs(score - other))
        doubts.append(
            _Doubt(abs(score - furthest), f"judges disagree {score:.0f} ↔ {furthest:.0f}")
        )
    return sorted((doubt for doubt in doubts if doubt.size >= FENCE), key=lambda doubt: -doubt.size)


def _missing(scores: Sequence[Score]) -> dict[str, dict[str, Any]]:
    counts = merge_reasons(score.reason for score in scores if score.value is None)
    return {
        reason: {"count": count, "share": count / len(scores)} for reason, count in counts.items()
    }


def _spearman(pairs: Sequence[tuple[float, float]]) -> float | None:
    if len(pairs) < 3 or any(len(set(side)) == 1 for side in zip(*pairs, strict=True)):
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(*zip(*pairs, strict=True)).statistic)


def _kappa(sides: Sequence[tuple[bool, bool]]) -> float | None:
    if len({side for pair in sides for side in pair}) < 2:
        return None
    from sklearn.metrics import cohen_kappa_score

    return float(cohen_kappa_score(*zip(*sides, strict=True)))


def _values(judgements: Iterable[Judgement]) -> dict[str, float]:
    return {j.rollout: j.score.value for j in judgements if j.score.value is not None}
