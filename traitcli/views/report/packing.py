"""Packs scores for the page: 16 bits each, which is finer than the page shows, and a third of the text."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_LARGEST = 32767
_NONE = -32768
_SEEN = 1e-3
"""Calibrated scores need not be kept finer."""
_TABLES = ("trait_scores",)


def pack_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record whose scores are packed, its prompt's and its layers' too; nothing else is touched."""
    packed = dict(record) | _pack_tables(record)
    if isinstance(told := record.get("prompt_scores"), Mapping):
        packed["prompt_scores"] = dict(told) | _pack_tables(told)
    if isinstance(rows := record.get("layer_scores"), Mapping):
        raw = [pack_row(row) for row in rows.get("trait_scores") or ()]
        calibrated = rows.get("calibrated_scores") or ()
        pairs = zip(calibrated, rows.get("trait_scores") or (), strict=False)
        packed["layer_scores"] = dict(rows) | {
            "trait_scores": raw,
            "calibrated_scores": [_scaled(row, own) or pack_row(row) for row, own in pairs],
        }
    return packed


def pack_row(values: Sequence[float | None]) -> Any:
    """{packed, decimals}: base64 of int16, little-endian, value · 10^decimals each, −32768 where there is none.

    `decimals` are as many as fit: at least four digits of the largest are kept. A row that is not one of
    numbers stays as it is.
    """
    numbers = _numbers(values)
    if numbers is None:
        return values
    decimals = _decimals(numbers)
    whole = np.where(np.isfinite(numbers), np.rint(np.nan_to_num(numbers) * 10.0**decimals), _NONE)
    return {
        "packed": base64.b64encode(whole.astype("<i2").tobytes()).decode(),
        "decimals": decimals,
    }


def _pack_tables(scores: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: scores[key] for key in _TABLES if isinstance(scores.get(key), Mapping)}
    packed: dict[str, Any] = {
        key: {trait: pack_row(row) for trait, row in table.items()} for key, table in found.items()
    }
    raw: Mapping[str, Any] = next(iter(found.values()), {})
    if isinstance(calibrated := scores.get("calibrated_scores"), Mapping):
        packed["calibrated_scores"] = {
            trait: _scaled(row, raw.get(trait)) or pack_row(row)
            for trait, row in calibrated.items()
        }
    return packed


def _scaled(
    values: Sequence[float | None], raw: Sequence[float | None] | None
) -> dict[str, list[float]] | None:
    """{from: [centre, half]} where a row is (raw − centre) / half, as calibrated scores of a layer are."""
    ours, theirs = _numbers(values), _numbers(raw or ())
    if (
        ours is None
        or theirs is None
        or len(ours) != len(theirs)
        or not np.isfinite([ours, theirs]).all()
    ):
        return None
    if len(ours) < 2 or np.ptp(ours) == 0:
        return None
    low, high = int(np.argmin(ours)), int(np.argmax(ours))
    half = float((theirs[high] - theirs[low]) / (ours[high] - ours[low]))
    if half == 0:
        return None
    centre = float(theirs[low] - ours[low] * half)
    fits = np.abs((theirs - centre) / half - ours).max() <= 1e-4 * max(1.0, np.abs(ours).max())
    is_fine = 0.5 * 10.0 ** -_decimals(theirs) <= _SEEN * abs(half)
    return {"from": [centre, half]} if fits and is_fine else None


def _decimals(numbers: Floats) -> int:
    """How many fit into 16 bits; of large numbers fewer than none."""
    known = np.abs(numbers[np.isfinite(numbers)])
    largest = float(known.max()) if known.size else 0.0
    return math.floor(math.log10(_LARGEST / largest)) if largest > 1e-300 else 0


def _numbers(values: Any) -> Floats | None:
    """float64 [n], NaN where there is no number; none when it is no row of numbers."""
    if not isinstance(values, list | tuple) or not all(
        value is None or _is_number(value) for value in values
    ):
        return None
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
