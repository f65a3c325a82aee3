"""Measures how good a vector is, on the rollouts it was built from and on held-out rollouts."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from traitcli.vector_quality import VectorQuality
from traitcli.vectors.controls import (
    Null,
    difference_cosine,
    massive_share,
    shuffled_null,
    split_half_cosine,
)
from traitcli.vectors.held_out import (
    HeldOutScores,
    LabelledActivations,
    left_out_directions,
    project_left_out,
    score_by_length,
)
from traitcli.vectors.layer_choice import choose_layer_by_scores
from traitcli.vectors.methods import Method
from traitcli.vectors.separation import Measured, auroc_interval, measure_auroc, measure_d

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

_AUTO = (
    "auto: of the layers within one standard error of the best in 25–75 % of depth, the one "
    "nearest to the middle, by held-out-pair AUROC on extraction rollouts"
)


@dataclass(frozen=True, slots=True)
class Neutral:
    """Neutral readings of the rollouts that a vector is built from, and of those that test it."""

    build: LabelledActivations
    test: LabelledActivations | None


@dataclass(frozen=True, slots=True)
class Evidence:
    """The rollouts that a vector of one position is measured on.

    build      the rollouts that the vector is built from; both polarities have one order of pairs
               and questions
    matched    bool [n], the build rollouts whose counterpart of the other polarity was kept too
    test       rollouts of evaluation questions, read behind their own prompts, or None
    neutral    the rollouts of `build` and of `test`, read behind their bare questions, or None
    method     computes a direction from labelled activations
    direction  float32 [L+1, H], computed from all of `build`
    """

    build: LabelledActivations
    matched: NDArray[np.bool_]
    test: LabelledActivations | None
    method: Method
    direction: Floats
    neutral: Neutral | None = None


def measure_vector(evidence: Evidence, layer: int | Literal["auto"]) -> VectorQuality:
    """Measure norms, stability, separation and controls; see docs/vector-quality.md.

    `auto` chooses the layer on the rollouts that the vector is built from, so the evaluation
    rollouts stay unseen.
    """
    build, test = evidence.build, evidence.test
    layer_count = build.activations.shape[1]

    # the filter may have dropped every build rollout of a pair that still has test rollouts
    pairs = build.pair if test is None else np.union1d(build.pair, test.pair)
    directions = left_out_directions(build, pairs, evidence.method)
    neutral = evidence.neutral
    if layer == "auto":
        # Neutral readings: with the persona in the prompt, a layer may be best at reading that.
        choosing = project_left_out(directions, neutral.build if neutral else build)
        chosen, choice = choose_layer_by_scores(choosing, layer_count), _AUTO
    else:
        chosen, choice = layer, "set"

    quality = VectorQuality(
        layer_count=layer_count,
        hidden_size=build.activations.shape[2],
        layer=chosen,
        layer_choice=choice,
        evaluation_rollouts=0,
    )
    quality = _with_norms(quality, evidence, chosen)
    quality = _with_stability(quality, evidence, chosen)

    held_out = project_left_out(directions, test) if test is not None else None
    if held_out is None or test is None:
        return quality
    quality = _with_separation(quality, held_out, chosen)
    if neutral and neutral.test and (scores := project_left_out(directions, neutral.test)):
        quality = _with_neutral(quality, evidence, neutral.test, scores, chosen)
    quality = _with_controls(quality, build, test, held_out, chosen)
    null = _null(evidence, test, held_out, chosen)
    if null is None:
        return quality
    return replace(
        quality,
        null_p=_round(null.p),
        null_auroc=_round(null.mean),
        null_auroc_95=_round(null.percentile_95),
    )


def _null(
    evidence: Evidence, test: LabelledActivations, held_out: HeldOutScores, layer: int
) -> Null | None:
    # not a rounded AUROC: rounded up, a shuffle that ties with it would not count
    found = measure_auroc(held_out, layer).value
    return shuffled_null(evidence.build, test, evidence.method, layer, found)


def _with_norms(quality: VectorQuality, evidence: Evidence, layer: int) -> VectorQuality:
    """Add the vector's norms, the activations' norms, and the share of massive dimensions."""
    norms = np.linalg.norm(evidence.direction, axis=1)
    positive = evidence.build.positive
    # layer by layer: a copy of all layers of a large model takes gigabytes
    layers = np.moveaxis(evidence.build.activations, 1, 0)
    own_norms = np.stack([np.linalg.norm(layer, axis=1) for layer in layers], axis=1)

    # both polarities count alike, however many rollouts of each were kept
    norms_by_side = [own_norms[side].mean(0) for side in (positive, ~positive)]
    activation_norms = np.mean(norms_by_side, axis=0)
    relative = norms.mean() / activation_norms.mean() if activation_norms.any() else 0.0
    share, count = massive_share(evidence.direction, evidence.build.activations)
    return replace(
        quality,
        magnitude=_round(norms.mean(), 3),
        relative_magnitude=_round(relative),
        magnitude_by_layer=_round_all(norms, 3),
        activation_norm_by_layer=_round_all(activation_norms, 3),
        massive_share=_round(share[layer]),
        massive_dimensions=int(count[layer]),
        massive_share_by_layer=_round_all(share),
    )


def _with_stability(quality: VectorQuality, evidence: Evidence, layer: int) -> VectorQuality:
    """Add how well parts of the build rollouts agree on the direction."""
    # at one layer: halvings build forty directions, and other layers would not be shown
    build = evidence.build.at_layer(layer)
    matched = build.select(evidence.matched)
    halves = split_half_cosine(build, evidence.method)
    differences = difference_cosine(
        matched.activations[matched.positive], matched.activations[~matched.positive]
    )
    return replace(
        quality,
        split_half_cosine=None if halves is None else _round(halves[0]),
        difference_cosine=None if differences is None else _round(differences[0]),
    )


def _with_separation(quality: VectorQuality, held_out: HeldOutScores, layer: int) -> VectorQuality:
    """Add AUROC and Cohen's d at every layer, with intervals at the chosen one."""
    layers = range(held_out.scores.shape[1])
    aurocs = [measure_auroc(held_out, each) for each in layers]
    ds = [measure_d(held_out, each) for each in layers]
    auroc_values = [one.value for one in aurocs]
    auroc_errors = [one.error for one in aurocs]
    d_values = [one.value for one in ds]

    auroc_low, auroc_high = auroc_interval(aurocs[layer], held_out)
    d_low, d_high = ds[layer].interval()
    return replace(
        quality,
        auroc=_round(aurocs[layer].value),
        auroc_low=_round(auroc_low),
        auroc_high=_round(auroc_high),
        auroc_by_pair=_round_all(aurocs[layer].by_pair),
        auroc_by_layer=_round_all(auroc_values),
        auroc_error_by_layer=_round_all(auroc_errors),
        d=_round(ds[layer].value, 3),
        d_low=_round(d_low, 3),
        d_high=_round(d_high, 3),
        d_by_layer=_round_all(d_values, 3),
        evaluation_rollouts=len(held_out.positive),
        evaluation_questions=len(np.unique(held_out.question)),
    )


