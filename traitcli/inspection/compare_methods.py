"""Compares the methods that compute a direction, on the same held-out rollouts of a run.

Each held-out answer counts twice: behind its own prompt, which has a persona, and behind its bare
question. A method may learn to read the persona, and only the second reading shows that.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from traitcli.config import Config
from traitcli.errors import RunError
from traitcli.judging.identity import choose_judges
from traitcli.pipeline.build_vector import Readings, chosen_layer
from traitcli.pipeline.labelled_activations import labelled, matched, unseen_rollouts
from traitcli.pipeline.snapshot import TraitSnapshot
from traitcli.records import Position, Trait, TraitVector
from traitcli.runs.run import Run
from traitcli.vectors.controls import cosine, split_half_cosine
from traitcli.vectors.held_out import (
    HeldOutScores,
    LabelledActivations,
    left_out_directions,
    project_left_out,
)
from traitcli.vectors.layer_choice import choose_layer_by_scores, middle_layers
from traitcli.vectors.measure import Neutral
from traitcli.vectors.methods import METHODS, Method
from traitcli.vectors.separation import auroc_interval, measure_auroc, measure_d

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

Row = dict[str, Any]
BASELINE = "mean_difference"
"""The method that the others are compared with."""
_FEWEST = 4
"""Minimum kept rollouts for a comparison."""


@dataclass(frozen=True, slots=True)
class ComparedMethod:
    """What a method gives for a trait.

    row     its figures (JSON-able)
    vector  its direction, from all build rollouts; zero at every layer but its own
    """

    row: Row
    vector: TraitVector


def compare_methods(
    run: Run,
    traits: Sequence[Trait],
    config: Config,
    judge: str | None,
    on_step: Callable[[str], None],
) -> list[ComparedMethod]:
    """One for each trait and method: held-out AUROC and d, and the lead over the baseline.

    Every method gets the same build rollouts: kept ones whose counterpart is kept too. It is
    tested on the evaluation rollouts of the held-out pairs, at the layer that `build-vector` would
    choose with it, or at `vector.layer` if the config sets one. `on_step` receives a message
    before each method.

    Raises RunError when a trait has too few rollouts, or nothing to test on, and VectorError if
    the model has no such layer.
    """
    compared = []
    snapshots = {trait.name: TraitSnapshot.read(run, trait.name, trait) for trait in traits}
    known_judges = {name: snapshot.judges for name, snapshot in snapshots.items()}
    judges = choose_judges(known_judges, judge, run.name)
    for trait in traits:
        evidence = _evidence(trait, snapshots[trait.name], judges[trait.name], config)
        layer, trials = chosen_layer(config, evidence.build.activations.shape[1]), {}
        for name, method in METHODS.items():
            on_step(f"{trait.name}: {name.replace('_', ' ')}")
            trials[name] = _try_method(evidence, method, layer)
        for name, trial in trials.items():
            row = _row(trait.name, name, trial, trials[BASELINE]) | {"note": evidence.note}
            compared.append(ComparedMethod(row, _vector(trait.name, name, trial, evidence, config)))
    return compared


@dataclass(frozen=True, slots=True)
class _Evidence:
    """The rollouts of a trait that every method is built from and tested on.

    neutral  their neutral readings, or None
    note     why there are none
    """

    build: LabelledActivations
    test: LabelledActivations
    neutral: Neutral | None
    note: str


@dataclass(frozen=True, slots=True)
class _Trial:
    """A method's result at its layer; every array has that layer alone.

    build      the rollouts that the direction is computed from
    direction  float32 [1, H]
    seconds    what choosing the layer and computing the direction took
    held_out   the scores of the test rollouts behind their own prompts
    neutral    those behind their bare questions, or None
    """

    layer: int
    build: LabelledActivations
    direction: Floats
    seconds: float
    held_out: HeldOutScores
    neutral: HeldOutScores | None
    split_half_cosine: float | None


def _try_method(evidence: _Evidence, method: Method, layer: int | Literal["auto"]) -> _Trial:
    # Only what building a vector needs is timed; the tests below are not part of it.
    start = time.perf_counter()
    chosen = _choose_layer(evidence, method) if layer == "auto" else layer
    at_layer = evidence.build.at_layer(chosen)
    direction = at_layer.direction(method)
    seconds = time.perf_counter() - start

    without_each_pair = left_out_directions(at_layer, evidence.test.pair, method)
    held_out = project_left_out(without_each_pair, evidence.test.at_layer(chosen))
    if held_out is None:
        raise RunError(
            "no pair can be held out",
            cause="leaving one out needs rollouts of both polarities from at least two pairs",
            fix="give the definition more pairs, or keep more rollouts (--set filter.threshold)",
        )
    neutral = None
    if evidence.neutral and evidence.neutral.test:
        neutral = project_left_out(without_each_pair, evidence.neutral.test.at_layer(chosen))
    halves = split_half_cosine(at_layer, method)
    stability = None if halves is None else float(halves[0])
    return _Trial(chosen, at_layer, direction, seconds, held_out, neutral, stability)


def _choose_layer(evidence: _Evidence, method: Method) -> int:
    """The layer that build-vector would choose: on neutral readings, where the run has them.

    Directions are computed at the middle layers only: the others cannot be chosen, and a slow
    method takes seconds per layer.
    """
    layer_count = evidence.build.activations.shape[1]
    middle = middle_layers(layer_count)
    inside = slice(middle.start, middle.stop)
    part = evidence.build.at_layers(inside)
    read = evidence.neutral.build.at_layers(inside) if evidence.neutral else part
    held_out = project_left_out(left_out_directions(part, part.pair, method), read)
    if held_out is None:
        return choose_layer_by_scores(None, layer_count)
    # Zeros are all ties, with an AUROC of 0.5, at layers that cannot be chosen.
    scores = np.zeros((len(held_out.positive), layer_count), np.float32)
    scores[:, inside] = held_out.scores
    return choose_layer_by_scores(replace(held_out, scores=scores), layer_count)


def _evidence(trait: Trait, snapshot: TraitSnapshot, judge: str, config: Config) -> _Evidence:
    """The rollouts to build from and to test on."""
    selection = snapshot.select(judge, config.filter)
    kept = matched(selection.kept)
    unseen = unseen_rollouts(trait, snapshot.rollouts, selection)
    problem = f"cannot compare methods for {trait.name}"
    if len(kept) < _FEWEST:
        raise RunError(
            problem,
            cause=f"{len(kept)} of {len(snapshot.extraction)} rollouts are kept "
            f"({selection.filter})",
            fix=f"traitcli extract {trait.name}, or name other traits",
        )
    if not unseen:
        raise RunError(
            problem,
            cause="it has no answers to evaluation questions",
            fix="extract with evaluation questions, or name other traits",
        )
    position, files = config.vector.position, snapshot.files
    readings = Readings.of(trait, snapshot, [*kept, *unseen], config)
    neutral = readings.neutral(kept, unseen, position)
    note = "" if neutral else _why_not_neutral(position, readings)
    build = readings.labelled(kept, position)
    return _Evidence(build, labelled(files, unseen, position), neutral, note)


def _why_not_neutral(position: Position, readings: Readings) -> str:
    if position != "response_avg":
        return f"no neutral readings: they are of response_avg, and vector.position is {position}"
    return (
        f"no neutral readings: {readings.missing} of {readings.needed} rollouts were not read "
        f"behind their bare questions; traitcli extract {readings.trait.name} reads them"
    )


def _vector(
    trait: str, name: str, trial: _Trial, evidence: _Evidence, config: Config
) -> TraitVector:
    """The direction of a trial as a vector of the model's shape."""
    directions = np.zeros(evidence.build.activations.shape[1:], np.float32)
    directions[trial.layer] = trial.direction[0]
    by_position = {config.vector.position: directions}
    return TraitVector(trait, config.model.name, name, trial.layer, by_position, {})


