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
from traitcli.views.formatting import QUIET
from traitcli.views.printable import one_line
from traitcli.views.words import count_text

Row = Mapping[str, Any]

Cell = Callable[[Row], Text]
"""Makes the text of one column from a row."""

NONE = "–"

_MAX_DECIMAL = 10
"""From this value on, an interval has whole numbers: decimals would not fit, and mean nothing."""

PLAIN = Style()

NAME = Style(bold=True)

GOOD = Style(color="green")
WEAK = Style(color="yellow")
BAD = Style(color="red", bold=True)
VERDICTS = {
    "carries over": Style(color="green", bold=True),
    "reads its own texts": GOOD,
    "reads its instruction": WEAK,
    "not shown": BAD,
}


def number(key: str, form: str = "{:.2f}") -> Cell:
    return lambda row: Text(NONE if row[key] is None else form.format(row[key]))


def text_cell(key: str, style: Style | None = None) -> Cell:
    return lambda row: Text(one_line(str(row[key])), style or "")


def sides(positive: str, negative: str, form: str = "{:.0f}", between: str = "+") -> Cell:
    """A cell with a number for each polarity, such as `96+88`."""

    def cell(row: Row) -> Text:
        both = (row[positive], row[negative])
        return Text(between.join(NONE if side is None else form.format(side) for side in both))

    return cell


def verdict_cell(row: Row) -> Text:
    # A file may hold a verdict that this version does not know.
    return Text(one_line(row["verdict"]), VERDICTS.get(row["verdict"], PLAIN))


def interval_text(row: Row, low: str, high: str, form: str, between: str) -> str:
    """The bounds of an interval; empty if one is unknown."""
    bounds = [row[key] for key in (low, high) if row.get(key) is not None]
    if len(bounds) < 2:
        return ""
    chosen = form if max(map(abs, bounds)) < _MAX_DECIMAL else "{:.0f}"
    return between.join(chosen.format(bound) for bound in bounds)


def auroc_cell(key: str = "auroc") -> Cell:
    """`0.97 (0.91–0.99)`"""

    def cell(row: Row) -> Text:
        if row.get(key) is None:
            return Text(NONE)
        interval = interval_text(row, f"{key}_low", f"{key}_high", "{:.2f}", "–")
        return Text(f"{row[key]:.2f}").append(f" ({interval})" if interval else "", QUIET)

    return cell


def answers_text(positive: int, texts: int, prompts: int) -> str:
    """`473 of 1,000 answers show it, 427 prompts`"""
    return f"{positive:,} of {texts:,} answers show it, {count_text(prompts, 'prompt')}"


def gap_cell(row: Row) -> Text:
    """How much of the separation needs the persona in the prompt."""
    known = row.get("auroc"), row.get("neutral_auroc")
    return Text(NONE if None in known else f"{row['auroc'] - row['neutral_auroc']:+.2f}")


NAMED = ("trait", text_cell("trait", NAME))

_TEXT_COLUMNS = {
    "trait",
    "brake",
    "path",
    "method",
    "verdict",
    "reason",
    "source",
    "device",
    "rollouts to make",
    "read by",
    "lead of the first row",
    "within group",
    "topic",
    "single tokens",
}
"""Left-aligned columns that wrap on a narrow terminal; a number that wraps would read as two."""


def print_table(
    console: Console,
    columns: Iterable[tuple[str, Cell]],
    rows: Sequence[Row],
    total: Row | None = None,
    text: str = "",
) -> None:
    """Print rows under their column titles, and `total` below a line.

    `text` is the title of a column of text whose title is not known in advance.
    """
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
        header_style=QUIET,
        border_style=QUIET,
    )

    cells = []
    for title, cell in columns:
        # Text is folded and not cut, so that a long name can still be copied.
        is_text = title in _TEXT_COLUMNS or title == text
        table.add_column(
            title, justify="left" if is_text else "right", overflow="fold", no_wrap=not is_text
        )
        cells.append(cell)

    for row in rows:
        # The end of a section draws the line above the total.
        is_last = total is not None and row is rows[-1]
        table.add_row(*[cell(row) for cell in cells], end_section=is_last)
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
    """Print a label and a text; further lines of the text are indented."""
    # One column less: a line that fills the last column wraps once more on some terminals.
    first, *rest = wrap_labelled(label, text, console.width - 1, style)
    first.stylize(label_style or style, 0, len(label))
    for line in (first, *rest):
        console.print(line, highlight=False)


def path_line(console: Console, label: str, path: str) -> None:
    """Print a path in one piece, however long, so that it can be copied."""
    console.print(Text(f"{label}: {one_line(path)}", QUIET), soft_wrap=True, highlight=False)
