"""Draws one trait at every row of the model: layers upwards, tokens to the right."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from rich.style import Style
from rich.text import Text

from traitcli.views.formatting import QUIET
from traitcli.views.palette import CLASS_MEAN, Palette, is_seen
from traitcli.views.printable import one_line

_KEPT = 400
_LABEL = 4
_STRONG = Style(bold=True)


class HeatMap:
    """The scores of the last tokens at every row; a terminal line shows two rows, where there are colours."""

    def __init__(self, trait: str, layer: int | None) -> None:
        """`layer` is the row that the trait is read at, and is marked."""
        self._trait = one_line(trait)
        self._layer = layer
        self._columns: deque[Sequence[float]] = deque(maxlen=_KEPT)

    def add(self, scores: Sequence[float]) -> None:
        """The scores of one more token, row 0 first."""
        self._columns.append(scores)

    def lines(self, palette: Palette, width: int, height: int) -> list[Text]:
        """At most `height` lines of at most `width` cells, the newest token at the right; rows are left out evenly."""
        if not self._columns or height < 3:
            return []
        columns = list(self._columns)[-(width - _LABEL - 1) :]
        rows, each = len(columns[0]), 1 if palette.depth == "none" else 2
        step = -(-rows // ((height - 1) * each))
        shown = list(range(0, rows, step))
        bands = [shown[start : start + each] for start in range(0, len(shown), each)]
        title = Text(
            f"  {self._trait} at {'every layer' if step == 1 else f'one layer in {step}'}", QUIET
        )
        if self._layer is not None:
            title.append(f", read at {self._layer}", QUIET)
        return [title, *(self._band(band, step, columns, palette) for band in reversed(bands))]

    def _band(
        self, rows: Sequence[int], step: int, columns: Sequence[Sequence[float]], palette: Palette
    ) -> Text:
        is_read = self._layer is not None and rows[0] <= self._layer < rows[-1] + step
        line = Text(no_wrap=True, end="").append(
            f"{rows[0]:>{_LABEL}} ", _STRONG if is_read else QUIET
        )
        for column in columns:
            scores = [column[row] for row in rows]
            if palette.depth == "none":
                line.append(_mark(scores[0]))
                continue
            lower, upper = (
                palette.token(scores[0]),
                palette.token(scores[-1]) if len(scores) > 1 else None,
            )
            line.append(*_half_blocks(lower, upper))
        return line


def _half_blocks(lower: Style | None, upper: Style | None) -> tuple[str, Style | None]:
    """One cell of two colours, of which either may be the terminal's own."""
    above, below = upper.bgcolor if upper else None, lower.bgcolor if lower else None
    if above is None and below is None:
        return " ", None
    if above is None:
        return "▄", Style.from_color(below)
    return "▀", Style.from_color(above, below)


def _mark(score: float) -> str:
    """`+` and `−` beyond a class mean, `'` and `.` on their way there."""
    if not is_seen(score):
        return " "
    return (
        ("+" if score >= CLASS_MEAN else "'")
        if score > 0
        else ("−" if score <= -CLASS_MEAN else ".")
    )
