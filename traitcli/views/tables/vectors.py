"""Prints how far trait vectors can be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePath

from rich.console import Console
from rich.style import Style
from rich.text import Text

from traitcli.views.formatting import QUIET
from traitcli.views.printable import one_line, printable
from traitcli.views.tables.base import (
    BAD,
    NAMED,
    NONE,
    PLAIN,
    VERDICTS,
    Cell,
    Row,
    auroc_cell,
    caption,
    gap_cell,
    heading,
    interval_text,
    labelled_line,
    path_line,
    print_table,
    verdict_cell,
)


def vectors_table(console: Console, rows: Sequence[Row], verbose: bool = False) -> None:
    """One line for each vector, by model, and what to do next; with `verbose`, all measurements."""
    # Layers and norms of different models cannot be compared in one table.
    for model in dict.fromkeys(row["model"] for row in rows):
        of_model = [row for row in rows if row["model"] == model]
        shapes = dict.fromkeys(f"[{row['layer_count']}, {row['hidden_size']}]" for row in of_model)
        heading(console, f"{one_line(model)}  {' '.join(shapes)}")
        is_neutral = _has_neutral(of_model)
        print_table(console, _NEUTRAL_COLUMNS if is_neutral else _VERDICT_COLUMNS, of_model)
        caption(console, _NEUTRAL_CAPTION if is_neutral else _VERDICT_CAPTION)
        if verbose:
            _print_details(console, of_model)

    if not rows:
        caption(console, "no vectors")
    elif not verbose:
        labelled_line(console, "next: ", _next_step(rows))


def _next_step(rows: Sequence[Row]) -> str:
    """What would raise the lowest verdict."""
    for verdict in reversed(VERDICTS):
        lowest = [row for row in rows if row["verdict"] == verdict and row.get("to_raise")]
        if lowest:
            names = [row["trait"] for row in lowest]
            traits = one_line(", ".join(names)) if len(names) < 3 else f"{len(names)} traits"
            return f"{printable(lowest[0]['to_raise'])} (for {traits}; --verbose says why)"
    return 'traitcli monitor "What should I read?"'


def _print_details(console: Console, rows: Sequence[Row]) -> None:
    """The measurements of vectors of one model, all doubts, and a table of layers for each."""
    console.line()
    is_neutral = _has_neutral(rows)
    persona = [("with persona (95 %)", auroc_cell())] if is_neutral else []
    named, *separation = _SEPARATION_COLUMNS
    print_table(console, [named, *persona, *separation], rows)
    if is_neutral:
        caption(console, "with persona: AUROC of held-out rollouts behind their own prompts")
    caption(
        console,
        "d: effect size on held-out rollouts, with a 95 % interval · length AUROC: separation by "
        "the length of the answer alone · embedding AUROC: separation by the vector of layer 0 · "
        "p: share of vectors of shuffled labels that separate as well",
    )
    console.line()
    print_table(console, _ROLLOUT_COLUMNS, rows)
    caption(
        console,
        "kept: rollouts that pass the filter, positive + negative · contrast: mean judge score, "
        "positive − negative · judge AUROC: of its scores · norm: mean over layers, and relative "
        "to the activations · split-half: cosine between the vectors of two halves of the "
        "questions · massive: share of the squared norm in dimensions that are always large",
    )

    _print_settings(console, rows, ("judge", "filter", "coherence", "layer_choice"))
    _print_nearest(console, rows)
    _print_verdicts(console, rows)
    for folder in dict.fromkeys(str(PurePath(row["path"]).parent) for row in rows):
        path_line(console, "vectors in", folder)
    for row in rows:
        _print_layers(console, row)


def _known(key: str, form: str = "{:.2f}") -> Cell:
    """Like `number`, for measurements that vectors of other tools lack."""
    return lambda row: Text(NONE if row.get(key) is None else form.format(row[key]))


def _has_neutral(rows: Sequence[Row]) -> bool:
    return any(row.get("neutral_auroc") is not None for row in rows)


def _d_interval(row: Row) -> Text:
    return Text(interval_text(row, "d_low", "d_high", "{:.1f}", "…") or NONE)


def _reason(row: Row) -> Text:
    """The label of the reason; of a vector that carries over, the tests."""
    return Text(_label(row.get("verdict_reason") or ""))


def _label(reason: str) -> str:
    """`low contrast` of the doubt `low contrast: 17 is below 40; …`."""
    # Files of earlier versions may hold reasons without a label; those are shown in full.
    label, _, _ = reason.partition(":")
    return one_line(label)


def _control(key: str, does_as_well: str) -> Cell:
    """The AUROC of a control; red where it separates as well as the vector."""
    return lambda row: Text(
        NONE if row.get(key) is None else f"{row[key]:.2f}",
        BAD if row.get(does_as_well) else PLAIN,
    )


def _kept(row: Row) -> Text:
    # Vectors of other tools come without counts.
    counts = [row.get(f"{side}_kept") for side in ("positive", "negative")]
    return Text(NONE if None in counts else "+".join(map(str, counts)))


def _norm(row: Row) -> Text:
    if row.get("magnitude") is None:
        return Text(NONE)
    relative = row.get("relative_magnitude")
    # The share of the activations' norm tells how large the number before it is.
    share = f" {relative:.2f}" if relative is not None else ""
    return Text(f"{row['magnitude']:.1f}").append(share, QUIET)


_VERDICT_COLUMNS: tuple[tuple[str, Cell], ...] = (
    NAMED,
    ("verdict", verdict_cell),
    ("layer", _known("layer", "{}")),
    ("AUROC (95 %)", auroc_cell()),
    ("reason", _reason),
)
_VERDICT_CAPTION = "AUROC: separation of held-out rollouts, with a 95 % interval"
_NEUTRAL_COLUMNS: tuple[tuple[str, Cell], ...] = (
    NAMED,
    ("verdict", verdict_cell),
    ("layer", _known("layer", "{}")),
    ("AUROC (95 %)", auroc_cell("neutral_auroc")),
    ("gap", gap_cell),
    ("reason", _reason),
)
_NEUTRAL_CAPTION = (
    "AUROC: separation of held-out answers behind their bare questions, with a 95 % interval · "
    "gap: how much more it is with the persona in the prompt"
)
_SEPARATION_COLUMNS: tuple[tuple[str, Cell], ...] = (
    NAMED,
    ("d", _known("d", "{:.1f}")),
    ("95 %", _d_interval),
    ("length AUROC", _control("length_auroc", "length_does_as_well")),
    ("embedding AUROC", _control("embedding_layer_auroc", "embedding_layer_does_as_well")),
    ("p", _known("null_p")),
)
_ROLLOUT_COLUMNS: tuple[tuple[str, Cell], ...] = (
    NAMED,
    ("kept", _kept),
    ("contrast", _known("contrast", "{:+.0f}")),
    ("judge AUROC", _known("judge_auroc")),
    ("norm", _norm),
    ("split-half", _known("split_half_cosine")),
    ("massive", _known("massive_share", "{:.0%}")),
)
_BY_LAYER = (
    ("AUROC", "auroc_by_layer", "{:.2f}"),
    ("neutral", "neutral_auroc_by_layer", "{:.2f}"),
    ("± 1 s.e.", "auroc_error_by_layer", "{:.2f}"),
    ("d", "d_by_layer", "{:.1f}"),
    ("norm", "magnitude_by_layer", "{:.2f}"),
    ("of activations", "activation_norm_by_layer", "{:.1f}"),
    ("massive", "massive_share_by_layer", "{:.0%}"),
)


def _print_layers(console: Console, row: Row) -> None:
    """A table of the layers of one vector; an arrow marks the layer that is used."""
    console.line()
    heading(console, one_line(row["trait"]))
    layers = []
    for number in range(row["layer_count"]):
        measured = {key: _value_at(row.get(key), number) for _, key, _ in _BY_LAYER}
        layers.append({"layer": number, "is_used": number == row["layer"], **measured})
    columns = [
        (title, _known(key, form))
        for title, key, form in _BY_LAYER
        if key != "neutral_auroc_by_layer" or row.get(key)
    ]
    print_table(console, [("layer", _layer_number), *columns], layers)

    pairs = [f"{value:.2f}" for value in row.get("auroc_by_pair") or ()]
    found = row.get("cosines") or {}
    cosines = [f"{one_line(name)} {value:.2f}" for name, value in found.items()]
    for label, texts in (("AUROC of each pair, held out", pairs), ("cosines", cosines)):
        if texts:
            labelled_line(console, f"{label}: ", ", ".join(texts), QUIET)


def _value_at(values: Sequence[float] | None, layer: int) -> float | None:
    # A file may lack a list, or hold a shorter one.
    return values[layer] if values and layer < len(values) else None


def _layer_number(row: Row) -> Text:
    return Text(f"{'→ ' if row['is_used'] else ''}{row['layer']}", Style(bold=row["is_used"]))


def _print_settings(console: Console, rows: Sequence[Row], keys: Iterable[str]) -> None:
    """How the vectors were made: one line for a value that all share, else a line for each."""
    for key in keys:
        label = key.replace("_", " ")
        # Files of other tools lack these keys.
        texts = {row["trait"]: one_line(str(row[key])) for row in rows if row.get(key)}
        if len(set(texts.values())) == 1:
            labelled_line(console, f"{label}: ", next(iter(texts.values())), QUIET)
            continue
        for trait, text in texts.items():
            labelled_line(console, f"{label} of {one_line(trait)}: ", text, QUIET)


def _print_nearest(console: Console, rows: Sequence[Row]) -> None:
    """For each trait the other trait whose vector is most alike, or most opposed."""
    texts = []
    for row in rows:
        if nearest := row.get("nearest"):
            names = f"{one_line(row['trait'])} ~ {one_line(nearest)}"
            texts.append(f"{names} {row['cosines'][nearest]:.2f}")
    if texts:
        labelled_line(console, "most alike (cosine): ", " · ".join(texts), QUIET)


def _print_verdicts(console: Console, rows: Sequence[Row]) -> None:
    """Each verdict with its reason, what would raise it, and all other doubts."""
    for row in rows:
        style = VERDICTS.get(row["verdict"], PLAIN)
        heading(console, f"{one_line(row['trait'])}: {one_line(row['verdict'])}", style)
        if reason := row.get("verdict_reason"):
            labelled_line(console, "  because: ", printable(reason))
        if to_raise := row.get("to_raise"):
            labelled_line(console, "  would raise it: ", printable(to_raise))
        for doubt in row.get("doubts") or ():
            labelled_line(console, "  doubt: ", printable(doubt))
        if outdated := row.get("outdated_tests"):
            names = one_line(", ".join(outdated))
            labelled_line(console, "  not counted: ", f"{names}, of an earlier vector")
