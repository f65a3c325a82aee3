"""Measures what a vector is worth, on the rollouts it was built from and on those it has not seen."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from traitcli.vectors.controls import (
    difference_cosine,
    massive_share,
    shuffled_null,
    split_half_cosine,
)
from traitcli.vectors.methods import Method
from traitcli.vectors.separation import (
    HeldOutScores,
    Labelled,
    Measured,
    auroc_interval,
    left_out_directions,
    length_only,
    measure_auroc,
    measure_d,
    project_left_out,
)
from traitcli.vectors.verdict import choose_row

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

AUTO = "auto: the earliest row in 25–75 % of depth within one standard error of the best left-out-pair AUROC, "


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a vector of one position is judged by.

    build      the rollouts that it is built from, those of a pair and question in one order on both sides
    matched    those of them whose counterpart is there too
    test       rollouts of evaluation questions; none when there are none
    method     what makes a direction of them
    direction  float32 [L+1, H], made of all of `build`
    """

    build: Labelled
    matched: Labelled
    test: Labelled | None
    method: Method
    direction: Floats


def measure_vector(evidence: Evidence, layer: int | Literal["auto"]) -> dict[str, Any]:
    """Plain numbers and lists by name (JSON-able); docs/vectors.md tells what they mean.

    `layer` is a row; auto chooses one by the rollouts that the vector is built from, so that evaluation rollouts
    have no say.
    """
    build, test = evidence.build, evidence.test
    rows = build.activations.shape[1]
    pairs = (
        build.pair if test is None else np.union1d(build.pair, test.pair)
    )  # the filter may have left none of a pair
    directions = left_out_directions(build, pairs, evidence.method)
    choosing = project_left_out(directions, build)
    row = pick_row(choosing, rows) if layer == "auto" else layer
    held = project_left_out(directions, test) if test is not None else None
    found = {
        "rows": rows,
        "hidden_size": build.activations.shape[2],
        "layer": row,
        "layer_choice": f"{AUTO}on extraction rollouts" if layer == "auto" else "set",
        **_size(evidence, row),
        **_steadiness(evidence, row),
    }
    if held is None or test is None:
        nothing = dict.fromkeys(
            ("auroc", "auroc_low", "auroc_high", "auroc_rows", "d", "d_low", "d_high", "null_p")
        )
        return {**found, **nothing, "evaluation_rollouts": 0}
    return {
        **found,
        **separation(held, row),
        **_controls(evidence, held, row),
        **_chance(evidence, held, row),
    }


def pick_row(held: HeldOutScores | None, rows: int) -> int:
    """The row that `auto` means, given left-out extraction rollouts; a model has `rows` of them."""
    if held is None:
        return choose_row(None, None, rows)
    measured = [measure_auroc(held, row) for row in range(rows)]
    return choose_row([one.value for one in measured], [one.error for one in measured], rows)


def separation(held: HeldOutScores, row: int) -> dict[str, Any]:
    """AUROC and Cohen's d of held-out rollouts, with intervals at one row."""
    by_row = [
        (measure_auroc(held, each), measure_d(held, each)) for each in range(held.scores.shape[1])
    ]
    found, d = by_row[row]
    low, high = auroc_interval(found, held)
    return {
        "auroc": _round(found.value),
        "auroc_low": _round(low),
        "auroc_high": _round(high),
        "auroc_pairs": [_round(value) for value in found.folds],
        "auroc_rows": [_round(one.value) for one, _ in by_row],
        "auroc_error_rows": [_round(one.error) for one, _ in by_row],
        "d": _round(d.value, 3),
        "d_low": _round(d.interval()[0], 3),
        "d_high": _round(d.interval()[1], 3),
        "d_rows": [_round(other.value, 3) for _, other in by_row],
        "evaluation_rollouts": len(held.positive),
        "evaluation_questions": len(np.unique(held.question)),
    }


def _controls(evidence: Evidence, held: HeldOutScores, row: int) -> dict[str, Any]:
    """Scores that a vector must beat: the answer's length, and the vector of row 0, which sees no context."""
    found, words = measure_auroc(held, row), measure_auroc(held, 0)
    by_length = length_only(evidence.build, evidence.test) if evidence.test else None
    controls = {
        "words_auroc": _round(words.value),
        "words_do_as_well": _as_well(words, found, held),
    }
    if by_length is None:
        return controls
    length = measure_auroc(by_length, 0)
    return {
        **controls,
        "length_auroc": _round(length.value),
        "length_does_as_well": _as_well(length, found, held),
    }


def _as_well(control: Measured, found: Measured, held: HeldOutScores) -> bool:
    """Whether the vector is not clearly ahead of a control: by less than two standard errors of the difference."""
    ahead = found.minus(control, held)
    return ahead.value <= 2 * ahead.error


def _chance(evidence: Evidence, held: HeldOutScores, row: int) -> dict[str, Any]:
    test = evidence.test
    null = (
        shuffled_null(evidence.build, test, evidence.method, row, measure_auroc(held, row).value)
        if test
        else None
    )
    if null is None:
        return {"null_p": None}
    return {
        "null_p": _round(null.p),
        "null_auroc": _round(null.mean),
        "null_auroc_95": _round(null.top),
    }


def _size(evidence: Evidence, row: int) -> dict[str, Any]:
    """Norms by row and on average, also beside those of the activations, and what massive dimensions have of it."""
    norms = np.linalg.norm(evidence.direction, axis=1)
    positive = evidence.build.positive
    sides = (evidence.build.activations[positive], evidence.build.activations[~positive])
    around = np.mean([np.linalg.norm(side, axis=2).mean(0) for side in sides], axis=0)
    share, count = massive_share(evidence.direction, evidence.build.activations)
    return {
        "magnitude": _round(norms.mean(), 3),
        "relative_magnitude": _round(norms.mean() / around.mean()) if around.any() else 0.0,
        "magnitude_rows": [_round(value, 3) for value in norms],
        "activation_rows": [_round(value, 3) for value in around],
        "massive_share": _round(share[row]),
        "massive_dimensions": int(count[row]),
        "massive_rows": [_round(value) for value in share],
    }


def _steadiness(evidence: Evidence, row: int) -> dict[str, Any]:
    """Whether other rollouts would have given the same direction."""
    matched = evidence.matched.at(row)
    halves = split_half_cosine(evidence.build.at(row), evidence.method)
    between = difference_cosine(
        matched.activations[matched.positive], matched.activations[~matched.positive]
    )
    return {
        "split_half_cosine": None if halves is None else _round(halves[0]),
        "difference_cosine": None if between is None else _round(between[0]),
    }


def _round(value: Any, digits: int = 4) -> float | None:
    """None for what is not finite: a bound that nothing is known of."""
    return round(float(value), digits) if math.isfinite(value) else None
