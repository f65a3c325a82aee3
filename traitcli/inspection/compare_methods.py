"""Compares the methods that compute a direction, on the same held-out rollouts of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from traitcli.config import Config
from traitcli.errors import RunError
from traitcli.judging.identity import choose_judges
from traitcli.pipeline.labelled_activations import labelled, matched, unseen_rollouts
from traitcli.pipeline.snapshot import TraitSnapshot
from traitcli.records import Trait
from traitcli.runs.run import Run
from traitcli.vectors.controls import cosine, split_half_cosine
from traitcli.vectors.held_out import (
    HeldOutScores,
    LabelledActivations,
    left_out_directions,
    project_left_out,
)
from traitcli.vectors.layer_choice import choose_layer_by_scores, middle_layers
from traitcli.vectors.methods import METHODS, Method
from traitcli.vectors.separation import auroc_interval, measure_auroc, measure_d

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

Row = dict[str, Any]
_BASELINE = "mean_difference"
_FEWEST = 4
"""Minimum kept rollouts for a comparison."""


def compare_methods(
    run: Run,
    traits: Sequence[Trait],
    config: Config,
    judge: str | None,
    on_step: Callable[[str], None],
) -> list[Row]:
    """One row per trait and method: held-out AUROC and d, and the lead over the baseline.

    Every method gets the same build rollouts: kept ones whose counterpart is kept too. It is
    tested on the evaluation rollouts of the held-out pairs, at the layer that it would choose, or
    at `vector.layer` if the config sets one. `on_step` receives a message before each method.

    Raises RunError when a trait has too few rollouts, or nothing to test on.
    """
    rows = []
    snapshots = {trait.name: TraitSnapshot.read(run, trait.name, trait) for trait in traits}
    known_judges = {name: snapshot.judges for name, snapshot in snapshots.items()}
    judges = choose_judges(known_judges, judge, run.name)
    for trait in traits:
        build, test = _evidence(trait, snapshots[trait.name], judges[trait.name], config)
        trials = {}
        for name, method in METHODS.items():
            on_step(f"{trait.name}: {name.replace('_', ' ')}")
            trials[name] = _try_method(build, test, method, config.vector.layer)
        for name, trial in trials.items():
            rows.append(_row(trait.name, name, trial, trials[_BASELINE]))
    return rows


@dataclass(frozen=True, slots=True)
class _Trial:
    """A method's result at its layer; every array has that layer alone.

    build      the rollouts that the direction is computed from
    direction  float32 [1, H]
    seconds    what choosing the layer and computing the direction took
    held_out   the scores of the test rollouts
    """

    layer: int
    build: LabelledActivations
    direction: Floats
    seconds: float
    held_out: HeldOutScores
    split_half_cosine: float | None


def _try_method(
    build: LabelledActivations,
    test: LabelledActivations,
    method: Method,
    layer: int | Literal["auto"],
) -> _Trial:
    # Only what building a vector needs is timed; the tests below are not part of it.
    start = time.perf_counter()
    chosen = _choose_layer(build, method) if layer == "auto" else layer
    at_layer = build.at_layer(chosen)
    direction = at_layer.direction(method)
    seconds = time.perf_counter() - start

    without_each_pair = left_out_directions(at_layer, test.pair, method)
    held_out = project_left_out(without_each_pair, test.at_layer(chosen))
    if held_out is None:
        raise RunError(
            "no pair can be held out",
            cause="leaving one out needs rollouts of both polarities from at least two pairs",
            fix="give the definition more pairs, or keep more rollouts (--set filter.threshold)",
        )
    halves = split_half_cosine(at_layer, method)
    stability = None if halves is None else float(halves[0])
    return _Trial(chosen, at_layer, direction, seconds, held_out, stability)


def _choose_layer(build: LabelledActivations, method: Method) -> int:
    """The layer that build-vector would choose.

    Directions are computed at the middle layers only: the others cannot be chosen, and a slow
    method takes seconds per layer.
    """
    layer_count = build.activations.shape[1]
    middle = middle_layers(layer_count)
    inside = slice(middle.start, middle.stop)
    part = build.at_layers(inside)
    held_out = project_left_out(left_out_directions(part, part.pair, method), part)
    if held_out is None:
        return choose_layer_by_scores(None, layer_count)
    # Zeros are all ties, with an AUROC of 0.5, at layers that cannot be chosen.
    scores = np.zeros((len(held_out.positive), layer_count), np.float32)
    scores[:, inside] = held_out.scores
    return choose_layer_by_scores(replace(held_out, scores=scores), layer_count)


def _evidence(
    trait: Trait, snapshot: TraitSnapshot, judge: str, config: Config
) -> tuple[LabelledActivations, LabelledActivations]:
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
    return labelled(files, kept, position), labelled(files, unseen, position)


def _row(trait: str, name: str, trial: _Trial, baseline: _Trial) -> Row:
    # Column 0 is the only one: a trial has its own layer alone.
    auroc, d = measure_auroc(trial.held_out, 0), measure_d(trial.held_out, 0)
    low, high = auroc_interval(auroc, trial.held_out)
    lead = auroc.minus(measure_auroc(baseline.held_out, 0), trial.held_out)
    is_baseline = name == _BASELINE

    # At the layer of the trial: between two layers a cosine means nothing.
    mean_difference = trial.build.direction(METHODS[_BASELINE])
    return {
        "trait": trait,
        "method": name,
        "layer": trial.layer,
        "auroc": auroc.value,
        "auroc_low": low,
        "auroc_high": high,
        "d": d.value,
        "ahead": None if is_baseline else lead.value,
        "ahead_error": None if is_baseline else lead.error,
        "split_half_cosine": trial.split_half_cosine,
        "cosine": float(cosine(trial.direction, mean_difference)[0]),
        "kept": len(trial.build.positive),
        "evaluation_rollouts": len(trial.held_out.positive),
        "seconds": trial.seconds,
    }
