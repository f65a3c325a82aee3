"""The filter: which rollouts a vector is built from, given a judge's scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from traitcli.config import FilterConfig
from traitcli.records import POLARITIES, Judgement, Rollout
from traitcli.vectors.separation import auroc


@dataclass(frozen=True, slots=True)
class Selection:
    """Which extraction rollouts are kept, and how that was decided.

    dropped      rollout id -> why it is not kept: one of a few phrases
    filter       the rule in words, or why there was none
    coherence    the mean coherence in words, or why there is none
    judge_auroc  how well the scores separate the instructions; none without scores of both
    trusted      whether the judge was allowed to filter, or there was none to ask
    counts       totals and mean scores, before filtering (JSON-able)
    labelled     whether these are ready responses without scores: the side that they stand on is all there is
    """

    kept: tuple[Rollout, ...]
    dropped: Mapping[str, str]
    filter: str
    coherence: str
    judge_auroc: float | None
    trusted: bool
    counts: Mapping[str, Any]
    labelled: bool = False


def select_rollouts(
    rollouts: Sequence[Rollout], judgements: Mapping[str, Judgement], config: FilterConfig
) -> Selection:
    """Apply the filter of the spec; a judge near chance is not allowed to filter.

    Ready responses without scores are all kept. Empty answers never count. `judgements` are one judge's, by rollout id.
    """
    answered = [r for r in rollouts if r.response_tokens]
    scored = [
        r for r in answered if r.id in judgements and judgements[r.id].score.value is not None
    ]
    values = {r.id: float(judgements[r.id].score.value or 0) for r in scored}
    separates = _judge_auroc(scored, values)
    coherences = [judgements[r.id].coherence.value for r in scored]
    coherent = any(value is not None for value in coherences)
    labelled = (
        not judgements and bool(rollouts) and all(r.finish_reason == "given" for r in rollouts)
    )
    trusted = labelled or (separates is not None and separates >= config.min_auroc)
    if labelled:
        kept, told = answered, "not filtered: ready responses count as labelled"
    elif trusted:
        passing = [r for r in scored if _passes(r, judgements[r.id], config, coherent)]
        kept = _paired(passing) if config.pairing == "paired" else passing
        told = f"{config.pairing}, threshold {config.threshold:g}"
        told += f", coherence {config.coherence:g}" if coherent else ", no coherence to filter by"
    else:
        kept, told = answered, _distrust(separates, config)
    return Selection(
        kept=tuple(kept),
        dropped=_dropped(rollouts, kept, judgements, config, coherent),
        filter=told,
        coherence=_coherence_told(scored, judgements),
        judge_auroc=separates,
        trusted=trusted,
        counts=_counts(rollouts, answered, scored, values) | ({"missing": 0} if labelled else {}),
        labelled=labelled,
    )


def _passes(rollout: Rollout, judgement: Judgement, config: FilterConfig, coherent: bool) -> bool:
    """`coherent`: the judge gives coherence, so a rollout that lacks it does not pass."""
    score, coherence = judgement.score.value or 0.0, judgement.coherence.value
    if coherent and (coherence is None or coherence < config.coherence):
        return False
    return (
        score >= config.threshold
        if rollout.polarity == "positive"
        else score < 100 - config.threshold
    )


def _dropped(
    rollouts: Sequence[Rollout],
    kept: Sequence[Rollout],
    judgements: Mapping[str, Judgement],
    config: FilterConfig,
    coherent: bool,
) -> dict[str, str]:
    """Why each rollout that is not kept is not; `coherent` as above."""
    there = {r.id for r in kept}
    reasons = {}
    for rollout in rollouts:
        judgement = judgements.get(rollout.id)
        if rollout.id in there:
            continue
        if not rollout.response_tokens:
            reasons[rollout.id] = "empty answer"
        elif judgement is None or judgement.score.value is None:
            reasons[rollout.id] = "no score"
        elif _passes(rollout, judgement, config, coherent):
            reasons[rollout.id] = "its counterpart is not kept"
        elif _passes(rollout, judgement, config, coherent=False):
            reasons[rollout.id] = "not coherent"
        else:
            reasons[rollout.id] = "score on the other side"
    return reasons


def _paired(passing: Sequence[Rollout]) -> list[Rollout]:
    """Keep an index (pair, question, repeat) only when both its sides pass."""
    sides = [
        {(r.pair, r.question, r.repeat) for r in passing if r.polarity == side}
        for side in POLARITIES
    ]
    return [r for r in passing if (r.pair, r.question, r.repeat) in sides[0] & sides[1]]


def _judge_auroc(scored: Sequence[Rollout], values: Mapping[str, float]) -> float | None:
    positive = np.array([r.polarity == "positive" for r in scored], dtype=bool)
    if not len(positive) or positive.all() or not positive.any():
        return None
    return auroc(np.array([values[r.id] for r in scored], dtype=np.float32), positive)


def _distrust(separates: float | None, config: FilterConfig) -> str:
    if separates is None:
        return (
            "NOT FILTERED: there are no scores of both polarities to filter by; run traitcli judge"
        )
    return (
        f"NOT FILTERED: the judge cannot tell the polarities apart (AUROC {separates:.2f} < {config.min_auroc}), "
        "so every answer was kept. Use a stronger judge (judge.backend: openai), a model that shows the trait, "
        "or more questions"
    )


def _coherence_told(scored: Sequence[Rollout], judgements: Mapping[str, Judgement]) -> str:
    found = [judgements[r.id].coherence for r in scored]
    values = [c.value for c in found if c.value is not None]
    if values:
        return f"mean {np.mean(values):.0f}"
    return found[0].reason if found else "not judged"


def _counts(
    rollouts: Sequence[Rollout],
    answered: Sequence[Rollout],
    scored: Sequence[Rollout],
    values: Mapping[str, float],
) -> dict[str, Any]:
    means = [[values[r.id] for r in scored if r.polarity == side] for side in POLARITIES]
    positive, negative = (float(np.mean(side)) if side else None for side in means)
    return {
        "positive_total": sum(r.polarity == "positive" for r in rollouts),
        "negative_total": sum(r.polarity == "negative" for r in rollouts),
        "empty": len(rollouts) - len(answered),
        "missing": len(answered) - len(scored),
        "positive_score": positive,
        "negative_score": negative,
        "contrast": None if positive is None or negative is None else positive - negative,
    }
