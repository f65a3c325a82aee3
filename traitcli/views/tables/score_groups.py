"""Prints the mean scores of texts by file, by day or by another key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.text import Text

from traitcli.views.formatting import format_score
from traitcli.views.printable import one_line
from traitcli.views.tables.base import (
    NONE,
    WEAK,
    Cell,
    Row,
    caption,
    number,
    print_table,
    text_cell,
)

_BESIDE = 40
"""Columns of the terminal for the group and the counts; the rest is for traits."""


def groups_table(console: Console, key: str, rows: Sequence[Row]) -> None:
    """One line a group with the mean of each trait; traits that do not fit follow in a new table.

    Args:
        console: Where to print.
        key: What the groups are by; the title of the first column.
        rows: As `ScoreGroups.rows` returns them.
    """
    traits = list(dict.fromkeys(trait for row in rows for trait in row["means"]))
    title = one_line(key)
    columns: list[tuple[str, Cell]] = [(title, _group), ("texts", number("texts", "{:,}"))]
    failures: list[tuple[str, Cell]] = []
    if any(row["failed"] for row in rows):
        failures = [("not read", number("failed", "{:,}")), ("reason", text_cell("problem", WEAK))]
    for index, shown in enumerate(_fitting(traits, console.width - _BESIDE)):
        if index:
            console.line()
        means = [(one_line(trait), _mean(trait)) for trait in shown]
        # Why a file was not read does not depend on the trait.
        print_table(console, [*columns, *means, *([] if index else failures)], rows, text=title)
    caption(console, "each text counts once: the mean of its tokens, and then of the texts")


def _fitting(traits: Sequence[str], width: int) -> Iterator[list[str]]:
    """The traits in portions whose columns fit; one empty portion without a trait."""
    shown: list[str] = []
    used = 0
    for trait in traits:
        needed = max(len(one_line(trait)), 6) + 1
        if shown and used + needed > width:
            yield shown
            shown, used = [], 0
        shown.append(trait)
        used += needed
    yield shown


def _group(row: Row) -> Text:
    return Text(one_line(row["group"]) or NONE)


def _mean(trait: str) -> Cell:
    def cell(row: Row) -> Text:
        mean = row["means"].get(trait)
        return Text(NONE if mean is None else format_score(mean))

    return cell
