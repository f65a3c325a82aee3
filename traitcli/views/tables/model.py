"""Prints what a model is, and how every way of reading it compares with a plain pass."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.style import Style
from rich.text import Text

from traitcli.views.printable import one_line, printable
from traitcli.views.tables.base import (
    BAD,
    GOOD,
    Row,
    caption,
    heading,
    labelled_line,
    number,
    print_table,
    text_cell,
)

_VERDICT_STYLES = {"agrees": GOOD, "differs": BAD}

_READS = {
    "packed": "packed: many texts in one pass, without padding",
    "padded": "padded: many texts in one pass, with padding",
    "alone": "alone: one text at a time, which is slow",
}


def model_table(console: Console, rows: Sequence[Row]) -> None:
    """The facts about a model, one a line; below, a table of the ways of reading it."""
    for row in rows:
        heading(console, one_line(row["model"]))
        for label, text in _facts(row):
            labelled_line(console, f"{label}: ".ljust(15), printable(text))
        console.line()
        print_table(console, _COLUMNS, row["checks"])
        caption(
            console,
            "error: largest relative difference of a hidden state from a plain forward pass · "
            "layer: where it is",
        )
        for check in row["checks"]:
            if check["problem"]:
                labelled_line(
                    console,
                    f"✗ {check['path']}: ",
                    printable(check["problem"]),
                    label_style=_VERDICT_STYLES["differs"],
                )
        _print_verdict(console, row)


def _facts(row: Row) -> list[tuple[str, str]]:
    blocks = row["blocks"]
    facts = [
        ("family", f"{row['family']} ({row['class']})"),
        ("layers", f"0–{blocks} (embeddings, {blocks} blocks; {blocks} is after the final norm)"),
        ("hidden size", str(row["hidden_size"])),
        ("dtype", row["dtype"]),
        ("device", row["device"]),
        ("context", f"{row['context']:,} tokens"),
        ("persona", f"in the {row['persona_in']} message"),
        *_template_facts(row["template"]),
    ]
    if row["revision"]:
        facts.insert(0, ("revision", row["revision"]))
    return facts


def _template_facts(template: Row | None) -> list[tuple[str, str]]:
    if template is None:
        return [("chat template", "none: texts are continued as they are")]
    shown = {True: "shown", False: "not shown: a system message goes into the first user message"}
    thinking = {
        "always": "always: the template opens it",
        "optional": "model.template_options={enable_thinking: false} turns it off",
    }
    facts = [
        (
            "chat template",
            "content as a list of parts" if template["content"] == "parts" else "yes",
        ),
        ("system role", shown[template["system"]]),
        ("thinking", thinking.get(template["thinking"], "no setting for it")),
        ("it adds", template["added"] or "nothing but special tokens"),
    ]
    if not template["answers"]:
        facts.append(("answers", "earlier answers of the model are dropped"))
    if template["alters"]:
        facts.append(("texts", "some characters are changed"))
    return facts


def _print_verdict(console: Console, row: Row) -> None:
    console.line()
    if row["reads"]:
        style, text = GOOD, f"read correctly, {_READS[row['reads']]}"
    else:
        style, text = BAD, f"scores would be wrong: {row['problem']}"
    labelled_line(console, "", printable(text), style)


def _verdict(row: Row) -> Text:
    return Text(row["verdict"], _VERDICT_STYLES.get(row["verdict"], Style()))


_COLUMNS = [
    ("path", text_cell("path")),
    ("error", number("error", "{:.1e}")),
    ("layer", number("layer", "{:d}")),
    ("verdict", _verdict),
]
