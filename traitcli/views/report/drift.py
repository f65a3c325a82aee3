"""Averages the scores of existing texts by day: the lines of a report over time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import date
from typing import Any

from traitcli.records import TokenScores
from traitcli.report_records import NamedRecord

_Means = dict[str, dict[str, list[float]]]
"""Day -> trait -> the mean score of each text."""


def drift_rows(records: Sequence[NamedRecord]) -> list[dict[str, Any]]:
    """The means of each day, for each model that read texts with a time.

    Args:
        records: Those without `time` under `about` are left out: an answer that was just generated
            says nothing about a log.

    Returns:
        {model, unit, days, texts, means} for each model. `days` is sorted, in ISO 8601; `texts` is
        how many texts each of them has; `means` is trait -> one mean a day, None without a text.
        `unit` is calibrated if any trait is, and then the others are left out; else raw.
    """
    by_model: dict[str, list[tuple[str, TokenScores]]] = {}
    for record in records:
        if day := _day_of(record.scores):
            by_model.setdefault(record.scores.model, []).append((day, record.scores))
    return [_rows_of(model, found) for model, found in by_model.items()]


def _rows_of(model: str, found: Sequence[tuple[str, TokenScores]]) -> dict[str, Any]:
    # Projections have another unit, so the two cannot share an axis.
    unit = "calibrated" if any(scores.calibrated for _, scores in found) else "raw"
    means: _Means = {}
    texts: dict[str, int] = {}
    for day, scores in found:
        own = means.setdefault(day, {})
        texts[day] = texts.get(day, 0) + 1
        for trait in scores.calibrated if unit == "calibrated" else scores.raw:
            mean = scores.mean(trait)
            if mean is not None and math.isfinite(mean):
                own.setdefault(trait, []).append(mean)

    days = sorted(means)
    traits = dict.fromkeys(trait for day in days for trait in means[day])
    return {
        "model": model,
        "unit": unit,
        "days": days,
        "texts": [texts[day] for day in days],
        "means": {trait: [_mean(means[day].get(trait, ())) for day in days] for trait in traits},
    }


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _day_of(scores: TokenScores) -> str:
    """The day of a text, in ISO 8601; "" if its record does not say, or says something else."""
    try:
        return date.fromisoformat(str(scores.about.get("time", ""))[:10]).isoformat()
    except ValueError:
        return ""
