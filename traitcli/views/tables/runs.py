"""Prints the tables of traits, runs, plans and failures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from traitcli.views.formatting import QUIET, clock_time, format_score
from traitcli.views.palette import palette_for
from traitcli.views.printable import one_line, printable
from traitcli.views.tables.base import (
    BAD,
    NAMED,
    NONE,
    PLAIN,
    WEAK,
    Cell,
    Row,
    caption,
    heading,
    labelled_line,
    number,
    path_line,
    print_table,
    sides,
    text_cell,
)
from traitcli.views.tables.judge import judge_lines
from traitcli.views.words import count_text


def traits_table(console: Console, rows: Sequence[Row]) -> None:
    """One line for each trait definition, and below them the faults."""
    print_table(console, _TRAIT_COLUMNS, rows)
    caption(console, "held out: evaluation questions, not used for extraction")
    for row in rows:
        for fault in row["faults"]:
            labelled_line(
                console,
                f"✗ {one_line(row['trait'])}: ",
                printable(fault),
                label_style=BAD,
            )


def run_table(console: Console, rows: Sequence[Row]) -> None:
    """One line for each trait of a run; below, notes, vectors, and how reliable each judge is."""
    print_table(console, _RUN_COLUMNS, rows)
    caption(
        console,
        "judge AUROC: of its scores against the instructions · scores: means by polarity, 0–100 · "
        "kept: rollouts that pass the filter, positive + negative",
    )
    for row in rows:
        if row["note"]:
            labelled_line(console, f"{one_line(row['trait'])}: ", printable(row["note"]), QUIET)
        if row["vector"]:
            path_line(console, one_line(row["trait"]), row["vector"])

    palette = palette_for(console.color_system, no_color=console.no_color)
    for row in rows:
        if row["judge_quality"]:
            # One column stays free: some terminals wrap a line that fills the last one.
            for line in judge_lines(row, console.width - 1, palette):
                console.print(line, soft_wrap=True, highlight=False)


def plan_table(console: Console, rows: Sequence[Row]) -> None:
    """What a run would do: one line for each trait, and one for all."""
    # The total of a single trait would repeat its line.
    print_table(console, _PLAN_COLUMNS, rows, total=_total(rows) if len(rows) > 1 else None)
    caption(
        console,
        "calls: judge calls · prompt, response: maximum tokens · disk: size of activations · "
        "time, cost: estimates, – if unknown",
    )
    memory = max((row["memory_mb"] for row in rows), default=0)
    caption(console, f"building a vector takes up to {_megabytes(memory)} of memory")


def workers_table(console: Console, rows: Sequence[Row], notes: Sequence[str]) -> None:
    """What each worker does, and whether the model fits its device's memory; below, notes."""
    console.line()
    print_table(console, _WORKER_COLUMNS, rows)
    caption(
        console,
        "needed: minimum memory · found: free memory · idle workers steal unstarted rollouts",
    )
    for note in notes:
        labelled_line(console, "", printable(note), QUIET)


def failures_table(console: Console, rows: Sequence[Row]) -> None:
    """What failed: trait and stage, then problem, cause and fix, each on its own line."""
    for row in rows:
        heading(console, f"{one_line(row['trait'])}  {one_line(row['stage'])}", BAD)
        for label in ("problem", "cause", "fix"):
            if row.get(label):
                labelled_line(console, f"  {label}: ".ljust(11), printable(row[label]))


def set_table(console: Console, rows: Sequence[Row], path: str) -> None:
    """The calibrated scores of each trait over the answers to a prompt set."""
    if rows:
        console.line()
        print_table(console, _SET_COLUMNS, rows)
        caption(
            console,
            "should rise, should fall: mean score of those answers · difference: between the two · "
            "swing: highest − lowest mean of five tokens, in answers that should do both",
        )
    path_line(console, "records", path)


def texts_table(console: Console, rows: Sequence[Row], failures: Sequence[str], path: str) -> None:
    """Mean scores over texts, and the texts with the lowest and the highest score of each trait."""
    print_table(console, _TEXTS_COLUMNS, rows)
    # Many unreadable files must not push the table off the screen.
    for failure in failures[:_FAILURES_SHOWN]:
        labelled_line(console, "not read: ", printable(failure), label_style=WEAK)
    if len(failures) > _FAILURES_SHOWN:
        caption(console, f"and {len(failures) - _FAILURES_SHOWN:,} more that could not be read")
    path_line(console, "records", path)


def _score(key: str) -> Cell:
    return lambda row: Text(format_score(row[key]))


def _difference(row: Row) -> Text:
    """The difference between the two kinds of answers; red if it has the wrong sign."""
    if row["positive"] is None or row["negative"] is None:
        return Text(NONE)
    difference = row["positive"] - row["negative"]
    # At or below 0 the vector points the wrong way, whatever its held-out AUROC.
    return Text(format_score(difference), BAD if difference <= 0 else PLAIN)