def _row(trait: str, name: str, trial: _Trial, baseline: _Trial) -> Row:
    # Column 0 is the only one: a trial has its own layer alone.
    own, other = trial.held_out, baseline.held_out
    neutral = _separation(trial.neutral, baseline.neutral)
    # At the layer of the trial: between two layers a cosine means nothing.
    mean_difference = trial.build.direction(METHODS[BASELINE])
    row = {
        "trait": trait,
        "method": name,
        "layer": trial.layer,
        **_separation(own, other),
        "d": measure_d(own, 0).value,
        **{f"neutral_{key}": value for key, value in neutral.items()},
        "split_half_cosine": trial.split_half_cosine,
        "cosine": float(cosine(trial.direction, mean_difference)[0]),
        "kept": len(trial.build.positive),
        "evaluation_rollouts": len(own.positive),
        "seconds": trial.seconds,
    }
    if name == BASELINE:
        row |= dict.fromkeys(key for key in row if key.endswith(("ahead", "ahead_error")))
    return row


def _separation(own: HeldOutScores | None, baseline: HeldOutScores | None) -> Row:
    """AUROC with interval, and the lead over the baseline with its standard error."""
    if own is None or baseline is None:
        return dict.fromkeys(("auroc", "auroc_low", "auroc_high", "ahead", "ahead_error"))
    auroc = measure_auroc(own, 0)
    low, high = auroc_interval(auroc, own)
    lead = auroc.minus(measure_auroc(baseline, 0), own)
    return {
        "auroc": auroc.value,
        "auroc_low": low,
        "auroc_high": high,
        "ahead": lead.value,
        "ahead_error": lead.error,
    }
