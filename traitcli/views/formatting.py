"""Formats figures and times for every view."""

from __future__ import annotations

import math

from rich.style import Style


def clock_time(seconds: float | None) -> str:
    """`0:07`, `12:03`, `1:02:03`; a dash when unknown."""
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


QUIET = Style(dim=True)


def figure(score: float | None) -> str:
    """A score in at most six characters: `+1.32`, `−12.3`, `–` when there is none."""
    if score is None or math.isnan(score):
        return "–"
    size = abs(score)
    digits = (
        ".2f" if size < 9.995 else ".1f" if size < 99.95 else ".0f" if size < 99999.5 else ".0e"
    )
    return f"{score:+{digits}}".replace("-", "−")
