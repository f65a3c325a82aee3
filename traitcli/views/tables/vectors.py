"""Prints how far trait vectors can be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePath

from rich.console import Console
from rich.style import Style
from rich.text import Text

from traitcli.views.printable import one_line, printable
from traitcli.views.tables.base import (
    NAMED,
    NONE,
    PLAIN,
    QUIET,
    VERDICTS,
    Cell,
    Row,
    caption,
    heading,
    labelled_line,
    path_line,
    print_table,
    verdict_cell,
)

_BAD = VERDICTS["unusable"]
_WIDE = 10
"""From here on an interval is told in whole numbers."""


def vectors_table(console: Console, rows: Sequence[Row], verbose: bool = False) -> None:
    """Two lines' worth per vector, by model: does it separate, and what is it made of; under them what is wrong.

    `verbose` adds a table of every row of every vector.
    """
    for model in dict.fromkeys(row["model"] for row in rows):
        of_model = [row for row in rows if row["model"] == model]
        shapes = dict.fromkeys(f"[{row['layer_count']}, {row['hidden_size']}]" for row in of_model)
        heading(console, f"{one_line(model)}  {' '.join(shapes)}")
        print_table(console, _SEPARATES, of_model)
        caption(
            console,
            "AUROC, d: how well left-out pairs and questions are separated, with 95 % intervals · length, words: AUROC "
            "of the answer's length alone and of the vector of row 0",
        )
        console.line()
        print_table(console, _MADE, of_model)
        caption(
            console,
            "kept: rollouts past the filter, positive + negative · contrast: mean judge score, positive − negative · "
            "judge: AUROC of its scores · norm: mean length of the rows, and relative to the activations · halves, "
            "pairs: cosine of the vectors of two halves, of the differences of pairs · massive: share in dimensions "
            "that are always large · p: how often shuffled labels do as well",
        )
        _shared(console, of_model, ("judge", "filter", "coherence", "layer_choice"))
        _alike(console, of_model)
        _doubts(console, of_model)
        for folder in dict.fromkeys(str(PurePath(row["path"]).parent) for row in of_model):
            path_line(console, "vectors in", folder)
        if verbose:
            for row in of_model:
                _every_row(console, row)
    if not rows:
        caption(console, "no vectors")


def _known(key: str, form: str = "{:.2f}") -> Cell:
    return lambda row: Text(NONE if row.get(key) is None else form.format(row[key]))


def _interval(low: str, high: str, form: str, between: str) -> Cell:
    def cell(row: Row) -> Text:
        bounds = [row[key] for key in (low, high) if row.get(key) is not None]
        if len(bounds) < 2:
            return Text(NONE)
        short = form if max(map(abs, bounds)) < _WIDE else "{:.0f}"
        return Text(between.join(short.format(bound) for bound in bounds))

    return cell


def _control(key: str, as_well: str) -> Cell:
    """Red where it does as well as the vector."""
    return lambda row: Text(
        NONE if row.get(key) is None else f"{row[key]:.2f}", _BAD if row.get(as_well) else PLAIN
    )


def _kept(row: Row) -> Text:
    both = [row.get(f"{side}_kept") for side in ("positive", "negative")]
    return Text(NONE if None in both else "+".join(map(str, both)))


def _norm(row: Row) -> Text:
    if row.get("magnitude") is None:
        return Text(NONE)
    relative = row.get("relative_magnitude")
    return Text(f"{row['magnitude']:.1f}").append(
        f" {relative:.2f}" if relative is not None else "", QUIET
    )


_SEPARATES: tuple[tuple[str, Cell], ...] = (
    NAMED,
    ("verdict", verdict_cell),
    ("layer", _known("layer", "{}")),
    ("AUROC", _known("auroc")),
    ("95 %", _interval("auroc_low", "auroc_high", "{:.2f}", "–")),
    ("d", _known("d", "{:.1f}")),
    ("95 %", _interval("d_low", "d_high", "{:.1f}", "…")),
    ("length", _control("length_auroc", "length_does_as_well")),
    ("words", _control("embedding_layer_auroc", "embedding_layer_does_as_well")),
)
_MADE: tuple[tuple[str, Cell], ...] = (
    NAMED,
    ("kept", _kept),
    ("contrast", _known("contrast", "{:+.0f}")),
    ("judge", _known("judge_auroc")),
    ("norm", _norm),
    ("halves", _known("split_half_cosine")),
    ("pairs", _known("difference_cosine")),
    ("massive", _known("massive_share", "{:.0%}")),
    ("p", _known("null_p")),
)
_BY_ROW = (
    ("AUROC", "auroc_by_layer", "{:.2f}"),
    ("± 1 s.e.", "auroc_error_by_layer", "{:.2f}"),
    ("d", "d_by_layer", "{:.1f}"),
    ("norm", "magnitude_by_layer", "{:.2f}"),
    ("of activations", "activation_norm_by_layer", "{:.1f}"),
    ("massive", "massive_share_by_layer", "{:.0%}"),
)


def _every_row(console: Console, row: Row) -> None:
    """What is known of each row of a vector; the one that is read is marked."""
    console.line()
    heading(console, one_line(row["trait"]))
    listed = [
        {
            "row": number,
            "read": number == row["layer"],
            **{key: _at(row.get(key), number) for _, key, _ in _BY_ROW},
        }
        for number in range(row["layer_count"])
    ]
    columns = [("row", _row_number), *((title, _known(key, form)) for title, key, form in _BY_ROW)]
    print_table(console, columns, listed)
    pairs = [f"{value:.2f}" for value in row.get("auroc_by_pair") or ()]
    cosines = [
        f"{one_line(name)} {value:.2f}" for name, value in (row.get("cosines") or {}).items()
    ]
    for label, found in (("AUROC of each pair, left out", pairs), ("cosines", cosines)):
        if found:
            labelled_line(console, f"{label}: ", ", ".join(found), QUIET)


def _at(values: Sequence[float] | None, place: int) -> float | None:
    return values[place] if values and place < len(values) else None


def _row_number(row: Row) -> Text:
    return Text(f"{'→ ' if row['read'] else ''}{row['row']}", Style(bold=row["read"]))


def _shared(console: Console, rows: Sequence[Row], keys: Iterable[str]) -> None:
    """Say once what holds for all rows, and for each trait what does not."""
    for key in keys:
        values = {one_line(str(row[key])) for row in rows if row.get(key)}
        label = key.replace("_", " ")
        if len(values) == 1:
            labelled_line(console, f"{label}: ", values.pop(), QUIET)
            continue
        for row in rows:
            if row.get(key):
                labelled_line(
                    console,
                    f"{label} of {one_line(row['trait'])}: ",
                    one_line(str(row[key])),
                    QUIET,
                )


def _alike(console: Console, rows: Sequence[Row]) -> None:
    """Which other trait's vector each one is most like, or most opposed to."""
    told = [
        f"{one_line(row['trait'])} ~ {one_line(row['nearest'])} {row['cosines'][row['nearest']]:.2f}"
        for row in rows
        if row.get("nearest")
    ]
    if told:
        labelled_line(console, "most alike (cosine): ", " · ".join(told), QUIET)


