"""Prints the tables of vectors, traits, runs, plans and failures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from rich import box
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

from traitcli.views.cells import hang
from traitcli.views.judge_lines import judge_lines
from traitcli.views.pace import clock_time
from traitcli.views.palette import palette_for
from traitcli.views.panel import figure
from traitcli.views.printable import one_line, printable

Row = Mapping[str, Any]
Cell = Callable[[Row], Text]

_NONE = "–"
_PLAIN = Style()
_QUIET = Style(dim=True)
_NAME = Style(bold=True)
_VERDICTS = {
    "good": Style(color="green"),
    "weak": Style(color="yellow"),
    "unusable": Style(color="red", bold=True),
}


def vectors_table(console: Console, rows: Sequence[Row]) -> None:
    """One line per vector, by model; under it why one is not good, how they were judged, and where they are."""
    for model in dict.fromkeys(row["model"] for row in rows):
        of_model = [row for row in rows if row["model"] == model]
        shapes = dict.fromkeys(f"[{row['rows']}, {row['hidden_size']}]" for row in of_model)
        _heading(console, f"{one_line(model)}  {' '.join(shapes)}")
        _print(console, _VECTOR_COLUMNS, of_model)
        _caption(
            console,
            "AUROC, d: how well held-out rollouts separate · contrast: mean judge score, positive − negative · "
            "norm: of the vector, relative to the activations · kept: rollouts past the filter, positive + negative",
        )
        _shared(console, of_model, ("judge", "filter", "coherence"))
        _reasons(console, of_model)
        for folder in dict.fromkeys(str(PurePath(row["path"]).parent) for row in of_model):
            _path(console, "vectors in", folder)
    if not rows:
        _caption(console, "no vectors")


def traits_table(console: Console, rows: Sequence[Row]) -> None:
    """One line per trait definition; under it the faults found."""
    _print(console, _TRAIT_COLUMNS, rows)
    _caption(console, "held out: evaluation questions, never asked for extraction")
    for row in rows:
        for fault in row["faults"]:
            _line(console, f"✗ {one_line(row['trait'])}: ", printable(fault), label_style=_VERDICTS["unusable"])


def run_table(console: Console, rows: Sequence[Row]) -> None:
    """One line per trait of a run; under it where vectors are, notes, and how far to believe each trait's judge."""
    _print(console, _RUN_COLUMNS, rows)
    _caption(
        console,
        "judge: AUROC of its scores against the instructions · scores: means of either side, 0–100 · "
        "kept: rollouts past the filter, positive + negative",
    )
    for row in rows:
        if row["note"]:
            _line(console, f"{one_line(row['trait'])}: ", printable(row["note"]), _QUIET)
        if row["vector"]:
            _path(console, one_line(row["trait"]), row["vector"])
    palette = palette_for(console.color_system, no_color=console.no_color)
    for row in rows:
        if row["judge_quality"]:
            for line in judge_lines(row, console.width - 1, palette):
                console.print(line, soft_wrap=True, highlight=False)


def plan_table(console: Console, rows: Sequence[Row]) -> None:
    """What a run would do, one line per trait and one for all."""
    _print(console, _PLAN_COLUMNS, rows, total=_total(rows) if len(rows) > 1 else None)
    _caption(
        console,
        "calls: of the judge · prompt: tokens to read · response: tokens to write at most · disk: activations · "
        "time, cost: estimates, – when unknown",
    )


def places_table(console: Console, rows: Sequence[Row], notes: Sequence[str]) -> None:
    """Which worker does what, and whether its device has the memory; under it what is worth knowing."""
    console.line()
    _print(console, _PLACE_COLUMNS, rows)
    _caption(
        console,
        "needed, found: memory, at least and free · rollouts: as they are handed out; who is done first takes over "
        "what others have not begun",
    )
    for note in notes:
        _line(console, "", printable(note), _QUIET)


def failures_table(console: Console, rows: Sequence[Row]) -> None:
    """What failed, in full: trait and stage, then problem, cause and fix on lines of their own."""
    for row in rows:
        _heading(console, f"{one_line(row['trait'])}  {one_line(row['stage'])}", _VERDICTS["unusable"])
        for label in ("problem", "cause", "fix"):
            if row.get(label):
                _line(console, f"  {label}: ".ljust(11), printable(row[label]))


def set_table(console: Console, rows: Sequence[Row], path: str) -> None:
    """What the prompts of a set showed of each trait, calibrated."""
    if rows:
        console.line()
        _print(console, _SET_COLUMNS, rows)
        _caption(
            console,
            "should rise, should fall: mean score of the answers that should · difference: of the two · swing: highest "
            "− lowest five tokens within an answer that should do both",
        )
    _path(console, "records", path)


