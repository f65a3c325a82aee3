"""Formats scores and times for all views."""

from __future__ import annotations

import math

from rich.style import Style

QUIET = Style(dim=True)


def clock_time(seconds: float | None) -> str:
    """`0:07`, `12:03` or `1:02:03`; a dash for None."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_score(score: float | None) -> str:
    """A score in at most six characters: `+1.32`, `−12.3`; a dash for None and NaN."""
    if score is None or math.isnan(score):
        return "–"

    # The limits are where rounding would add a digit: 9.995 is +10.0, not +10.00.
    size = abs(score)
    if size < 9.995:
        digits = ".2f"
    elif size < 99.95:
        digits = ".1f"
    elif size < 99999.5:
        digits = ".0f"
    else:
        digits = ".0e"
    return with_minus(f"{score:+{digits}}")


def with_minus(number: str) -> str:
    """The number with a real minus sign, which is as wide as a plus sign."""
    return number.replace("-", "−")
