"""Gives a calibrated score its colour: blue below zero, orange above, nothing near it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeGuard

from rich.color import Color
from rich.style import Style

FAINT = 0.3
"""Scores closer to zero than this stay uncoloured."""
LIMIT = 2.0
"""Scores beyond this look like this one."""
CLASS_MEAN = 1.0
"""Where the mean of the positive class lies, by calibration; the negative one lies opposite."""
_STRONG = 1.5

Depth = Literal["full", "256", "16", "none"]

# Either side keeps its lightness and gains chroma: on a dark terminal and on a light one alike, stronger is more vivid.
BELOW = ("#98a7b8", "#6aa9ed", "#3f98ff")
ABOVE = ("#b4a193", "#dc9154", "#f5821f")
# Rich would round those to greens and pinks; these are chosen by eye for below 1, below 1.5, and beyond.
_STEPS_BELOW: dict[Depth, tuple[str, str, str]] = {
    "256": ("color(110)", "color(75)", "color(33)"),
    "16": ("cyan", "bright_cyan", "bright_cyan"),
}
_STEPS_ABOVE: dict[Depth, tuple[str, str, str]] = {
    "256": ("color(180)", "color(215)", "color(208)"),
    "16": ("yellow", "bright_yellow", "bright_yellow"),
}
_ON_COLOUR = "#101418"
BLUE, ORANGE = "#3f8ce0", "#d8741a"
"""Blue and orange that can be read on black and on white."""


_FAINT_INK = Style(dim=True)
_FULL_INKS = (Style(color=BLUE), Style(color=ORANGE))
_INKS = {"none": (Style(), Style()), "16": (Style(color="bright_blue"), Style(color="yellow"))}


@dataclass(frozen=True, slots=True)
class Palette:
    """How scores look on a terminal with this many colours."""

    depth: Depth

    def token(self, score: float | None) -> Style | None:
        """Background and readable foreground of a token, or None where the score is near zero or unknown."""
        if self.depth == "none" or not is_seen(score):
            return None
        if self.depth == "full":
            return Style(color=_ON_COLOUR, bgcolor=background(score))
        steps = (_STEPS_BELOW if score < 0 else _STEPS_ABOVE)[self.depth]
        return Style(
            color="black", bgcolor=steps[(abs(score) >= CLASS_MEAN) + (abs(score) >= _STRONG)]
        )

    def ink(self, score: float | None) -> Style:
        """Foreground of a figure or a bar; quiet where the score is near zero."""
        if not is_seen(score):
            return _FAINT_INK
        return _INKS.get(self.depth, _FULL_INKS)[score > 0]


def palette_for(color_system: str | None, *, no_color: bool) -> Palette:
    """The palette for what Rich found out about a console (`color_system`, `no_color`)."""
    if color_system is None or no_color:
        return Palette("none")
    depths: dict[str, Depth] = {"truecolor": "full", "256": "256"}
    return Palette(depths.get(color_system, "16"))


def is_seen(score: float | None) -> TypeGuard[float]:
    """Whether a score is known and far enough from zero to be coloured."""
    return score is not None and not math.isnan(score) and abs(score) >= FAINT


def background(score: float) -> Color:
    """The background for a score, clamped at ±LIMIT, as 24-bit colour."""
    pale, middle, vivid = BELOW if score < 0 else ABOVE
    share = (min(abs(score), LIMIT) - FAINT) / (LIMIT - FAINT) * 2
    return _mix(pale, middle, share) if share <= 1 else _mix(middle, vivid, share - 1)


def _mix(first: str, second: str, share: float) -> Color:
    pairs = zip(
        Color.parse(first).get_truecolor(), Color.parse(second).get_truecolor(), strict=True
    )
    return Color.from_rgb(*(round(a + (b - a) * max(share, 0.0)) for a, b in pairs))
