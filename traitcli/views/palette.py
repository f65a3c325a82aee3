"""Colors a calibrated score: blue below zero, orange above, no color near zero."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeGuard

from rich.color import Color
from rich.style import Style

FAINT = 0.3
"""Scores closer to zero than this have no color."""
LIMIT = 2.0
"""Scores beyond this have the strongest color."""
CLASS_MEAN = 1.0
"""Calibration puts the mean of the positive class here, and that of the negative class at −1."""
_STRONG = 1.5
"""Scores beyond this have the last step on terminals with few colors."""

Depth = Literal["full", "256", "16", "none"]

# From pale to vivid at the same lightness, so that a strong score stands out on dark and on light
# terminals.
BELOW = ("#98a7b8", "#6aa9ed", "#3f98ff")
ABOVE = ("#b4a193", "#dc9154", "#f5821f")
# Rich rounds the colors above to greens and pinks on these terminals, so these steps are chosen by
# hand: below 1, below 1.5, and beyond.
_STEPS_BELOW: dict[Depth, tuple[str, str, str]] = {
    "256": ("color(110)", "color(75)", "color(33)"),
    "16": ("cyan", "bright_cyan", "bright_cyan"),
}
_STEPS_ABOVE: dict[Depth, tuple[str, str, str]] = {
    "256": ("color(180)", "color(215)", "color(208)"),
    "16": ("yellow", "bright_yellow", "bright_yellow"),
}
ON_COLOR = "#101418"
"""Text on a colored background is dark, whatever the terminal's own color is."""
BLUE, ORANGE = "#3f8ce0", "#d8741a"
"""Blue and orange with enough contrast on black and on white."""

_NEAR_ZERO = Style(dim=True)
_FOREGROUNDS = (Style(color=BLUE), Style(color=ORANGE))
_FEW_COLORS_FOREGROUNDS: dict[Depth, tuple[Style, Style]] = {
    "none": (Style(), Style()),
    "16": (Style(color="bright_blue"), Style(color="yellow")),
}


@dataclass(frozen=True, slots=True)
class Palette:
    """Styles of scores on a terminal with this many colors."""

    depth: Depth

    def token(self, score: float | None) -> Style | None:
        """Background and foreground of a token; None if its score is near zero or unknown."""
        if self.depth == "none" or not is_colored(score):
            return None
        if self.depth == "full":
            return Style(color=ON_COLOR, bgcolor=background(score))

        weak, medium, strong = (_STEPS_BELOW if score < 0 else _STEPS_ABOVE)[self.depth]
        size = abs(score)
        step = strong if size >= _STRONG else medium if size >= CLASS_MEAN else weak
        return Style(color="black", bgcolor=step)

    def foreground(self, score: float | None) -> Style:
        """Style of a number or a bar; dim if its score is near zero or unknown."""
        if not is_colored(score):
            return _NEAR_ZERO
        negative, positive = _FEW_COLORS_FOREGROUNDS.get(self.depth, _FOREGROUNDS)
        return positive if score > 0 else negative


def palette_for(color_system: str | None, *, no_color: bool) -> Palette:
    """The palette for `Console.color_system` and `Console.no_color`."""
    if color_system is None or no_color:
        return Palette("none")
    depths: dict[str, Depth] = {"truecolor": "full", "256": "256"}
    return Palette(depths.get(color_system, "16"))


def is_colored(score: float | None) -> TypeGuard[float]:
    """Whether a score is known and far enough from zero to have a color."""
    return score is not None and not math.isnan(score) and abs(score) >= FAINT


def background(score: float) -> Color:
    """The 24-bit background of a score, clamped at ±LIMIT."""
    pale, middle, vivid = BELOW if score < 0 else ABOVE

    # 0 is pale, 1 is middle, 2 is vivid. `groundOf` in charts.js computes the same colors.
    position = (min(abs(score), LIMIT) - FAINT) / (LIMIT - FAINT) * 2
    if position <= 1:
        return _mix(pale, middle, position)
    return _mix(middle, vivid, position - 1)


def _mix(first: str, second: str, share: float) -> Color:
    start, end = Color.parse(first).get_truecolor(), Color.parse(second).get_truecolor()
    share = max(share, 0.0)
    return Color.from_rgb(*(round(a + (b - a) * share) for a, b in zip(start, end, strict=True)))
