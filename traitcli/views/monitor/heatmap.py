"""Draws the scores of one trait at every layer: layers upwards, tokens to the right."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from rich.style import Style
from rich.text import Text

from traitcli.views.formatting import QUIET
from traitcli.views.palette import CLASS_MEAN, Palette, is_colored
from traitcli.views.printable import one_line

_KEPT_TOKENS = 400
"""More than terminals usually have columns for."""
_LABEL = 4
"""Width of the layer numbers, in cells."""
_STRONG = Style(bold=True)


class HeatMap:
    """The scores of the last tokens at every layer.

    A terminal line shows two layers as half blocks, or one layer where there are no colors.
    """

    def __init__(self, trait: str, layer: int | None) -> None:
        """`layer` is the layer at which the trait is monitored; its line is marked."""
        self._trait = one_line(trait)
        self._layer = layer
        self._columns: deque[Sequence[float]] = deque(maxlen=_KEPT_TOKENS)

    def add(self, scores: Sequence[float]) -> None:
        """Add the scores of one token, layer 0 first."""
        self._columns.append(scores)

    def lines(self, palette: Palette, width: int, height: int) -> list[Text]:
        """At most `height` lines of at most `width` cells, with the newest token at the right.

        A low screen shows every second layer, or every third, and so on.
        """
        if not self._columns or height < 3:
            return []

        columns = list(self._columns)[-(width - _LABEL - 1) :]

        # The smallest step with which all lines fit, one of them for the title.
        layer_count = len(columns[0])
        layers_per_line = 1 if palette.depth == "none" else 2
        step = -(-layer_count // ((height - 1) * layers_per_line))
        shown = list(range(0, layer_count, step))
        bands = [
            shown[start : start + layers_per_line]
            for start in range(0, len(shown), layers_per_line)
        ]

        which = "every layer" if step == 1 else f"one layer in {step}"
        title = Text(f"  {self._trait} at {which}", QUIET)
        if self._layer is not None:
            title.append(f", monitored at {self._layer}", QUIET)
        # Layer 0 is at the bottom, as on the y axis of a chart.
        return [title, *(self._band(band, step, columns, palette) for band in reversed(bands))]

    def _band(
        self, layers: Sequence[int], step: int, columns: Sequence[Sequence[float]], palette: Palette
    ) -> Text:
        """One line: the layers from `layers[0]` to the next line's first."""
        has_monitored = self._layer is not None and layers[0] <= self._layer < layers[-1] + step
        line = Text(no_wrap=True, end="")
        line.append(f"{layers[0]:>{_LABEL}} ", _STRONG if has_monitored else QUIET)

        for column in columns:
            scores = [column[layer] for layer in layers]
            if palette.depth == "none":
                line.append(_mark(scores[0]))
                continue
            # The last band may have a single layer.
            lower = palette.token(scores[0])
            upper = palette.token(scores[-1]) if len(scores) > 1 else None
            line.append(*_half_blocks(lower, upper))
        return line


def _half_blocks(lower: Style | None, upper: Style | None) -> tuple[str, Style | None]:
    """One cell with two colors, either of which may be the terminal's background."""
    above = upper.bgcolor if upper else None
    below = lower.bgcolor if lower else None
    if above is None and below is None:
        return " ", None
    if above is None:
        return "▄", Style.from_color(below)
    return "▀", Style.from_color(above, below)


def _mark(score: float) -> str:
    """`+` or `−` beyond a class mean, `'` or `.` for a weaker score."""
    if not is_colored(score):
        return " "
    if score > 0:
        return "+" if score >= CLASS_MEAN else "'"
    return "−" if score <= -CLASS_MEAN else "."
