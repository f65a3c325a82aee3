"""Packs scores for the page as 16-bit integers.

This is finer than the page shows, and a fourth of the text.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from traitcli.views.report.contents import is_number

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_LARGEST = 32767
"""The largest int16; the smallest stands for a missing score."""
_MISSING = -32768
_RESOLUTION = 1e-3
"""Calibrated scores need no finer steps than this."""


def pack_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with packed scores, also those of its prompt and of all layers."""
    packed = dict(record) | _pack_tables(record)
    if isinstance(prompt := record.get("prompt_scores"), Mapping):
        packed["prompt_scores"] = dict(prompt) | _pack_tables(prompt)

    if isinstance(by_layer := record.get("layer_scores"), Mapping):
        raw = by_layer.get("trait_scores") or ()
        # Without a calibration there are no calibrated scores.
        pairs = zip(by_layer.get("calibrated_scores") or (), raw, strict=False)
        calibrated = [_scale(scores, own) or pack_scores(scores) for scores, own in pairs]
        packed["layer_scores"] = dict(by_layer) | {
            "trait_scores": [pack_scores(scores) for scores in raw],
            "calibrated_scores": calibrated,
        }
    return packed


def pack_scores(values: Sequence[float | None]) -> Any:
    """Pack scores as {packed, decimals}.

    `packed` is base64 of little-endian int16, each value · 10^decimals, or −32768 for a missing
    score. `decimals` is as large as fits, so the largest score keeps at least four digits. Values
    that are not scores are returned unchanged.
    """
    # A float16 takes as much room but keeps only three digits.
    numbers = _numbers(values)
    if numbers is None:
        return values
    decimals = _decimals(numbers)
    scaled = np.rint(np.nan_to_num(numbers) * 10.0**decimals)
    integers = np.where(np.isfinite(numbers), scaled, _MISSING).astype("<i2")
    return {"packed": base64.b64encode(integers.tobytes()).decode(), "decimals": decimals}


def _pack_tables(scores: Mapping[str, Any]) -> dict[str, Any]:
    packed: dict[str, Any] = {}
    raw = scores.get("trait_scores") or {}
    if isinstance(raw, Mapping) and "trait_scores" in scores:
        packed["trait_scores"] = {trait: pack_scores(row) for trait, row in raw.items()}
    if isinstance(calibrated := scores.get("calibrated_scores"), Mapping):
        packed["calibrated_scores"] = {
            trait: _scale(row, raw.get(trait)) or pack_scores(row)
            for trait, row in calibrated.items()
        }
    return packed


def _scale(
    values: Sequence[float | None], raw: Sequence[float | None] | None
) -> dict[str, list[float]] | None:
    """{from: [center, half]} if each value is (raw − center) / half, else None.

    Calibration is linear, so calibrated scores need only these two numbers beside the raw ones.
    """
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

    # The two points farthest apart fix the line with the least rounding error.
    low, high = int(np.argmin(ours)), int(np.argmax(ours))
    half = float((theirs[high] - theirs[low]) / (ours[high] - ours[low]))
    if half == 0:
        return None

    center = float(theirs[low] - ours[low] * half)
    # Stored scores are rounded to five decimals, so the fit cannot be exact.
    fits = np.abs((theirs - center) / half - ours).max() <= 1e-4 * max(1.0, np.abs(ours).max())
    is_fine = 0.5 * 10.0 ** -_decimals(theirs) <= _RESOLUTION * abs(half)
    return {"from": [center, half]} if fits and is_fine else None


def _decimals(numbers: Floats) -> int:
    """How many decimals fit into 16 bits; negative for large numbers."""
    known = np.abs(numbers[np.isfinite(numbers)])
    largest = float(known.max()) if known.size else 0.0
    return math.floor(math.log10(_LARGEST / largest)) if largest > 1e-300 else 0


def _numbers(values: Any) -> Floats | None:
    """float64 [n], NaN for None; None if `values` is not a list of numbers."""
    if not isinstance(values, list | tuple) or not all(
        value is None or is_number(value) for value in values
    ):
        return None
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)
