"""Compares the methods that make a direction of activations, on the same held-out rollouts of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from traitcli.config import Config
from traitcli.errors import RunError
from traitcli.judging.identity import choose_judges
from traitcli.pipeline.labelled_activations import labelled, matched, unseen_rollouts
from traitcli.pipeline.snapshot import TraitSnapshot
from traitcli.records import Trait
from traitcli.runs.run import Run
from traitcli.vectors.controls import cosine, split_half_cosine
from traitcli.vectors.layer_choice import choose_layer_by_scores, middle_layers
from traitcli.vectors.methods import METHODS, Method
from traitcli.vectors.separation import (
    HeldOutScores,
    Labelled,
    auroc_interval,
    left_out_directions,
    measure_auroc,
    measure_d,
    project_left_out,
)

Row = dict[str, Any]
_BASE = "mean_difference"


def compare_methods(
    run: Run,
    traits: Sequence[Trait],
    config: Config,
    judge: str | None,
    on_step: Callable[[str], None],
) -> list[Row]:
    """One row for each trait and method: its AUROC and d on held-out rollouts, and how far it is ahead.

    Every method is given the same kept rollouts, those whose counterpart is kept too, and tested on the same left-out
    pairs' evaluation rollouts, at the row that it would choose, or at `vector.layer` where the config sets one.
    Raises RunError when a trait has too few rollouts, or nothing to test on.
    """
    rows = []
    held = {trait.name: TraitSnapshot.read(run, trait.name, trait) for trait in traits}
    judges = choose_judges({name: one.judges for name, one in held.items()}, judge, run.name)
    for trait in traits:
        build, test = _evidence(trait, held[trait.name], judges[trait.name], config)
        found = {}
        for name, method in METHODS.items():
            on_step(f"{trait.name}: {name.replace('_', ' ')}")
            found[name] = _Tried(build, test, method, config.vector.layer)
        rows += [_row(trait.name, name, tried, found[_BASE]) for name, tried in found.items()]
    return rows


class _Tried:
    """A method at work on some rollouts; `held` are all of `test` at its row, as they project on it."""

    def __init__(self, build: Labelled, test: Labelled, method: Method, layer: Any) -> None:
        start = time.perf_counter()
        self.build = build
        self.layer: int = self._choose(method) if layer == "auto" else layer
        at_row = build.at(self.layer)
        self.direction = at_row.direction(method)
        self.seconds = time.perf_counter() - start
        held = project_left_out(left_out_directions(at_row, test.pair, method), test.at(self.layer))
        if held is None:
            raise _nothing_held_out()
        self.held: HeldOutScores = held
        self.steady = split_half_cosine(at_row, method)

    def _choose(self, method: Method) -> int:
        """As `build_vector` does, without the rows that it would not take."""
        rows = self.build.activations.shape[1]
        middle = middle_layers(rows)
        inside = slice(middle.start, middle.stop)
        part = self.build.relabelled(self.build.positive, self.build.activations[:, inside])
        choosing = project_left_out(left_out_directions(part, part.pair, method), part)
        if choosing is None:
            return choose_layer_by_scores(None, rows)
        scores = np.full((len(choosing.positive), rows), 0, np.float32)
        scores[:, inside] = choosing.scores
        return choose_layer_by_scores(
            HeldOutScores(scores, choosing.positive, choosing.pair, choosing.question), rows
        )


def _evidence(
    trait: Trait, held: TraitSnapshot, judge: str, config: Config
) -> tuple[Labelled, Labelled]:
    selection = held.select(judge, config.filter)
    kept = matched(selection.kept)
    unseen = unseen_rollouts(trait, held.rollouts, selection)
    if len(kept) < 4 or not unseen:
        lacking = (
            "it has no answers to evaluation questions"
            if len(kept) >= 4
            else f"{len(kept)} rollouts are kept"
        )
        raise RunError(
            f"nothing to compare methods by for {trait.name}",
            cause=f"{lacking} ({selection.filter})",
            fix="extract with evaluation questions, or name other traits",
        )
    position = config.vector.position
    return labelled(held.files, kept, position), labelled(held.files, unseen, position)


def _row(trait: str, name: str, tried: _Tried, base: _Tried) -> Row:
    found, d = measure_auroc(tried.held, 0), measure_d(tried.held, 0)
    low, high = auroc_interval(found, tried.held)
    ahead = found.minus(measure_auroc(base.held, 0), tried.held)
    return {
        "trait": trait,
        "method": name,
        "layer": tried.layer,
        "auroc": found.value,
        "auroc_low": low,
        "auroc_high": high,
        "d": d.value,
        "ahead": None if name == _BASE else ahead.value,
        "ahead_error": None if name == _BASE else ahead.error,
        "split_half_cosine": None if tried.steady is None else float(tried.steady[0]),
        "cosine": _cosine_with_base(tried),
        "kept": len(tried.build.positive),
        "evaluation_rollouts": len(tried.held.positive),
        "seconds": tried.seconds,
    }


def _cosine_with_base(tried: _Tried) -> float:
    """With the difference of means of the same row."""
    base = tried.build.at(tried.layer).direction(METHODS[_BASE])
    return float(cosine(tried.direction, base)[0])


def _nothing_held_out() -> RunError:
    return RunError(
        "no pair can be left out",
        cause="leaving one out needs rollouts of both sides from at least two pairs",
        fix="give the definition more pairs, or keep more rollouts (--set filter.threshold)",
    )