def _doubts(console: Console, rows: Sequence[Row]) -> None:
    """All that speaks against each vector that is not good, the worst first."""
    for row in rows:
        if row["verdict"] == "good":
            continue
        label = f"{one_line(row['trait'])} is {one_line(row['verdict'])}: "
        told = [
            row["verdict_reason"],
            *(doubt for doubt in row.get("doubts", ()) if doubt != row["verdict_reason"]),
        ]
        labelled_line(
            console,
            label,
            printable(" · ".join(filter(None, told))),
            label_style=VERDICTS.get(row["verdict"]),
        )


def methods_table(console: Console, rows: Sequence[Row]) -> None:
    """One line for each trait and method; at the end how often each was clearly ahead or behind."""
    for trait in dict.fromkeys(row["trait"] for row in rows):
        of_trait = [row for row in rows if row["trait"] == trait]
        first = of_trait[0]
        heading(
            console,
            f"{one_line(trait)}  {first['kept']} rollouts, tested on {first['evaluation_rollouts']}",
        )
        print_table(console, _METHOD_COLUMNS, of_trait)
        console.line()
    caption(
        console,
        "layer: the row that the method would choose · AUROC, d: of left-out pairs and questions, with a 95 % "
        "interval · ahead: of the difference of means, ± one standard error of the difference · halves: cosine of the "
        "vectors of two halves · cosine: with the difference of means at that row",
    )
    for method in dict.fromkeys(row["method"] for row in rows):
        compared = [row for row in rows if row["method"] == method and row["ahead"] is not None]
        clear = [row["ahead"] for row in compared if abs(row["ahead"]) > 2 * row["ahead_error"]]
        if compared:
            ahead = sum(value > 0 for value in clear)
            told = f"by two standard errors ahead for {ahead} and behind for {len(clear) - ahead} of {len(compared)}"
            labelled_line(console, f"{method.replace('_', ' ')}: ", f"{told} traits")


def _ahead(row: Row) -> Text:
    if row["ahead"] is None:
        return Text(NONE)
    return Text(f"{row['ahead']:+.2f}").append(f" ± {row['ahead_error']:.2f}", QUIET)


_METHOD_COLUMNS: tuple[tuple[str, Cell], ...] = (
    ("method", lambda row: Text(row["method"].replace("_", " "))),
    ("layer", _known("layer", "{}")),
    ("AUROC", _known("auroc")),
    ("95 %", _interval("auroc_low", "auroc_high", "{:.2f}", "–")),
    ("d", _known("d", "{:.1f}")),
    ("ahead", _ahead),
    ("halves", _known("split_half_cosine")),
    ("cosine", _known("cosine")),
)