def _extreme(key: str) -> Cell:
    return lambda row: Text(format_score(row[key][0])).append(f"  {one_line(row[key][1])}", QUIET)


def _done(done: str, total: str) -> Cell:
    return lambda row: Text(
        f"{row[done]:,}/{NONE if row[total] is None else format(row[total], ',')}"
    )


def _gibibytes(key: str) -> Cell:
    # The keys of the JSON output end with `_mb`, but their unit is 2^20 bytes.
    return lambda row: Text(NONE if row[key] is None else f"{row[key] / 2**10:,.1f} GiB")


def _partitions(row: Row) -> Text:
    """`evil 200, refusal 100 (1 of 2)`: rollouts, and which part of a trait that is split."""
    texts = []
    for one in row["partitions"]:
        part = f" ({one['part']} of {one['parts']})" if one["parts"] > 1 else ""
        texts.append(f"{one_line(one['trait'])} {one['rollouts']:,}{part}")
    return Text(", ".join(texts) or "no rollouts")


def _duration(row: Row) -> Text:
    return Text(clock_time(row["seconds"]))


def _count(key: str) -> Cell:
    return lambda row: Text(_short(row[key]))


def _short(count: float) -> str:
    """`9,999`, `12.3k`, `4.1M`."""
    if count < 10_000:
        return f"{count:,.0f}"
    # From 999,950 on, it would round to 1000.0k.
    return f"{count / 1e3:.1f}k" if count < 999_950 else f"{count / 1e6:.1f}M"


def _disk(row: Row) -> Text:
    return Text(_megabytes(row["disk_mb"]))


def _megabytes(count: float) -> str:
    # From 999.5 on, it would round to 1000 MB.
    return f"{count:.0f} MB" if count < 999.5 else f"{count / 1e3:.1f} GB"


def _cost(row: Row) -> Text:
    return Text(NONE if row["cost_usd"] is None else f"${row['cost_usd']:,.2f}")


def _faults(row: Row) -> Text:
    count = len(row["faults"])
    if not count:
        return Text("none", QUIET)
    return Text(count_text(count, "fault"), BAD)


_TRAIT_COLUMNS: tuple[tuple[str, Cell], ...] = (
    NAMED,
    ("pairs", number("pairs", "{}")),
    ("questions", number("questions", "{}")),
    ("held out", number("evaluation_questions", "{}")),
    ("faults", _faults),
    ("source", text_cell("source", QUIET)),
)
_RUN_COLUMNS: tuple[tuple[str, Cell], ...] = (
    NAMED,
    ("rollouts", _done("rollouts_done", "rollouts_total")),
    ("empty", number("empty", "{}")),
    ("judged", number("judged", "{}")),
    ("missing", number("missing", "{}")),
    ("judge AUROC", number("judge_auroc")),
    ("scores +/−", sides("positive_score", "negative_score", between=" / ")),
    ("kept", sides("kept_positive", "kept_negative")),
)
_PLAN_COLUMNS: tuple[tuple[str, Cell], ...] = (
    NAMED,
    ("rollouts", _done("rollouts_done", "rollouts")),
    ("calls", _count("judge_calls")),
    ("prompt", _count("prompt_tokens")),
    ("response", _count("response_tokens_max")),
    ("disk", _disk),
    ("time", _duration),
    ("cost", _cost),
)
_WORKER_COLUMNS: tuple[tuple[str, Cell], ...] = (
    ("worker", _count("worker")),
    ("device", text_cell("device")),
    ("needed", _gibibytes("needed_mb")),
    ("found", _gibibytes("found_mb")),
    ("rollouts to make", _partitions),
)
_SET_COLUMNS: tuple[tuple[str, Cell], ...] = (
    NAMED,
    ("answers", _count("answers")),
    ("failed", _count("failed")),
    ("should rise", _score("positive")),
    ("should fall", _score("negative")),
    ("difference", _difference),
    ("swing", number("swing")),
)
_TEXTS_COLUMNS: tuple[tuple[str, Cell], ...] = (
    NAMED,
    ("texts", _count("texts")),
    ("mean", _score("mean")),
    ("lowest", _extreme("low")),
    ("highest", _extreme("high")),
)
_FAILURES_SHOWN = 5


def _total(rows: Sequence[Row]) -> dict[str, Any]:
    keys = (
        "rollouts",
        "rollouts_done",
        "judge_calls",
        "prompt_tokens",
        "response_tokens_max",
        "disk_mb",
    )

    total: dict[str, Any] = {"trait": "all"}
    for key in keys:
        total[key] = sum(row[key] for row in rows)

    for key in ("seconds", "cost_usd"):
        known = [row[key] for row in rows if row[key] is not None]
        # A sum of the known parts would read as the cost of all.
        total[key] = sum(known) if len(known) == len(rows) else None
    return total
