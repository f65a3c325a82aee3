"""The filter: chooses the rollouts that a vector is built from, by a judge's scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from traitcli.config import FilterConfig
from traitcli.records import Judgement, Polarity, Rollout
from traitcli.vectors.separation import auroc


@dataclass(frozen=True, slots=True)
class Selection:
    """Which extraction rollouts are kept, and how that was decided.

    dropped      rollout id -> why it is not kept: one of a few phrases
    filter       the rule in words, or why no rule was applied
    coherence    the mean coherence in words, or why it is missing
    judge_auroc  how well the scores separate the polarities; None without scores of both
    trusted      whether the judge may filter; true for labelled responses, which have no judge
    counts       totals and mean scores, before filtering (JSON-able)
    labelled     whether these are labelled responses without scores, of which all are kept
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
    """Apply the filter; a judge whose AUROC is near chance may not filter.

    Labelled responses without scores are all kept. Empty answers are never kept.
    `judgements` are one judge's, by rollout id.
    """
    # An empty answer has no hidden states to build a vector from.
    answered = [r for r in rollouts if r.response_tokens]
    values: dict[str, float] = {}
    for rollout in answered:
        judgement = judgements.get(rollout.id)
        if judgement is not None and judgement.score.value is not None:
            values[rollout.id] = float(judgement.score.value)
    scored = [r for r in answered if r.id in values]

    judge_auroc = _judge_auroc(scored, values)
    # A judge without coherence scores filters by the trait score alone.
    has_coherence = any(judgements[r.id].coherence.value is not None for r in scored)

    all_provided = all(r.finish_reason == "provided" for r in rollouts)
    labelled = not judgements and bool(rollouts) and all_provided
    trusted = labelled or (judge_auroc is not None and judge_auroc >= config.min_auroc)

    if labelled:
        kept, rule = answered, "not filtered: the responses are labelled"
    elif trusted:
        passing = [r for r in scored if _passes(r, judgements[r.id], config, has_coherence)]
        kept = paired(passing) if config.pairing == "paired" else passing
        rule = f"{config.pairing}, threshold {config.threshold:g}"
        rule += f", coherence {config.coherence:g}" if has_coherence else ", no coherence scores"
    else:
        # Scores near chance would drop rollouts at random, and leave fewer of them.
        kept, rule = answered, _distrust_text(judge_auroc, config)

    return Selection(
        kept=tuple(kept),
        dropped=_dropped(rollouts, kept, judgements, config, has_coherence),
        filter=rule,
        coherence=_coherence_text(scored, judgements),
        judge_auroc=judge_auroc,
        trusted=trusted,
        counts=_counts(rollouts, answered, scored, values) | ({"missing": 0} if labelled else {}),
        labelled=labelled,
    )


def _passes(
    rollout: Rollout, judgement: Judgement, config: FilterConfig, has_coherence: bool
) -> bool:
    """With `has_coherence` a rollout without a coherence score does not pass."""
    score, coherence = judgement.score.value or 0.0, judgement.coherence.value
    if has_coherence and (coherence is None or coherence < config.coherence):
        return False
    if rollout.polarity == "positive":
        return score >= config.threshold
    # Strict here and not above: with threshold 50, a score of 50 is on the positive side only.
    return score < 100 - config.threshold


def _dropped(
    rollouts: Sequence[Rollout],
    kept: Sequence[Rollout],
    judgements: Mapping[str, Judgement],
    config: FilterConfig,
    has_coherence: bool,
) -> dict[str, str]:
    """Rollout id -> why the rollout is not kept."""
    kept_ids = {r.id for r in kept}
    reasons = {}
    for rollout in rollouts:
        judgement = judgements.get(rollout.id)
        if rollout.id in kept_ids:
            continue

        if not rollout.response_tokens:
            reasons[rollout.id] = "empty answer"
        elif judgement is None or judgement.score.value is None:
            reasons[rollout.id] = "no score"
        # It passes by itself, so only `paired` can have dropped it.
        elif _passes(rollout, judgement, config, has_coherence):
            reasons[rollout.id] = "its counterpart is not kept"
        # It passes by its trait score, so its coherence is too low or missing.
        elif _passes(rollout, judgement, config, has_coherence=False):
            reasons[rollout.id] = "not coherent"
        else:
            reasons[rollout.id] = "score on the other side"
    return reasons


def paired(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """The rollouts whose counterpart on the other side is among them, in the same order."""
    positive = {index_of(r) for r in rollouts if r.polarity == "positive"}
    negative = {index_of(r) for r in rollouts if r.polarity == "negative"}
    both = positive & negative
    return [r for r in rollouts if index_of(r) in both]


def index_of(rollout: Rollout) -> tuple[int, int, int]:
    """(pair, question, repeat): what a rollout has in common with its counterpart."""
    return rollout.pair, rollout.question, rollout.repeat


def _judge_auroc(scored: Sequence[Rollout], values: Mapping[str, float]) -> float | None:
    positive = np.array([r.polarity == "positive" for r in scored], dtype=bool)
    if not len(positive) or positive.all() or not positive.any():
        return None
    scores = np.array([values[r.id] for r in scored], dtype=np.float32)
    return auroc(scores, positive)


def _distrust_text(judge_auroc: float | None, config: FilterConfig) -> str:
    if judge_auroc is None:
        return "NOT FILTERED: one polarity or both have no scores; run traitcli judge"
    return (
        "NOT FILTERED: the judge cannot tell the polarities apart "
        f"(AUROC {judge_auroc:.2f} < {config.min_auroc}), so every answer was kept. Use a stronger "
        "judge (judge.backend: openai), a model that shows the trait, or more questions"
    )


def _coherence_text(scored: Sequence[Rollout], judgements: Mapping[str, Judgement]) -> str:
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
    positive = _mean_score(scored, values, "positive")
    negative = _mean_score(scored, values, "negative")
    return {
        "positive_total": _count(rollouts, "positive"),
        "negative_total": _count(rollouts, "negative"),
        "empty": len(rollouts) - len(answered),
        "missing": len(answered) - len(scored),
        "positive_score": positive,
        "negative_score": negative,
        "contrast": None if positive is None or negative is None else positive - negative,
    }


def _count(rollouts: Sequence[Rollout], polarity: Polarity) -> int:
    return sum(rollout.polarity == polarity for rollout in rollouts)


def _mean_score(
    scored: Sequence[Rollout], values: Mapping[str, float], polarity: Polarity
) -> float | None:
    found = [values[r.id] for r in scored if r.polarity == polarity]
    return float(np.mean(found)) if found else None
