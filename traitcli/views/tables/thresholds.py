"""Prints the thresholds of alarms, and how often benign texts of another source exceed them."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from traitcli.views.formatting import format_score
from traitcli.views.tables.base import (
    BAD,
    NAMED,
    NONE,
    PLAIN,
    Cell,
    Row,
    caption,
    number,
    path_line,
    print_table,
)


def thresholds_table(console: Console, rows: Sequence[Row], folder: str) -> None:
    """One line for each trait, length and rate, by the default way to sum up."""
    default = rows[0]["summary"]
    print_table(console, _THRESHOLD_COLUMNS, [row for row in rows if row["summary"] == default])
    units = "calibrated scores" if rows[0]["calibrated"] else "projections"
    caption(
        console,
        f"tokens: benign texts cut there · threshold: by {default}, in {units}, with its 95 % "
        "interval · other ways to sum up: --json",
    )
    path_line(console, "thresholds", folder)


def realized_table(console: Console, rows: Sequence[Row]) -> None:
    """One line for each trait and rate by the default way to sum up."""
    console.line()
    default = rows[0]["summary"]
    print_table(console, _REALIZED_COLUMNS, [row for row in rows if row["summary"] == default])
    caption(
        console,
        f"realized: texts above the threshold by {default} · holds: 0.3 to 2 times the nominal "
        "rate · other ways to sum up: --json",
    )


def _percent(key: str) -> Cell:
    return lambda row: Text(NONE if row[key] is None else f"{row[key] * 100:.4g}%")


def _realized(row: Row) -> Text:
    if row["realized"] is None:
        return Text(NONE)
    low, high = row["low"] * 100, row["high"] * 100
    return Text(f"{row['realized'] * 100:.1f}% ({low:.1f}–{high:.1f})")


def _threshold(row: Row) -> Text:
    low, high = format_score(row["low"]), format_score(row["high"])
    return Text(f"{format_score(row['threshold'])} ({low} – {high})")


def _outcome(row: Row) -> Text:
    return Text(row["outcome"], BAD if row["outcome"] == "differs" else PLAIN)


_THRESHOLD_COLUMNS: tuple[tuple[str, Cell], ...] = (
    NAMED,
    ("tokens", number("tokens", "{:,}")),
    ("texts", number("texts", "{:,}")),
    ("FPR", _percent("fpr")),
    ("threshold", _threshold),
)
_REALIZED_COLUMNS: tuple[tuple[str, Cell], ...] = (
    NAMED,
    ("texts", number("texts", "{:,}")),
    ("FPR", _percent("fpr")),
    ("alarms", number("alarms", "{:,}")),
    ("realized", _realized),
    ("outcome", _outcome),
)
