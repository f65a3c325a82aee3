"""Prints how methods of building vectors compare, trait by trait."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from traitcli.views.formatting import QUIET
from traitcli.views.printable import one_line
from traitcli.views.tables.base import (
    NONE,
    Cell,
    Row,
    answers_text,
    auroc_cell,
    caption,
    gap_cell,
    heading,
    labelled_line,
    number,
    print_table,
)


def methods_table(console: Console, rows: Sequence[Row], verbose: bool = False) -> None:
    """A line for each trait and method; at the end, how often each method was clearly better.

    `verbose` adds the separation with the persona. It is shown too where a trait has no neutral
    readings.
    """
    notes, shows_persona = [], False
    for trait in dict.fromkeys(row["trait"] for row in rows):
        of_trait = [row for row in rows if row["trait"] == trait]
        kept, held_out = of_trait[0]["kept"], of_trait[0]["evaluation_rollouts"]
        heading(console, f"{one_line(trait)}  {kept} rollouts, {held_out} held out")
        print_table(console, _NEUTRAL_COLUMNS, of_trait)
        console.line()
        if note := of_trait[0]["note"]:
            notes.append(f"{trait}: {note}")
        if verbose or note:
            shows_persona = True
            print_table(console, _PERSONA_COLUMNS, of_trait)
            console.line()
        if "answers" in of_trait[0]:
            _print_answers(console, of_trait, verbose)

    for note in notes:
        caption(console, one_line(note))
    caption(console, _CAPTION)
    if shows_persona:
        caption(console, _PERSONA_CAPTION)
    if rows and "answers" in rows[0]:
        caption(console, _ANSWERS_CAPTION)
    # The mean difference is not listed: the others are compared with it.
    for method in dict.fromkeys(row["method"] for row in rows):
        _print_count(console, method, [row for row in rows if row["method"] == method])


def _print_answers(console: Console, rows: Sequence[Row], verbose: bool) -> None:
    first = rows[0]
    counts = answers_text(first["answers_positive"], first["answers"], first["answers_prompts"])
    heading(console, one_line(f"{first['trait']} on {first['answers_from']}: {counts}"))
    print_table(console, _ANSWERS_COLUMNS, rows)
    console.line()
    if verbose:
        print_table(console, _MEAN_COLUMNS, rows)
        console.line()


def _print_count(console: Console, method: str, rows: Sequence[Row]) -> None:
    """For how many traits a method is clearly better, and for how many worse."""
    texts = []
    for prefix, where in (("neutral_", "on neutral readings"), ("", "with the persona")):
        compared = [row for row in rows if row[f"{prefix}ahead"] is not None]
        # By chance alone, about one difference in twenty is larger than two standard errors.
        clear = [
            row[f"{prefix}ahead"]
            for row in compared
            if abs(row[f"{prefix}ahead"]) > 2 * row[f"{prefix}ahead_error"]
        ]
        if compared:
            better = sum(value > 0 for value in clear)
            texts.append(
                f"{where} better for {better} of {len(compared)} traits, "
                f"worse for {len(clear) - better}"
            )
    if texts:
        labelled_line(console, f"{method.replace('_', ' ')}: ", "; ".join(texts))


def _lead(prefix: str = "") -> Cell:
    """`+0.05±0.02`"""

    def cell(row: Row) -> Text:
        lead, error = row[f"{prefix}ahead"], row[f"{prefix}ahead_error"]
        if lead is None:
            return Text(NONE)
        return Text(f"{lead:+.2f}").append(f"±{error:.2f}", QUIET)

    return cell


def _lead_interval(key: str) -> Cell:
    """`+0.05 (+0.01 to +0.08)`"""

    def cell(row: Row) -> Text:
        bounds = [row[key], row[f"{key}_low"], row[f"{key}_high"]]
        if None in bounds:
            return Text(NONE if row[key] is None else f"{row[key]:+.2f}")
        lead, low, high = bounds
        return Text(f"{lead:+.2f}").append(f" ({low:+.2f} to {high:+.2f})", QUIET)

    return cell


_METHOD: tuple[str, Cell] = ("method", lambda row: Text(row["method"].replace("_", " ")))
_NEUTRAL_COLUMNS: tuple[tuple[str, Cell], ...] = (
    _METHOD,
    ("layer", number("layer", "{}")),
    ("AUROC (95 %)", auroc_cell("neutral_auroc")),
    ("lead", _lead("neutral_")),
    ("gap", gap_cell),
    ("split-half", number("split_half_cosine")),
)
_PERSONA_COLUMNS: tuple[tuple[str, Cell], ...] = (
    _METHOD,
    ("with persona (95 %)", auroc_cell()),
    ("lead", _lead()),
    ("d", number("d", "{:.1f}")),
    ("cos", number("cosine")),
)
_ANSWERS_COLUMNS: tuple[tuple[str, Cell], ...] = (
    _METHOD,
    ("rolling(8)", auroc_cell("rolling_auroc")),
    ("lead", _lead_interval("rolling_ahead")),
    ("mean", auroc_cell("mean_auroc")),
)
_MEAN_COLUMNS: tuple[tuple[str, Cell], ...] = (
    _METHOD,
    ("mean", auroc_cell("mean_auroc")),
    ("lead", _lead_interval("mean_ahead")),
)
_CAPTION = (
    "layer: the layer that build-vector chooses with the method · AUROC: separation of held-out "
    "answers behind their bare questions, with a 95 % interval · lead: AUROC minus that of the "
    "mean difference, ± one standard error · gap: how much more the AUROC is with the persona in "
    "the prompt · split-half: cosine between the vectors of two halves of the questions · better, "
    "worse: by two standard errors"
)
_PERSONA_CAPTION = (
    "with persona: AUROC of held-out rollouts behind their own prompts · d: their effect size · "
    "cos: cosine with the mean difference at that layer"
)
_ANSWERS_CAPTION = (
    "rolling(8), mean: AUROC of answers behind their bare prompts, by the highest rolling mean of "
    "8 tokens and by the mean; in brackets the 95 % interval over prompts · lead beside them: "
    "difference of two AUROCs on the same draws"
)
