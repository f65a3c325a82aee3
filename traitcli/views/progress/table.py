"""Lays out the rows of a live view as a table with a progress bar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import RenderableType
from rich.progress_bar import ProgressBar
from rich.style import Style
from rich.table import Table
from rich.text import Text

from traitcli.views.formatting import QUIET
from traitcli.views.palette import BLUE

GOOD = Style(color="green")
WARNING = Style(color="yellow")
BAD = Style(color="red")

_GAP = 2
"""Cells between two columns."""
_WIDEST_BAR = 24
_NARROWEST_BAR = 6
_FILLED = Style(color=BLUE)

Row = Mapping[str, RenderableType]
"""Column title -> cell. Text cells must be `Text`: Rich reads markup in a plain string."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its width in cells, and whether a narrow terminal may do without it."""

    title: str
    width: int
    right: bool = True
    optional: bool = False


BAR = Column("", _NARROWEST_BAR, right=False, optional=True)
"""Takes the space that is left, up to 24 cells."""


def progress_table(columns: Sequence[Column], rows: Sequence[Row], width: int) -> Table:
    """A table for `width` cells.

    A narrow terminal loses the optional columns first, from the right. Then Rich shortens cells.
    """
    shown = list(columns)
    optional = [column for column in columns if column.optional]
    while optional and _width(shown) > width:
        shown.remove(optional.pop())

    bar = min(_NARROWEST_BAR + max(width - _width(shown), 0), _WIDEST_BAR)
    table = Table(box=None, padding=(0, 0, 0, _GAP), pad_edge=False, header_style=QUIET)
    for column in shown:
        table.add_column(
            column.title,
            width=bar if column is BAR else column.width,
            justify="right" if column.right else "left",
            no_wrap=True,
        )
    for row in rows:
        table.add_row(*(row.get(column.title, Text("")) for column in shown))
    return table


def progress_bar(done: int, total: int, *, active: bool = True) -> ProgressBar:
    """A bar for the BAR column; a finished stage is green."""
    # Rich would draw an empty bar for a stage without items, but that stage is complete.
    return ProgressBar(
        total=max(total, 1),
        completed=done if total else 1,
        complete_style=_FILLED if active else GOOD,
        finished_style=_FILLED if active else GOOD,
        style=QUIET,
    )


def _width(columns: Sequence[Column]) -> int:
    return sum(column.width + _GAP for column in columns) - _GAP
