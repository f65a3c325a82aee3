"""Prints tables and labelled lines, and formats their cells."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from traitcli.views.cells import wrap_labelled
from traitcli.views.printable import one_line

Row = Mapping[str, Any]

Cell = Callable[[Row], Text]

NONE = "–"

PLAIN = Style()

QUIET = Style(dim=True)

NAME = Style(bold=True)

VERDICTS = {
    "good": Style(color="green"),
    "weak": Style(color="yellow"),
    "unusable": Style(color="red", bold=True),
}


def number(key: str, form: str = "{:.2f}") -> Cell:
    return lambda row: Text(NONE if row[key] is None else form.format(row[key]))


def text_cell(key: str, style: Style | None = None) -> Cell:
    return lambda row: Text(one_line(str(row[key])), style or "")


def sides(positive: str, negative: str, form: str = "{:.0f}", between: str = "+") -> Cell:
    def cell(row: Row) -> Text:
        both = (row[positive], row[negative])
        return Text(between.join(NONE if side is None else form.format(side) for side in both))

    return cell


def verdict_cell(row: Row) -> Text:
    return Text(one_line(row["verdict"]), VERDICTS.get(row["verdict"], PLAIN))


NAMED = ("trait", text_cell("trait", NAME))

_LEFT = {"trait", "method", "verdict", "source", "device", "share"}
"""Columns of words; when room is short they are folded, and figures stay whole."""


def print_table(
    console: Console,
    columns: Iterable[tuple[str, Cell]],
    rows: Sequence[Row],
    total: Row | None = None,
) -> None:
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        header_style=QUIET,
        border_style=QUIET,
    )
    cells = []
    for title, cell in columns:
        gives_way = title in _LEFT
        table.add_column(
            title, justify="left" if gives_way else "right", overflow="fold", no_wrap=not gives_way
        )
        cells.append(cell)
    for row in rows:
        table.add_row(
            *[cell(row) for cell in cells], end_section=total is not None and row is rows[-1]
        )
    if total is not None:
        table.add_row(*[cell(total) for cell in cells])
    console.print(table)


def heading(console: Console, text: str, style: Style = NAME) -> None:
    console.print(Text(text, style), soft_wrap=True, highlight=False)


def caption(console: Console, text: str) -> None:
    labelled_line(console, "", text, QUIET)


def labelled_line(
    console: Console, label: str, text: str, style: Style = PLAIN, label_style: Style | None = None
) -> None:
    first, *rest = wrap_labelled(label, text, console.width - 1, style)
    first.stylize(label_style or style, 0, len(label))
    for line in (first, *rest):
        console.print(line, highlight=False)


def path_line(console: Console, label: str, path: str) -> None:
    """A path stays in one piece, however long, so that it can be copied."""
    console.print(Text(f"{label}: {one_line(path)}", QUIET), soft_wrap=True, highlight=False)
