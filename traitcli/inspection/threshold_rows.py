"""Rows of thresholds and of realized rates, for tables and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from traitcli.monitoring.realized_rates import RealizedRate
from traitcli.monitoring.thresholds import Thresholds
from traitcli.records import TraitVector
from traitcli.vectors.methods import calibrate


def threshold_rows(thresholds: Thresholds, vector: TraitVector) -> list[dict[str, Any]]:
    """One row per way to sum up, length and rate; calibrated if the vector has class means."""
    stats = vector.stats.get(thresholds.position)
    rows = []
    for point in thresholds.points:
        values = [point.value, point.low, point.high]
        if stats is not None:
            values = [float(calibrate(value, stats, thresholds.layer)) for value in values]
        rows.append(
            {
                "trait": thresholds.trait,
                "summary": point.summary.text,
                "tokens": point.tokens,
                "texts": point.texts,
                "fpr": point.rate,
                "threshold": values[0],
                "low": min(values[1:]),
                "high": max(values[1:]),
                "calibrated": stats is not None,
            }
        )
    return rows


def realized_rows(realized: Sequence[RealizedRate]) -> list[dict[str, Any]]:
    """One row per trait, way to sum up and rate."""
    return [
        {
            "trait": one.trait,
            "summary": one.summary.text,
            "fpr": one.rate,
            "texts": one.texts,
            "alarms": one.alarms,
            "realized": one.realized if one.texts else None,
            "low": one.low,
            "high": one.high,
            "outcome": one.outcome,
        }
        for one in realized
    ]
