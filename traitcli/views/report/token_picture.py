"""Draws a response as text, each token on the colour of its score, as the terminal shows it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from rich.color import Color
from rich.style import Style
from rich.text import Text

from traitcli.views.cells import LineWrapper, char_cells, wrap
from traitcli.views.monitor.token_styles import TokenStyler
from traitcli.views.palette import CLASS_MEAN, FAINT, LIMIT, Palette, background
from traitcli.views.printable import one_line

DPI = 200
COLUMNS = 90
MOST_LINES = 120
"""Of a response; what is longer is cut, and says so."""
INK, QUIET = "#101418", "#59626f"

_PROMPT_LINES = 3
_CELL = (15, 37)
"""Pixels: at 9 points and 200 dpi a character of DejaVu Sans Mono is 15 wide, so whole lines stay on the grid."""
_POINTS = 9
_HEIGHT = 0.86
"""Of a colour, in lines."""
_FONT = "DejaVu Sans Mono"
_EVEN = re.compile("[ -\u024f\u0386-\u03ce\u0400-\u045f]")
"""Characters that the font has, each one cell wide: drawn together; any other is put on its cell by itself."""
_LEGEND = 48
"""Cells of the colour scale."""

Place = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Coloured:
    """What to draw.

    scores  one for each token, none where it is not known
    full    the score that is as vivid as a calibrated one of LIMIT
    unit    what the scores are, in words
    about   what stands beside the prompt: trait, layer, model
    """

    prompt: str
    tokens: Sequence[str]
    scores: Sequence[float | None]
    full: float
    unit: str
    about: str


def draw_tokens(coloured: Coloured) -> Figure:
    """The prompt, the response on its colours, and the scale of the colours below it."""
    prompt, lines = _prompt(coloured.prompt), _response(coloured)
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
        _colour(axes, top, line)
        _write(axes, (0, top), line, INK)
        top += 1
    _draw_scale(axes, top + 0.7, coloured)
    return figure


def _prompt(prompt: str) -> list[Text]:
    lines = wrap(one_line(prompt), COLUMNS - 2) if prompt.strip() else []
    return (
        lines
        if len(lines) <= _PROMPT_LINES
        else [*lines[: _PROMPT_LINES - 1], lines[_PROMPT_LINES - 1] + " …"]
    )


def _response(coloured: Coloured) -> list[Text]:
    """The response in lines, as the terminal wraps it; where it is cut, a last one tells so."""
    ink, wrapper = TokenStyler(Palette("full")), LineWrapper(COLUMNS)
    for token, score in zip(coloured.tokens, coloured.scores, strict=True):
        shade = None if score is None else score / coloured.full * LIMIT
        for piece, style in ink.style(token, shade):
            wrapper.add(piece, style)
    wrapper.end_line()
    lines = wrapper.pop_finished()
    while lines and not lines[-1].plain:
        lines.pop()
    if len(lines) <= MOST_LINES:
        return lines
    return [*lines[:MOST_LINES], Text(f"[cut here: {len(lines) - MOST_LINES:,} more lines]")]


def _colour(axes: Axes, top: float, line: Text) -> None:
    """The grounds of a line's tokens."""
    edges = _edges(line.plain)
    boxes = [
        (_box(edges[span.start], edges[span.end], top), span.style.bgcolor)
        for span in line.spans
        if isinstance(span.style, Style) and span.style.bgcolor
    ]
    _fill(axes, boxes)


def _fill(axes: Axes, boxes: Sequence[tuple[list[Place], Color]]) -> None:
    colours = [colour.get_truecolor().hex for _, colour in boxes]
    shapes = PolyCollection(
        [box for box, _ in boxes], facecolors=colours, edgecolors="none", antialiased=False
    )
    axes.add_collection(shapes, autolim=False)


def _box(left: float, right: float, top: float) -> list[Place]:
    above, below = top - _HEIGHT / 2, top + _HEIGHT / 2
    return [(left, above), (right, above), (right, below), (left, below)]


def _edges(text: str) -> list[int]:
    """The cell where each character begins, and the one where the last ends."""
    edges = [0]
    for char in text:
        edges.append(edges[-1] + char_cells(char))
    return edges


def _write(axes: Axes, place: Place, line: Text | str, ink: str) -> None:
    """Text on its cells, the middle of its line at `place`."""
    left, middle = place
    for cell, piece in _pieces(line if isinstance(line, str) else line.plain):
        if piece.strip():
            # The baseline is fixed, so that a line stays even whatever letters are in it.
            axes.text(
                left + cell,
                middle + 0.24,
                piece,
                family=_FONT,
                size=_POINTS,
                color=ink,
                va="baseline",
            )


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """Cell and text of what is drawn at once: runs of even characters, and others one by one with their marks."""
    start, piece, end = 0, "", 0
    for char in text:
        size = char_cells(char)
        joins = size == 0 or (_EVEN.match(char) and _EVEN.match(piece[-1:]))
        if piece and not joins:
            yield start, piece
            start, piece = end, ""
        piece += char
        end += size
    if piece:
        yield start, piece


def _draw_scale(axes: Axes, top: float, coloured: Coloured) -> None:
    """The colours from one limit to the other, with their scores below, and what is shown behind."""
    steps = [(index, (index + 0.5) / _LEGEND * 2 * LIMIT - LIMIT) for index in range(_LEGEND)]
    _fill(
        axes,
        [(_box(at, at + 1, top), background(score)) for at, score in steps if abs(score) >= FAINT],
    )
    axes.plot([0, _LEGEND], [top + 0.5] * 2, color=QUIET, linewidth=0.6)
    for mark in (-LIMIT, -CLASS_MEAN, 0, CLASS_MEAN, LIMIT):
        at = (mark + LIMIT) / (2 * LIMIT) * _LEGEND
        axes.plot([at, at], [top + 0.5, top + 0.68], color=QUIET, linewidth=0.6)
        end = {-LIMIT: "≤ ", LIMIT: "≥ "}.get(mark, "")
        value = mark / LIMIT * coloured.full
        label = f"{end}{value:+.3g}".replace("-", "−") if mark else "0"
        align = {-LIMIT: "left", LIMIT: "right"}.get(mark, "center")
        axes.text(
            at,
            top + 1.45,
            label,
            family=_FONT,
            size=_POINTS - 1.5,
            color=QUIET,
            ha=align,
            va="baseline",
        )
    room = COLUMNS - _LEGEND - 2
    for number, told in enumerate((coloured.about, coloured.unit)):
        for line, text in enumerate(wrap(told, room)[:2]):
            _write(axes, (_LEGEND + 2, top + number * 1.05 + line), text, QUIET if number else INK)