def texts_table(console: Console, rows: Sequence[Row], failures: Sequence[str], path: str) -> None:
    """Mean scores of texts, and where to read: the lowest and the highest of each trait."""
    _print(console, _TEXTS_COLUMNS, rows)
    for failure in failures[:_FAILURES_SHOWN]:
        _line(console, "not read: ", printable(failure), label_style=_VERDICTS["weak"])
    if len(failures) > _FAILURES_SHOWN:
        _caption(console, f"and {len(failures) - _FAILURES_SHOWN:,} more that could not be read")
    _path(console, "records", path)


def _figure(key: str, form: str = "{:.2f}") -> Cell:
    return lambda row: Text(_NONE if row[key] is None else form.format(row[key]))


def _score(key: str) -> Cell:
    return lambda row: Text(figure(row[key]))


def _difference(row: Row) -> Text:
    """How far apart the two kinds of answers lie; red where they lie the wrong way round."""
    if row["positive"] is None or row["negative"] is None:
        return Text(_NONE)
    difference = row["positive"] - row["negative"]
    return Text(figure(difference), _VERDICTS["unusable"] if difference <= 0 else _PLAIN)


def _extreme(key: str) -> Cell:
    return lambda row: Text(figure(row[key][0])).append(f"  {one_line(row[key][1])}", _QUIET)


def _text(key: str, style: Style | None = None) -> Cell:
    return lambda row: Text(one_line(str(row[key])), style or "")


def _sides(positive: str, negative: str, form: str = "{:.0f}", between: str = "+") -> Cell:
    def cell(row: Row) -> Text:
        sides = (row[positive], row[negative])
        return Text(between.join(_NONE if side is None else form.format(side) for side in sides))

    return cell


def _done(done: str, total: str) -> Cell:
    return lambda row: Text(f"{row[done]:,}/{_NONE if row[total] is None else format(row[total], ',')}")


def _mebibytes(key: str) -> Cell:
    return lambda row: Text(_NONE if row[key] is None else f"{row[key] / 2**10:,.1f} GiB")


def _shares(row: Row) -> Text:
    """`evil 200, refusal 100 (1 of 2)`: rollouts, and which part where a trait is cut."""
    told = [
        f"{one_line(s['trait'])} {s['rollouts']:,}" + (f" ({s['part']} of {s['parts']})" if s["parts"] > 1 else "")
        for s in row["shares"]
    ]
    return Text(", ".join(told) or "no rollouts")


def _verdict(row: Row) -> Text:
    return Text(one_line(row["verdict"]), _VERDICTS.get(row["verdict"], _PLAIN))


def _duration(row: Row) -> Text:
    return Text(clock_time(row["seconds"]))


def _count(key: str) -> Cell:
    return lambda row: Text(_short(row[key]))


def _short(count: float) -> str:
    """`9,999`, `12.3k`, `4.1M`."""
    if count < 10_000:
        return f"{count:,.0f}"
    return f"{count / 1e3:.1f}k" if count < 999_950 else f"{count / 1e6:.1f}M"


def _disk(row: Row) -> Text:
    megabytes = row["disk_mb"]
    return Text(f"{megabytes:.0f} MB" if megabytes < 999.5 else f"{megabytes / 1e3:.1f} GB")


def _cost(row: Row) -> Text:
    return Text(_NONE if row["cost_usd"] is None else f"${row['cost_usd']:,.2f}")


def _faults(row: Row) -> Text:
    count = len(row["faults"])
    return Text(f"{count} fault{'' if count == 1 else 's'}", _VERDICTS["unusable"]) if count else Text("none", _QUIET)


