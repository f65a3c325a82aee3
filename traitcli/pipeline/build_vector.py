"""Builds a trait's vector from what a run has stored, and measures how good it is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from traitcli.config import Config
from traitcli.errors import RunError, VectorError
from traitcli.events import Listener, StageStarted, VectorBuilt, Warned
from traitcli.pipeline.filtering import Selection
from traitcli.pipeline.labelled_activations import labelled, matched, ordered, unseen_rollouts
from traitcli.pipeline.ledgers import RunLedgers
from traitcli.pipeline.snapshot import TraitSnapshot
from traitcli.records import (
    POSITIONS,
    ClassStats,
    Context,
    Position,
    Rollout,
    Trait,
    TraitVector,
)
from traitcli.runs.command_log import find_model, versions
from traitcli.runs.run import TraitFiles, digest_of
from traitcli.vectors.files import read_header, vector_folder, write_vector
from traitcli.vectors.held_out import LabelledActivations
from traitcli.vectors.measure import Evidence, Neutral, measure_vector
from traitcli.vectors.methods import METHODS, Method, class_stats, pca_of_differences
from traitcli.vectors.verdict import with_verdict

if TYPE_CHECKING:
    from traitcli.records import Floats

MIN_ROLLOUTS = 2
"""Kept rollouts that each side needs: one has no spread to calibrate scores with."""
_QUALITY_VERSION = 4
"""Raise it when vectors are measured, or layers chosen, in another way: all are built again."""


def build_trait(
    trait: Trait, config: Config, ledgers: RunLedgers, judge: str, on_event: Listener
) -> Path:
    """Write `<trait>.safetensors` from stored activations and scores, unless it is up to date.

    `judge` is the id of the judge whose scores count. Raises RunError if too few rollouts pass
    the filter.
    """
    run, own = ledgers.run, ledgers.trait(trait.name)
    snapshot = own.snapshot
    if not snapshot.extraction:
        raise RunError(
            f"run {run.name} has no rollouts of {trait.name}",
            cause=f"{snapshot.files.folder}/rollouts.jsonl has no extraction rollouts",
            fix=f"traitcli extract {trait.name}",
        )

    path = vector_folder(config) / f"{trait.name}.safetensors"
    inputs = _digest_inputs(snapshot, config, judge)
    done = _built_from(path) == inputs
    on_event(StageStarted(trait.name, "vectors", int(done), 1))
    if done:
        return path

    selection = snapshot.select(judge, config.filter)
    if not selection.trusted:
        on_event(Warned(trait.name, selection.filter))
    vector = compute_vector(trait, config, snapshot, selection, judge)

    known = find_model(run, config.model.name)
    origin = {
        "model_identity": {
            "id": known.get("id") or config.model.id,
            "revision": known.get("revision") or config.model.revision or "",
            "layers": vector.layer_count,
            "hidden_size": vector.hidden_size,
            "fingerprint": known.get("fingerprint", ""),
        },
        "inputs": inputs,
        "judge": judge,
        "run": run.name,
        "definition": digest_of(asdict(trait)),
        "run_settings": run.manifest().get("settings", {}),
        "filter": config.filter.model_dump(),
    }
    path = write_vector(vector_folder(config), with_provenance(vector, origin))
    # After the file, so that the ledger never names a vector that was not written.
    own.add_vector(path, inputs)
    on_event(VectorBuilt(trait.name, str(path), vector.quality))
    return path


def _digest_inputs(snapshot: TraitSnapshot, config: Config, judge: str) -> str:
    """The digest of all that a vector depends on: it is up to date as long as this is the same."""
    rollouts = [asdict(rollout) for rollout in snapshot.rollouts]
    for rollout in rollouts:
        # Digested under its former name, so that vectors built with it are still up to date.
        if rollout["finish_reason"] == "provided":
            rollout["finish_reason"] = "given"
    judgements = [asdict(judgement) for judgement in snapshot.judged_by(judge).values()]
    # Without what was added later, so that vectors built without it are still up to date.
    vector = config.vector.model_dump()
    if vector["context"] == "persona":
        del vector["context"]
    parts = [_QUALITY_VERSION, config.filter.model_dump(), vector, judge, rollouts, judgements]
    return digest_of([*parts, sorted(snapshot.neutral)] if snapshot.neutral else parts)


def compute_vector(
    trait: Trait, config: Config, snapshot: TraitSnapshot, selection: Selection, judge: str
) -> TraitVector:
    """The vector of the kept rollouts, with its quality; without provenance.

    Raises RunError if too few rollouts are kept.
    """
    files = snapshot.files
    method = METHODS[config.vector.method]
    pairs = matched(selection.kept)
    # The first principal component of differences needs the rollouts of both sides in pairs.
    kept = pairs if method is pca_of_differences else ordered(selection.kept)
    positive = sum(r.polarity == "positive" for r in kept)
    negative = len(kept) - positive
    if min(positive, negative) < MIN_ROLLOUTS:
        raise _too_few(trait, selection, positive, negative)

    unseen = unseen_rollouts(trait, snapshot.rollouts, selection)
    readings = Readings.of(trait, snapshot, [*kept, *unseen], config)
    position = config.vector.position
    # Only the states of the position that is measured stay: they take gigabytes of a large model.
    built = {
        each: _build(readings.labelled(kept, each), method)
        for each in POSITIONS
        if each != position
    }
    build = readings.labelled(kept, position)
    built[position] = _build(build, method)

    evidence = Evidence(
        build,
        matched=np.isin([r.id for r in kept], [r.id for r in pairs]),
        test=labelled(files, unseen, position) if unseen else None,
        method=method,
        direction=built[position][0],
        neutral=readings.neutral(kept, unseen, position),
    )
    quality = replace(
        measure_vector(evidence, chosen_layer(config, build.activations.shape[1])),
        position=position,
        context=readings.context(position),
        positive_kept=positive,
        negative_kept=negative,
        filter=selection.filter,
        coherence=selection.coherence,
        judge=judge,
        judge_auroc=selection.judge_auroc,
        judge_trusted=selection.trusted,
        **selection.counts,
    )

    return TraitVector(
        trait.name,
        config.model.name,
        config.vector.method,
        cast(int, quality.layer),  # measure_vector always sets it
        {each: built[each][0] for each in POSITIONS},
        {each: built[each][1] for each in POSITIONS},
        with_verdict(quality),
    )


def _build(rollouts: LabelledActivations, method: Method) -> tuple[Floats, ClassStats]:
    """The direction of some rollouts, and how they project on it."""
    direction = rollouts.direction(method)
    return direction, class_stats(rollouts.activations, rollouts.positive, direction)


@dataclass(frozen=True, slots=True)
class Readings:
    """Which states of rollouts a vector is built from and measured on.

    wanted   `vector.context`
    needed   number of rollouts that the vector is built from and tested on
    missing  how many of these have no neutral reading
    """

    trait: Trait
    files: TraitFiles
    wanted: Context
    needed: int
    missing: int

    @classmethod
    def of(
        cls, trait: Trait, snapshot: TraitSnapshot, rollouts: Sequence[Rollout], config: Config
    ) -> Readings:
        """The readings of some rollouts; raises RunError if the config needs those that lack."""
        needed = {rollout.id for rollout in rollouts}
        missing = len(needed - snapshot.neutral)
        readings = cls(trait, snapshot.files, config.vector.context, len(needed), missing)
        readings._check()
        return readings

    def context(self, position: Position) -> Context:
        """Which states of a position count."""
        # Labelled responses were read without a persona in the first place. And a prompt has no
        # neutral reading: without its persona it is the bare question, on both sides.
        is_read = position == "response_avg" and not self.trait.responses
        return self.wanted if is_read else "persona"

    def labelled(self, rollouts: Sequence[Rollout], position: Position) -> LabelledActivations:
        """The same with labels."""
        return labelled(self.files, rollouts, position, self.context(position))

    def _check(self) -> None:
        """Raise RunError if the vector needs neutral readings that the run lacks."""
        if self.missing and self.context("response_avg") == "neutral":
            raise RunError(
                f"{self.trait.name} has no neutral readings",
                cause=f"{self.missing} of {self.needed} rollouts were not read behind their bare "
                "questions",
                fix=f"traitcli extract {self.trait.name}, or set vector.context to persona",
            )

    def neutral(
        self, kept: Sequence[Rollout], unseen: Sequence[Rollout], position: Position
    ) -> Neutral | None:
        """Neutral readings; None for a run of an earlier version that was not read again."""
        if position != "response_avg":
            return None
        context: Context = "persona" if self.trait.responses else "neutral"
        if context == "neutral" and self.missing:
            return None
        test = labelled(self.files, unseen, position, context) if unseen else None
        return Neutral(labelled(self.files, kept, position, context), test)


def _too_few(trait: Trait, selection: Selection, positive: int, negative: int) -> RunError:
    total = selection.counts["positive_total"]
    return RunError(
        f"too few rollouts of {trait.name} pass the filter",
        cause=f"{positive} positive and {negative} negative of {total} a side "
        f"({selection.filter}); each side needs {MIN_ROLLOUTS}",
        fix="lower filter.threshold, set filter.pairing to independent, or raise extract.repeats",
    )


def chosen_layer(config: Config, layer_count: int) -> int | Literal["auto"]:
    """`vector.layer`; raises VectorError if the model has no such layer."""
    layer = config.vector.layer
    if layer != "auto" and layer >= layer_count:
        raise VectorError(
            f"vector.layer {layer} does not exist",
            cause=f"the model has layers 0 to {layer_count - 1}",
            fix="set vector.layer to one of them, or to auto",
        )
    return layer


def _built_from(path: Path) -> str | None:
    """The digest of the inputs of the stored vector; None without a readable one."""
    if not path.is_file():
        return None
    try:
        return str(read_header(path).provenance.get("inputs"))
    except VectorError:
        return None


def with_provenance(vector: TraitVector, origin: Mapping[str, Any]) -> TraitVector:
    """The same vector with its origin (JSON-able), and the versions that it was built with."""
    # Through JSON, so that the vector has here what a reader of its file gets.
    provenance = json.loads(json.dumps({**origin, "versions": versions()}, default=str))
    return replace(vector, provenance=provenance)
