"""Draws a response as a picture of text, each token on the color of its score."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from rich.color import Color
from rich.style import Style
from rich.text import Text

from traitcli.views.cells import LineWrapper, char_cells, wrap
from traitcli.views.formatting import with_minus
from traitcli.views.monitor.token_styles import TokenStyler
from traitcli.views.palette import CLASS_MEAN, FAINT, LIMIT, Palette, background
from traitcli.views.printable import one_line

DPI = 200
COLUMNS = 90
"""Width of the text, in cells."""
MOST_LINES = 120
"""A longer response is cut, and the last line says so."""
TEXT, QUIET = "#101418", "#59626f"

_PROMPT_LINES = 3
_CELL = (15, 37)
"""Width and height in pixels. At 9 points and 200 dpi a character of DejaVu Sans Mono is exactly 15
pixels wide, so a line drawn as one text stays on the grid of cells."""
_POINTS = 9
_HEIGHT = 0.86
"""Height of a background, in lines."""
_FONT = "DejaVu Sans Mono"
"""matplotlib ships it, so a picture looks the same on every machine."""
_EVEN = re.compile("[ -\u024f\u0386-\u03ce\u0400-\u045f]")
"""Characters that the font has, one cell wide each. Runs of them are drawn as one text; any other
character is drawn alone on its cell."""
_LEGEND = 48
"""Width of the color scale, in cells."""

Point = tuple[float, float]
"""(cell from the left, line from the top)."""


@dataclass(frozen=True, slots=True)
class ColoredText:
    """A response to draw.

    scores  one per token; None is not colored
    limit   the score with the strongest color; LIMIT for calibrated scores
    unit    description of the scores
    label   trait and layer
    """

    prompt: str
    tokens: Sequence[str]
    scores: Sequence[float | None]
    limit: float
    unit: str
    label: str


def draw_tokens(text: ColoredText) -> Figure:
    """Draw the prompt, the colored response, and the color scale below."""
    prompt, lines = _prompt(text.prompt), _response(text)
    # The rest is for margins and for the color scale with its labels.
    height = len(prompt) + len(lines) + 4.8
    width = COLUMNS + 2

    figure = Figure(figsize=(width * _CELL[0] / DPI, round(height * _CELL[1]) / DPI), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(-1, COLUMNS + 1), ylim=(height, 0))
    axes.set_axis_off()

    top = 0.9
    for line in prompt:
        _write(axes, (0, top), line, QUIET)
        top += 1
    top += 0.4 if prompt else 0
    for line in lines:
        _draw_backgrounds(axes, top, line)
        _write(axes, (0, top), line, TEXT)
        top += 1

    _draw_scale(axes, top + 0.7, text)
    return figure


def _prompt(prompt: str) -> list[Text]:
    lines = wrap(one_line(prompt), COLUMNS - 2) if prompt.strip() else []
    if len(lines) <= _PROMPT_LINES:
        return lines
    return [*lines[: _PROMPT_LINES - 1], lines[_PROMPT_LINES - 1] + " …"]


def _response(text: ColoredText) -> list[Text]:
    """The colored lines of the response, wrapped as in the terminal."""
    styler, wrapper = TokenStyler(Palette("full")), LineWrapper(COLUMNS)
    for token, score in zip(text.tokens, text.scores, strict=True):
        # The styler knows calibrated scores only, so projections are scaled to their range.
        shade = None if score is None else score / text.limit * LIMIT
        for part, style in styler.style(token, shade):
            wrapper.add(part, style)
    wrapper.end_line()

    lines = wrapper.pop_finished()
    # Many models end with line breaks.
    while lines and not lines[-1].plain:
        lines.pop()
    if len(lines) <= MOST_LINES:
        return lines
    return [*lines[:MOST_LINES], Text(f"[cut here: {len(lines) - MOST_LINES:,} more lines]")]


def _draw_backgrounds(axes: Axes, top: float, line: Text) -> None:
    """Draw the backgrounds of the tokens of a line."""
    edges = _edges(line.plain)
    boxes = [
        (_box(edges[span.start], edges[span.end], top), span.style.bgcolor)
        for span in line.spans
        if isinstance(span.style, Style) and span.style.bgcolor
    ]
    _fill(axes, boxes)


def _fill(axes: Axes, boxes: Sequence[tuple[list[Point], Color]]) -> None:
    colors = [color.get_truecolor().hex for _, color in boxes]
    # Without antialiasing, because it leaves bright seams between neighboring boxes.
    shapes = PolyCollection(
        [box for box, _ in boxes], facecolors=colors, edgecolors="none", antialiased=False
    )
    axes.add_collection(shapes, autolim=False)


def _box(left: float, right: float, top: float) -> list[Point]:
    above, below = top - _HEIGHT / 2, top + _HEIGHT / 2
    return [(left, above), (right, above), (right, below), (left, below)]


def _edges(text: str) -> list[int]:
    """The first cell of each character, and the end of the last one."""
    edges = [0]
    for char in text:
        edges.append(edges[-1] + char_cells(char))
    return edges


def _write(axes: Axes, point: Point, line: Text | str, color: str) -> None:
    """Write a line on its cells; `point` is the middle of its left end."""
    left, middle = point
    font: dict[str, Any] = {"family": _FONT, "size": _POINTS, "color": color}
    for cell, run in _runs(line if isinstance(line, str) else line.plain):
        if run.strip():
            # "baseline", because matplotlib would center each run by its own letters.
            axes.text(left + cell, middle + 0.24, run, va="baseline", **font)


def _runs(text: str) -> Iterator[tuple[int, str]]:
    """(first cell, text) of each part that is drawn as one text."""
    start, run, end = 0, "", 0
    for char in text:
        size = char_cells(char)
        # A combining mark has no cell of its own and stays with its letter.
        joins = size == 0 or (_EVEN.match(char) and _EVEN.match(run[-1:]))
        if run and not joins:
            yield start, run
            start, run = end, ""
        run += char
        end += size
    if run:
        yield start, run


def _draw_scale(axes: Axes, top: float, text: ColoredText) -> None:
    """Draw the color scale, the scores below it, and the label and unit beside it."""
    boxes = []
    for cell in range(_LEGEND):
        score = (cell + 0.5) / _LEGEND * 2 * LIMIT - LIMIT
        if abs(score) >= FAINT:
            boxes.append((_box(cell, cell + 1, top), background(score)))
    _fill(axes, boxes)

    axes.plot([0, _LEGEND], [top + 0.5] * 2, color=QUIET, linewidth=0.6)
    for mark in (-LIMIT, -CLASS_MEAN, 0, CLASS_MEAN, LIMIT):
        at = (mark + LIMIT) / (2 * LIMIT) * _LEGEND
        axes.plot([at, at], [top + 0.5, top + 0.68], color=QUIET, linewidth=0.6)
        end = {-LIMIT: "≤ ", LIMIT: "≥ "}.get(mark, "")
        value = mark / LIMIT * text.limit
        label = end + with_minus(f"{value:+.3g}") if mark else "0"
        align = {-LIMIT: "left", LIMIT: "right"}.get(mark, "center")
        font: dict[str, Any] = {"family": _FONT, "size": _POINTS - 1.5, "color": QUIET}
        axes.text(at, top + 1.45, label, ha=align, va="baseline", **font)

    room = COLUMNS - _LEGEND - 2
    for number, description in enumerate((text.label, text.unit)):
        color = QUIET if number else TEXT
        for line, part in enumerate(wrap(description, room)[:2]):
            _write(axes, (_LEGEND + 2, top + number * 1.05 + line), part, color)