_NAMED = ("trait", _text("trait", _NAME))
_VECTOR_COLUMNS: tuple[tuple[str, Cell], ...] = (
    _NAMED,
    ("verdict", _verdict),
    ("layer", _figure("layer", "{}")),
    ("AUROC", _figure("auroc")),
    ("d", _figure("d", "{:.1f}")),
    ("contrast", _figure("contrast", "{:+.0f}")),
    ("norm", _figure("relative_magnitude")),
    ("kept", _sides("positive_kept", "negative_kept")),
    ("judge", _figure("judge_auroc")),
)
_TRAIT_COLUMNS: tuple[tuple[str, Cell], ...] = (
    _NAMED,
    ("pairs", _figure("pairs", "{}")),
    ("questions", _figure("questions", "{}")),
    ("held out", _figure("evaluation_questions", "{}")),
    ("faults", _faults),
    ("source", _text("source", _QUIET)),
)
_RUN_COLUMNS: tuple[tuple[str, Cell], ...] = (
    _NAMED,
    ("rollouts", _done("rollouts_done", "rollouts_total")),
    ("empty", _figure("empty", "{}")),
    ("judged", _figure("judged", "{}")),
    ("missing", _figure("missing", "{}")),
    ("judge", _figure("judge_auroc")),
    ("scores +/−", _sides("positive_score", "negative_score", between=" / ")),
    ("kept", _sides("kept_positive", "kept_negative")),
)
_PLAN_COLUMNS: tuple[tuple[str, Cell], ...] = (
    _NAMED,
    ("rollouts", _done("rollouts_done", "rollouts")),
    ("calls", _count("judge_calls")),
    ("prompt", _count("prompt_tokens")),
    ("response", _count("response_tokens_max")),
    ("disk", _disk),
    ("time", _duration),
    ("cost", _cost),
)
_PLACE_COLUMNS: tuple[tuple[str, Cell], ...] = (
    ("worker", _count("worker")),
    ("device", _text("device")),
    ("needed", _mebibytes("needed_mb")),
    ("found", _mebibytes("found_mb")),
    ("share", _shares),
)
_SET_COLUMNS: tuple[tuple[str, Cell], ...] = (
    ("trait", _text("trait", _NAME)),
    ("answers", _count("answers")),
    ("failed", _count("failed")),
    ("should rise", _score("positive")),
    ("should fall", _score("negative")),
    ("difference", _difference),
    ("swing", _figure("swing")),
)
_TEXTS_COLUMNS: tuple[tuple[str, Cell], ...] = (
    ("trait", _text("trait", _NAME)),
    ("texts", _count("texts")),
    ("mean", _score("mean")),
    ("lowest", _extreme("low")),
    ("highest", _extreme("high")),
)
_FAILURES_SHOWN = 5
_LEFT = {"trait", "verdict", "source", "device", "share"}
"""Columns of words; when room is short they are folded, and figures stay whole."""


def _total(rows: Sequence[Row]) -> dict[str, Any]:
    keys = ("rollouts", "rollouts_done", "judge_calls", "prompt_tokens", "response_tokens_max", "disk_mb")
    total: dict[str, Any] = {key: sum(row[key] for row in rows) for key in keys}
    for key in ("seconds", "cost_usd"):
        known = [row[key] for row in rows if row[key] is not None]
        total[key] = sum(known) if len(known) == len(rows) else None
    return {"trait": "all", **total}


def _print(
    console: Console, columns: Iterable[tuple[str, Cell]], rows: Sequence[Row], total: Row | None = None
) -> None:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), header_style=_QUIET, border_style=_QUIET)
    cells = []
    for title, cell in columns:
        gives_way = title in _LEFT
        table.add_column(title, justify="left" if gives_way else "right", overflow="fold", no_wrap=not gives_way)
        cells.append(cell)
    for row in rows:
        table.add_row(*[cell(row) for cell in cells], end_section=total is not None and row is rows[-1])
    if total is not None:
        table.add_row(*[cell(total) for cell in cells])
    console.print(table)


def _heading(console: Console, text: str, style: Style = _NAME) -> None:
    console.print(Text(text, style), soft_wrap=True, highlight=False)


def _caption(console: Console, text: str) -> None:
    _line(console, "", text, _QUIET)


def _shared(console: Console, rows: Sequence[Row], keys: Iterable[str]) -> None:
    """Say once what holds for all rows, and for each trait what does not."""
    for key in keys:
        values = {one_line(str(row[key])) for row in rows}
        if len(values) == 1:
            _line(console, f"{key}: ", values.pop(), _QUIET)
            continue
        for row in rows:
            _line(console, f"{key} of {one_line(row['trait'])}: ", one_line(str(row[key])), _QUIET)


def _reasons(console: Console, rows: Sequence[Row]) -> None:
    for row in rows:
        if row["verdict_reason"] and row["verdict"] != "good":
            label = f"{one_line(row['trait'])} is {one_line(row['verdict'])}: "
            _line(console, label, printable(row["verdict_reason"]), label_style=_VERDICTS.get(row["verdict"]))


def _line(console: Console, label: str, text: str, style: Style = _PLAIN, label_style: Style | None = None) -> None:
    first, *rest = hang(label, text, console.width - 1, style)
    first.stylize(label_style or style, 0, len(label))
    for line in (first, *rest):
        console.print(line, highlight=False)


def _path(console: Console, label: str, path: str) -> None:
    """A path stays in one piece, however long, so that it can be copied."""
    console.print(Text(f"{label}: {one_line(path)}", _QUIET), soft_wrap=True, highlight=False)
