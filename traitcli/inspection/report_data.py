"""Gathers what a report shows: monitoring records, vectors with what they were built from, and runs."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from traitcli.config import Config, FilterConfig
from traitcli.errors import RunError
from traitcli.inspection.judge_quality import histogram
from traitcli.inspection.run_rows import Row, run_row
from traitcli.inspection.vector_rows import read_position
from traitcli.judging.reasons import merge_reasons
from traitcli.monitoring.record_files import collect_records
from traitcli.pipeline.filtering import Selection
from traitcli.pipeline.snapshot import TraitSnapshot, read_snapshots
from traitcli.records import POLARITIES, Judgement, Polarity, Report, Rollout, Usage
from traitcli.runs.command_log import read_commands
from traitcli.runs.run import Run
from traitcli.shipped import find_shipped
from traitcli.vectors.files import read_vector

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXAMPLES = 2
"""Rollouts shown of each polarity, kept and dropped."""


def gather_report(
    names: Sequence[str], config: Config, on_step: Callable[[str], None] = lambda step: None
) -> Report:
    """What is named: runs by name, records by file; by default all there is, else what comes with traitcli.

    `on_step` is told in words what is read next. Raises RunError for a name that is no run, UserError for a
    file that is no record.
    """
    files = [name for name in names if name.endswith((".json", ".jsonl"))]
    named = [name for name in names if name not in files]
    on_step("reading records")
    records = collect_records(config.paths.runs, files)
    sets: list[Row] = []
    told: list[Row] = []
    for run in _find_runs(config.paths.runs, named):
        on_step(f"reading the run {run.name}")
        held = read_snapshots(run, config)
        told.append(_run_told(run, held, config))
        sets += _vector_sets(run, held, config)
    if not sets and not named:
        paths = sorted((find_shipped("vectors") / config.model.name).glob("*.safetensors"))
        sets = _group([_vector_told(path) for path in paths], "shipped with traitcli")
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    return Report(tuple(records), tuple(sets), tuple(_without_places(told)), now)


def _find_runs(runs: Path, names: Sequence[str]) -> list[Run]:
    found = [Run(runs / name) for name in names] or [
        Run(p.parent) for p in sorted(runs.glob("*/run.json"))
    ]
    for run in found:
        if not run.manifest():
            raise RunError(
                f"no run {run.name}",
                cause=f"there is no {run.folder}/run.json",
                fix="traitcli inspect run lists what there is",
            )
    return found


# Vectors


def _vector_sets(run: Run, held: Sequence[TraitSnapshot], config: Config) -> list[Row]:
    """The vectors that the run built last, with the rollouts that they were built from."""
    rows = []
    for trait in held:
        path = trait.last_vector
        if path and path.is_file():
            row = _vector_told(path)
            rows.append(row | _evidence(row, trait, config))
    return _group(rows, f"run {run.name}")


def _vector_told(path: Path) -> Row:
    """A vector's header, and row by row its magnitude: ‖v‖ in activation units."""
    vector = read_vector(path)
    direction = vector.directions[read_position(vector)]
    magnitudes = [round(float(value), 4) for value in np.linalg.norm(direction, axis=1)]
    told = {"method": vector.method, "versions": vector.provenance.get("versions", {})}
    built = {"filter_settings": vector.provenance.get("filter"), "direction": direction}
    named = {"trait": vector.trait, "model": vector.model, **asdict(vector.quality)}
    return named | told | built | {"layer": vector.layer, "magnitude_by_layer": magnitudes}


