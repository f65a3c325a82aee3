"""Prints how well a vector separates labelled answers, beside what simpler readings reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from traitcli.views.printable import one_line
from traitcli.views.tables.base import (
    NONE,
    Cell,
    Row,
    answers_text,
    caption,
    heading,
    number,
    print_table,
    text_cell,
)

if TYPE_CHECKING:
    from traitcli.vectors.labelled import LabelledTest

_NEGATIVES = {"tpr_1": 100, "tpr_5": 20}
"""The fewest texts without the trait that a true-positive rate needs."""


def labels_table(console: Console, trait: str, test: LabelledTest, rows: Sequence[Row]) -> None:
    """A table of ways to sum up and baselines, of leads, of groups and of tokens."""
    counts = answers_text(test.positive, test.texts, test.prompts)
    heading(console, one_line(f"{trait} on {test.source}: {counts}, layer {test.layer}"))
    both = [row for row in rows if row["part"] in {"summary", "baseline"}]
    print_table(console, _columns("read by", rates=True), both)
    for part, title in _TITLES.items():
        own = [row for row in rows if row["part"] == part]
        if own:
            console.line()
            print_table(console, _columns(title, rates=part == "group"), own)
    console.line()
    _notes(console, test, rows)


_TITLES = {
    "lead": "lead of the first row",
    "group": "within group",
    "topic": "topic",
    "tokens": "single tokens",
}


def _columns(title: str, *, rates: bool) -> list[tuple[str, Cell]]:
    columns: list[tuple[str, Cell]] = [(title, text_cell("name"))]
    if title == _TITLES["lead"]:
        return [*columns, ("difference", _value)]
    columns += [("n", number("count", "{:,.0f}")), ("AUROC", _value)]
    if rates:
        columns += [("TPR at 1% FPR", number("tpr_1")), ("at 5%", number("tpr_5"))]
    return columns


def _value(row: Row) -> Text:
    if row["value"] is None:
        return Text(NONE)
    form = "{:+.2f} ({:+.2f} to {:+.2f})" if row["part"] == "lead" else "{:.2f} ({:.2f}–{:.2f})"
    if row["low"] is None:
        return Text(form.split(" ", maxsplit=1)[0].format(row["value"]))
    return Text(form.format(row["value"], row["low"], row["high"]))


def _notes(console: Console, test: LabelledTest, rows: Sequence[Row]) -> None:
    for row in rows:
        if row["note"]:
            caption(console, one_line(f"{row['name']}: {row['note']}"))
    negatives = test.texts - test.positive
    for key, needed in _NEGATIVES.items():
        if negatives < needed:
            rate = key.removeprefix("tpr_")
            caption(
                console,
                f"no TPR at {rate}% FPR: it needs {needed} answers without the trait, "
                f"and there are {negatives:,}",
            )
    caption(
        console,
        "in brackets: 95 % interval over prompts · lead: difference of two AUROCs on the same "
        "draws; length counts in the direction that separates better",
    )
