"""Gathers what a report shows of trait vectors, with the rollouts that each was built from."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from traitcli.config import Config, FilterConfig
from traitcli.events import Listener
from traitcli.inspection.judge_quality import histogram
from traitcli.inspection.kept_results import KnownVector, read_known
from traitcli.inspection.run_rows import Row
from traitcli.inspection.vector_rows import read_position
from traitcli.pipeline.filtering import Selection
from traitcli.pipeline.snapshot import TraitSnapshot
from traitcli.records import POLARITIES, Judgement, Rollout, TraitVector

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

EXAMPLES = 2
"""Rollouts shown of each polarity, kept and dropped."""
_CHANGED = "The run has changed since this vector was built, so its rollouts are not shown."


def run_vector_sets(
    traits: Sequence[TraitSnapshot], config: Config, name: str, on_event: Listener
) -> list[Row]:
    """The vectors that a run built last, each with the evidence for it; see `vector_sets`."""
    vectors, evidence = [], []
    for trait in traits:
        # A vector that was built may have been moved or deleted since.
        if trait.last_vector and trait.last_vector.is_file():
            vectors.append(read_known(trait.last_vector, trait.last_vector, on_event))
            evidence.append(_evidence(vectors[-1].vector, trait, config))
    return vector_sets(vectors, name, evidence)


def vector_sets(
    vectors: Sequence[KnownVector], name: str, evidence: Sequence[Row] | None = None
) -> list[Row]:
    """Group vectors by model and shape, because only those of one group can be compared.

    Args:
        vectors: Vectors of any model.
        name: The name of every set.
        evidence: For each vector, rows that are shown with it.

    Returns:
        One row for each group: `name`, `model`, `vectors` and `cosines`. A vector's row has its
        quality, its thresholds and its magnitude ‖v‖ at each layer, in activation units.
        `cosines[i][j]` is the cosine of vectors i and j at the layer of vector i.
    """
    groups: dict[tuple[Any, ...], list[tuple[TraitVector, Row]]] = {}
    for known, shown in zip(vectors, evidence or [{}] * len(vectors), strict=True):
        vector, thresholds = known.vector, {"thresholds": known.thresholds}
        group = vector.model, vector.layer_count, vector.hidden_size
        groups.setdefault(group, []).append((vector, thresholds | shown))

    sets: list[Row] = []
    for (model, *_), members in groups.items():
        rows = [_vector_row(vector) | shown for vector, shown in members]
        cosines = _cosines([vector for vector, _ in members])
        sets.append({"name": name, "model": model, "vectors": rows, "cosines": cosines})
    return sets


def _vector_row(vector: TraitVector) -> Row:
    magnitudes = np.linalg.norm(_direction(vector), axis=1)
    return {
        "trait": vector.trait,
        "model": vector.model,
        **asdict(vector.quality),
        "method": vector.method,
        "versions": vector.provenance.get("versions", {}),
        "layer": vector.layer,
        "magnitude_by_layer": [round(float(value), 4) for value in magnitudes],
    }


def _direction(vector: TraitVector) -> Floats:
    """float32 [L+1, H] at the position that the vector's quality was measured at."""
    return vector.directions[read_position(vector)]


def _cosines(vectors: Sequence[TraitVector]) -> list[list[float | None]]:
    """cos(v_i, v_j) at the layer of i; None where one of them is zero."""
    lines: list[list[float | None]] = []
    for own, vector in enumerate(vectors):
        at_layer = [_direction(other)[vector.layer] for other in vectors]
        # In float32, products of large components overflow or lose digits.
        stacked = np.stack(at_layer).astype(np.float64)
        products = stacked @ stacked[own]
        norms = np.linalg.norm(stacked, axis=1)
        line: list[float | None] = []
        for product, size in zip(products, norms * norms[own], strict=True):
            line.append(round(float(product / size), 4) if size > 0 else None)
        lines.append(line)
    return lines


def _evidence(vector: TraitVector, trait: TraitSnapshot, config: Config) -> Row:
    """Scores, what the filter dropped and why, and some rollouts to read; or a note."""
    judge = vector.quality.judge or ""
    settings = vector.provenance.get("filter") or config.filter.model_dump()
    selection = trait.select(judge, FilterConfig.model_validate(settings))

    # Other rollouts than the vector was built from would explain it wrongly.
    kept = Counter(rollout.polarity for rollout in selection.kept)
    built_from = [vector.quality.positive_kept, vector.quality.negative_kept]
    if [kept[side] for side in POLARITIES] != built_from:
        return {"note": _CHANGED}

    judgements = trait.judged_by(judge)
    histograms, dropped, examples = {}, {}, []
    for side in POLARITIES:
        rollouts = [one for one in trait.extraction if one.polarity == side]
        histograms[side] = histogram(_scores(rollouts, judgements))
        dropped[side] = _drop_reasons(rollouts, selection)
        for rollout in _draw_examples(rollouts, selection):
            question = trait.question(rollout) or rollout.prompt
            judgement = judgements.get(rollout.id)
            examples.append(_example(rollout, selection, judgement, question))
    return {"histogram": histograms, "dropped": dropped, "examples": examples}


def _scores(rollouts: Iterable[Rollout], judgements: Mapping[str, Judgement]) -> list[float]:
    found = [judgements[one.id].score.value for one in rollouts if one.id in judgements]
    return [value for value in found if value is not None]


def _drop_reasons(rollouts: Iterable[Rollout], selection: Selection) -> dict[str, int]:
    """Reason -> how many rollouts the filter dropped for it, most frequent first."""
    reasons = [selection.dropped[one.id] for one in rollouts if one.id in selection.dropped]
    return dict(Counter(reasons).most_common())


def _draw_examples(rollouts: Sequence[Rollout], selection: Selection) -> list[Rollout]:
    """Some kept and some dropped rollouts, drawn at random."""
    drawn = []
    for is_kept in (True, False):
        group = [one for one in rollouts if (one.id not in selection.dropped) == is_kept]
        # A hash orders the ids at random, and draws the same ones in every report.
        group.sort(key=lambda one: hashlib.sha256(one.id.encode()).digest())
        drawn += group[:EXAMPLES]
    return drawn


def _example(
    rollout: Rollout, selection: Selection, judgement: Judgement | None, question: str
) -> Row:
    return {
        "rollout": rollout.id,
        "polarity": rollout.polarity,
        "kept": rollout.id not in selection.dropped,
        "why": selection.dropped.get(rollout.id, ""),
        "score": judgement.score.value if judgement else None,
        "reason": judgement.score.reason if judgement else "",
        "coherence": judgement.coherence.value if judgement else None,
        "question": question,
        "response": rollout.response,
        "finish_reason": rollout.finish_reason,
    }
