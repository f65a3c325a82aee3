"""Builds a trait's vector from what a run has stored: filter, direction, and what it is worth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, cast

from traitcli.config import Config
from traitcli.errors import RunError, VectorError
from traitcli.events import Listener, StageStarted, VectorBuilt, Warned
from traitcli.pipeline.filtering import Selection, select_rollouts
from traitcli.pipeline.labelled_activations import labelled, matched, ordered, unseen_rollouts
from traitcli.pipeline.ledgers import RunLedgers
from traitcli.pipeline.snapshot import TraitSnapshot
from traitcli.records import POLARITIES, POSITIONS, Trait, TraitVector
from traitcli.runs.command_log import versions
from traitcli.runs.run import digest_of
from traitcli.vectors.files import read_header, vector_folder, write_vector
from traitcli.vectors.measure import Evidence, measure_vector
from traitcli.vectors.methods import METHODS, class_stats, pca_of_differences
from traitcli.vectors.verdict import with_verdict

MIN_ROLLOUTS = 2
"""Kept rollouts that either side needs: fewer give no spread."""
_MEASURES = 2
"""Raised when other things are measured of a vector, so that it is built again with them."""


def build_trait(
    trait: Trait, config: Config, ledgers: RunLedgers, judge: str, on_event: Listener
) -> Path:
    """Write `<trait>.safetensors` from stored activations and scores; nothing is written if it is there.

    `judge` is the identity whose scores count. Raises RunError when too few rollouts pass the filter.
    """
    run, own = ledgers.run, ledgers.trait(trait.name)
    snapshot = own.snapshot
    judgements = snapshot.judged_by(judge)
    if not snapshot.extraction:
        raise RunError(
            f"run {run.name} has no rollouts of {trait.name}",
            cause="none are in its ledger",
            fix=f"traitcli extract {trait.name}",
        )
    path = vector_folder(config) / f"{trait.name}.safetensors"
    inputs = digest_of(
        [
            _MEASURES,
            config.filter.model_dump(),
            config.vector.model_dump(),
            judge,
            [asdict(r) for r in snapshot.rollouts],
            [asdict(j) for j in judgements.values()],
        ]
    )
    done = _built_from(path) == inputs
    on_event(StageStarted(trait.name, "vectors", int(done), 1))
    if done:
        return path
    selection = select_rollouts(snapshot.extraction, judgements, config.filter)
    if not selection.trusted:
        on_event(Warned(trait.name, selection.filter))
    vector = _compute(trait, config, snapshot, selection, judge)
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
    own.add_vector(path, inputs)
    on_event(VectorBuilt(trait.name, str(path), vector.quality))
    return path


def _compute(
    trait: Trait, config: Config, snapshot: TraitSnapshot, selection: Selection, judge: str
) -> TraitVector:
    files = snapshot.files
    method = METHODS[config.vector.method]
    both = matched(selection.kept)
    kept = both if method is pca_of_differences else ordered(selection.kept)
    sides = [[r for r in kept if r.polarity == side] for side in POLARITIES]
    if min(map(len, sides)) < MIN_ROLLOUTS:
        found = f"{len(sides[0])} positive and {len(sides[1])} negative of {selection.counts['positive_total']} a side"
        raise RunError(
            f"too few rollouts of {trait.name} pass the filter",
            cause=f"{found} ({selection.filter})",
            fix="lower --threshold, set filter.pairing to independent, or generate more (extract.repeats)",
        )
    directions, stats = {}, {}
    for position in POSITIONS:
        positive, negative = (files.activations([r.id for r in side], position) for side in sides)
        directions[position] = method(positive, negative)
        stats[position] = class_stats(positive, negative, directions[position])
    position = config.vector.position
    build, unseen = (
        labelled(files, kept, position),
        unseen_rollouts(trait, snapshot.rollouts, selection),
    )
    evidence = Evidence(
        build,
        matched=build if kept is both else labelled(files, both, position),
        test=labelled(files, unseen, position) if unseen else None,
        method=method,
        direction=directions[position],
    )
    quality = replace(
        measure_vector(evidence, _checked_layer(config, build.activations.shape[1])),
        position=position,
        positive_kept=len(sides[0]),
        negative_kept=len(sides[1]),
        filter=selection.filter,
        coherence=selection.coherence,
        judge=judge,
        judge_auroc=selection.judge_auroc,
        judge_trusted=selection.trusted,
        **selection.counts,
    )
    quality = with_verdict(quality)
    return TraitVector(
        trait.name,
        config.model.name,
        config.vector.method,
        cast(int, quality.layer),  # measure_vector always sets it
        directions,
        stats,
        quality,
    )


def _checked_layer(config: Config, layer_count: int) -> int | Literal["auto"]:
    layer = config.vector.layer
    if layer != "auto" and layer >= layer_count:
        raise VectorError(
            f"no layer {layer}",
            cause=f"the model has layers 0 to {layer_count - 1}",
            fix="set vector.layer to one of them, or auto",
        )
    return layer


def _built_from(path: Path) -> str | None:
    """The inputs' digest of the vector that is there, when it is whole."""
    if not path.is_file():
        return None
    try:
        return str(read_header(path).provenance.get("inputs"))
    except VectorError:
        return None


def _with_provenance(vector: TraitVector, origin: Mapping[str, Any]) -> TraitVector:
    provenance = json.loads(json.dumps({**origin, "versions": versions()}, default=str))
    return replace(vector, provenance=provenance)
