"""Builds a trait's vector from what a run has stored: filter, difference of means, held-out check."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from traitcli.config import Config
from traitcli.errors import RunError, VectorError
from traitcli.events import Listener, StageStarted, VectorBuilt, Warned
from traitcli.records import POLARITIES, POSITIONS, Rollout, Trait, TraitVector
from traitcli.runs import Run, TraitFiles, digest_of
from traitcli.stages.filtering import Selection, select_rollouts
from traitcli.stages.journal import versions
from traitcli.vectors.files import read_header, vector_folder, write_vector
from traitcli.vectors.methods import METHODS, class_stats
from traitcli.vectors.quality import Labelled, choose_row, leave_one_pair_out, verdict

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_ROLLOUTS = 2
"""Kept rollouts that either side needs: fewer give no spread."""


def build_trait(trait: Trait, config: Config, run: Run, judge: str, on_event: Listener) -> Path:
    """Write `<trait>.safetensors` from stored activations and scores; nothing is written if it is there.

    `judge` is the identity whose scores count. Raises RunError when too few rollouts pass the filter.
    """
    files = run.trait(trait.name)
    rollouts = files.rollouts()
    judgements = {j.rollout: j for j in files.judgements(judge)}
    extraction = [r for r in rollouts if r.split == "extraction"]
    if not extraction:
        raise RunError(
            f"run {run.name} has no rollouts of {trait.name}",
            cause="none are in its ledger",
            fix=f"traitcli extract {trait.name}",
        )
    path = vector_folder(config) / f"{trait.name}.safetensors"
    inputs = digest_of(
        [
            config.filter.model_dump(),
            config.vector.model_dump(),
            judge,
            [asdict(r) for r in rollouts],
            [asdict(j) for j in judgements.values()],
        ]
    )
    done = _built_from(path) == inputs
    on_event(StageStarted(trait.name, "vectors", int(done), 1))
    if done:
        return path
    selection = select_rollouts(extraction, judgements, config.filter)
    if not selection.trusted:
        on_event(Warned(trait.name, selection.filter))
    vector = _compute(trait, config, run, selection, judge)
    vector = _with_provenance(
        vector,
        {
            "inputs": inputs,
            "judge": judge,
            "run": run.name,
            "definition": digest_of(asdict(trait)),
            "run_settings": run.manifest().get("settings", {}),
            "filter": config.filter.model_dump(),
        },
    )
    path = write_vector(vector_folder(config), vector)
    files.add_built(path, inputs)
    on_event(VectorBuilt(trait.name, str(path), vector.quality))
    return path


def _compute(trait: Trait, config: Config, run: Run, selection: Selection, judge: str) -> TraitVector:
    files = run.trait(trait.name)
    kept = [[r for r in selection.kept if r.polarity == side] for side in POLARITIES]
    if min(map(len, kept)) < MIN_ROLLOUTS:
        found = f"{len(kept[0])} positive and {len(kept[1])} negative of {selection.counts['positive_total']} a side"
        raise RunError(
            f"too few rollouts of {trait.name} pass the filter",
            cause=f"{found} ({selection.filter})",
            fix="lower --threshold, set filter.pairing to independent, or generate more (extract.repeats)",
        )
    method = METHODS[config.vector.method]
    directions, stats = {}, {}
    magnitude: dict[str, float] = {}
    for position in POSITIONS:
        positive, negative = (files.activations([r.id for r in side], position) for side in kept)
        directions[position] = method(positive, negative)
        stats[position] = class_stats(positive, negative, directions[position])
        if position == config.vector.position:
            magnitude = _magnitude(directions[position], positive, negative)
    held_out = _held_out(config, files, selection)
    rows = directions["response_avg"].shape[0]
    layer = held_out["chosen"] if config.vector.layer == "auto" else _checked(config.vector.layer, rows)
    chosen = "auto: best left-out-pair AUROC between 25 % and 75 % of depth, on extraction rollouts"
    quality = {
        "rows": rows,
        "hidden_size": directions["response_avg"].shape[1],
        "layer": layer,
        "layer_choice": chosen if config.vector.layer == "auto" else "set",
        "position": config.vector.position,
        **selection.counts,
        "positive_kept": len(kept[0]),
        "negative_kept": len(kept[1]),
        "filter": selection.filter,
        "coherence": selection.coherence,
        "judge": judge,
        "judge_auroc": selection.judge_auroc,
        **magnitude,
        **_at(held_out, layer),
    }
    quality["verdict"], quality["verdict_reason"] = verdict(quality["auroc"], quality["contrast"], selection.trusted)
    return TraitVector(trait.name, config.model.name, config.vector.method, layer, directions, stats, quality)


def _held_out(config: Config, files: TraitFiles, selection: Selection) -> dict[str, Any]:
    """Leave-one-pair-out separation: of kept extraction rollouts (to choose a row), of evaluation ones."""
    method, position = METHODS[config.vector.method], config.vector.position
    build = _labelled(files, selection.kept, position)
    choosing = leave_one_pair_out(build, build, method)
    unseen = [r for r in files.rollouts() if r.split == "evaluation" and r.response_tokens]
    separation = leave_one_pair_out(build, _labelled(files, unseen, position), method) if unseen else None
    return {"chosen": choose_row(choosing, build.activations.shape[1]), "separation": separation}


def _at(held_out: Mapping[str, Any], layer: int) -> dict[str, Any]:
    separation = held_out["separation"]
    if separation is None:
        return {"auroc": None, "auroc_rows": None, "d": None, "evaluation_rollouts": 0}
    return {
        "auroc": round(float(separation.auroc[layer]), 4),
        "auroc_rows": [round(float(value), 4) for value in separation.auroc],
        "d": round(float(separation.d[layer]), 3),
        "evaluation_rollouts": separation.rollouts,
    }


def _labelled(files: TraitFiles, rollouts: Sequence[Rollout], position: Any) -> Labelled:
    return Labelled(
        files.activations([r.id for r in rollouts], position),
        np.array([r.polarity == "positive" for r in rollouts], dtype=bool),
        np.array([r.pair for r in rollouts], dtype=np.int64),
    )


def _magnitude(
    direction: NDArray[np.float32], positive: NDArray[np.float32], negative: NDArray[np.float32]
) -> dict[str, float]:
    """Mean row norm, and relative to the mean norm of the activations of the same rows."""
    own = float(np.linalg.norm(direction, axis=1).mean())
    around = float(np.mean([np.linalg.norm(side, axis=2).mean() for side in (positive, negative)]))
    return {"magnitude": round(own, 3), "relative_magnitude": round(own / around, 4) if around else 0.0}


def _checked(layer: int, rows: int) -> int:
    if layer >= rows:
        raise VectorError(
            f"no row {layer}",
            cause=f"the model has rows 0 to {rows - 1}",
            fix="set vector.layer to one of them, or auto",
        )
    return layer


def _built_from(path: Path) -> str | None:
    """The inputs' digest of the vector that is there, when it is whole."""
    if not path.is_file():
        return None
    try:
        return str(read_header(path)["provenance"].get("inputs"))
    except VectorError:
        return None


def _with_provenance(vector: TraitVector, origin: Mapping[str, Any]) -> TraitVector:
    provenance = json.loads(json.dumps({**origin, "versions": versions()}, default=str))
    return replace(vector, provenance=provenance)