def _with_neutral(
    quality: VectorQuality,
    evidence: Evidence,
    test: LabelledActivations,
    held_out: HeldOutScores,
    layer: int,
) -> VectorQuality:
    """Add the AUROC of the same answers behind their bare questions, and its controls."""
    aurocs = [measure_auroc(held_out, each) for each in range(held_out.scores.shape[1])]
    low, high = auroc_interval(aurocs[layer], held_out)
    null = _null(evidence, test, held_out, layer)
    by_length = score_by_length(evidence.build, test)
    length = measure_auroc(by_length, 0) if by_length else None
    return replace(
        quality,
        neutral_auroc=_round(aurocs[layer].value),
        neutral_auroc_low=_round(low),
        neutral_auroc_high=_round(high),
        neutral_auroc_by_layer=_round_all([one.value for one in aurocs]),
        neutral_null_p=_round(null.p) if null else None,
        neutral_embedding_lead=_lead(aurocs[layer], aurocs[0], held_out),
        neutral_length_lead=_lead(aurocs[layer], length, held_out) if length else None,
    )


def _lead(found: Measured, control: Measured, held_out: HeldOutScores) -> float | None:
    """By how many standard errors of the difference the vector is ahead of a control.

    None if it is ahead at every pair alike, which has no error.
    """
    lead = found.minus(control, held_out)
    if lead.error:
        return _round(lead.value / lead.error, 2)
    # Two that separate perfectly have no error either, and that is no lead.
    return None if lead.value > 0 else 0.0


def _with_controls(
    quality: VectorQuality,
    build: LabelledActivations,
    test: LabelledActivations,
    held_out: HeldOutScores,
    layer: int,
) -> VectorQuality:
    """Add the controls: answer length, and the embedding layer, which sees no context."""
    # the held-out scores at layer 0 are those of the embedding layer's own direction
    found, lexical = measure_auroc(held_out, layer), measure_auroc(held_out, 0)
    quality = replace(
        quality,
        embedding_layer_auroc=_round(lexical.value),
        embedding_layer_does_as_well=_does_as_well(lexical, found, held_out),
    )
    # length is not a direction, so it has no layer and a single column of scores
    by_length = score_by_length(build, test)
    if by_length is None:
        return quality
    length = measure_auroc(by_length, 0)
    return replace(
        quality,
        length_auroc=_round(length.value),
        length_does_as_well=_does_as_well(length, found, held_out),
    )


def _does_as_well(control: Measured, found: Measured, held_out: HeldOutScores) -> bool:
    """Whether the vector leads a control by at most two standard errors of the difference."""
    lead = found.minus(control, held_out)
    # two errors, where the choice of a layer takes one: to be better than a control is a claim
    return lead.value <= 2 * lead.error


def _round_all(values: Any, digits: int = 4) -> tuple[float | None, ...]:
    return tuple(_round(value, digits) for value in values)


def _round(value: Any, digits: int = 4) -> float | None:
    """A plain number for JSON; None if it is not finite, such as the error of a single pair."""
    return round(float(value), digits) if math.isfinite(value) else None