def _group(rows: Sequence[Row], name: str) -> list[Row]:
    """Sets of vectors of one model and shape: `name`, `model`, `vectors`, and `cosines` [trait][trait].

    Cosines of a line are at the layer of its trait.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["direction"].shape), []).append(row)
    sets = []
    for (model, _), members in groups.items():
        cosines = _cosines([row["direction"] for row in members], [row["layer"] for row in members])
        told = [{key: value for key, value in row.items() if key not in _INNER} for row in members]
        sets.append({"name": name, "model": model, "vectors": told, "cosines": cosines})
    return sets


_INNER = {"direction", "filter_settings"}


def _cosines(
    directions: Sequence[NDArray[np.float32]], layers: Sequence[int]
) -> list[list[float | None]]:
    """cos(v_i, v_j) at the layer of i; none where a vector is zero."""
    lines: list[list[float | None]] = []
    for layer in layers:
        here = np.stack([direction[layer] for direction in directions]).astype(np.float64)
        norms = np.linalg.norm(here, axis=1)
        own = len(lines)
        sizes = norms * norms[own]
        found = here @ here[own]
        lines.append(
            [round(float(f / s), 4) if s > 0 else None for f, s in zip(found, sizes, strict=True)]
        )
    return lines


def _evidence(row: Row, trait: TraitSnapshot, config: Config) -> Row:
    """What a vector was built from: scores, what the filter dropped and why, and rollouts to read.

    Nothing but a note where the run no longer holds what the vector was built from.
    """
    rollouts, judgements = trait.extraction, trait.judged_by(row["judge"])
    settings = FilterConfig.model_validate(row["filter_settings"] or config.filter.model_dump())
    selection = trait.select(row["judge"], settings)
    kept = Counter(r.polarity for r in selection.kept)
    if [kept[side] for side in POLARITIES] != [row["positive_kept"], row["negative_kept"]]:
        return {
            "note": "The run has changed since this vector was built, so its rollouts are not shown."
        }
    sides = {side: [r for r in rollouts if r.polarity == side] for side in POLARITIES}
    return {
        "histogram": {side: histogram(_scores(sides[side], judgements)) for side in POLARITIES},
        "dropped": {side: _reasons(sides[side], selection) for side in POLARITIES},
        "examples": _examples(sides, selection, judgements, trait.question),
    }


def _scores(rollouts: Iterable[Rollout], judgements: Mapping[str, Judgement]) -> list[float]:
    found = [judgements[r.id].score.value for r in rollouts if r.id in judgements]
    return [value for value in found if value is not None]


def _reasons(rollouts: Iterable[Rollout], selection: Selection) -> dict[str, int]:
    return dict(
        Counter(
            selection.dropped[r.id] for r in rollouts if r.id in selection.dropped
        ).most_common()
    )


def _examples(
    sides: Mapping[Polarity, Sequence[Rollout]],
    selection: Selection,
    judgements: Mapping[str, Judgement],
    question: Callable[[Rollout], str],
) -> list[Row]:
    """Of each polarity some kept and some dropped rollouts, drawn by lot: the lot of an id is always the same."""
    drawn = []
    for rollouts in sides.values():
        for wanted in (True, False):
            group = [r for r in rollouts if (r.id not in selection.dropped) == wanted]
            drawn += sorted(group, key=lambda r: hashlib.sha256(r.id.encode()).digest())[:EXAMPLES]
    asked = {rollout.id: question(rollout) or rollout.prompt for rollout in drawn}
    return [
        _example(rollout, selection, judgements.get(rollout.id), asked[rollout.id])
        for rollout in drawn
    ]


def _example(
    rollout: Rollout, selection: Selection, judgement: Judgement | None, question: str
) -> Row:
    score, coherence = (judgement.score, judgement.coherence) if judgement else (None, None)
    return {
        "rollout": rollout.id,
        "polarity": rollout.polarity,
        "kept": rollout.id not in selection.dropped,
        "why": selection.dropped.get(rollout.id, ""),
        "score": score.value if score else None,
        "reason": score.reason if score else "",
        "coherence": coherence.value if coherence else None,
        "question": question,
        "response": rollout.response,
        "finish_reason": rollout.finish_reason,
    }


# Runs


def _run_told(run: Run, held: Sequence[TraitSnapshot], config: Config) -> Row:
    """A run: its settings, trait by trait what is there and what it took, and the commands that made it."""
    manifest = run.manifest()
    commands = read_commands(run)
    traits = [_trait_told(trait, config, commands) for trait in held]
    used = sum((Usage(**trait["usage"]) for trait in traits), Usage())
    return {
        "name": run.name,
        "model": manifest.get("model", ""),
        "settings": _in_use(
            {**manifest.get("settings", {}), **(commands[-1]["settings"] if commands else {})}
        ),
        "traits": traits,
        "usage": asdict(used),
        "commands": commands,
    }


def _in_use(settings: Mapping[str, Any]) -> Row:
    """The settings without those of judges that were not asked."""
    backend = settings.get("judge.backend")
    others = tuple(
        f"judge.{name}." for name in ("likelihood", "openai", "local") if name != backend
    )
    return {key: value for key, value in settings.items() if not key.startswith(others)}


def _trait_told(held: TraitSnapshot, config: Config, commands: Sequence[Row]) -> Row:
    row = run_row(config, held, next(iter(held.judges), ""))
    latest = held.judged_by(row["judge"]).values()
    took: Counter[str] = Counter()
    for command in commands:
        for stage in command["took"]:
            if stage["trait"] == held.name:
                took[stage["stage"]] += stage["seconds"]
    return {
        **{key: value for key, value in row.items() if key != "vector"},
        "built": bool(row["vector"]),
        "prompt_tokens": sum(r.prompt_tokens for r in held.rollouts),
        "response_tokens": sum(r.response_tokens for r in held.rollouts),
        "missing_reasons": merge_reasons(j.score.reason for j in latest if j.score.value is None),
        "usage": asdict(held.usage),
        "seconds": {stage: round(seconds, 2) for stage, seconds in took.items()},
    }


def _without_places(value: Any) -> Any:
    """A JSON-able value without where things lie on this disk: the working folder, the home, absolute paths."""
    if isinstance(value, Mapping):
        return {key: _without_places(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_places(item) for item in value]
    if not isinstance(value, str):
        return value
    if "\n" not in value and " " not in value and Path(value).is_absolute():
        return Path(value).name
    for place, sign in ((str(Path.cwd()), "."), (str(Path.home()), "~")):
        value = value.replace(place, sign) if len(place) > 1 else value
    return value
