"""Gathers what `inspect` and `report` show: plain rows, without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from traitcli.config import Config
from traitcli.errors import RunError, UserError
from traitcli.records import Judgement, Rollout
from traitcli.runs import Run
from traitcli.shipped import find_shipped
from traitcli.traits import find_traits, lint_trait, load_trait, locate_traits
from traitcli.vectors.files import read_header

Row = dict[str, Any]


def vector_row(path: Path) -> Row:
    """A vector's header as one flat row."""
    header = read_header(path)
    return {"trait": header["trait"], "model": header["model"], "path": str(path), **header["quality"]}


def trait_rows(folder: Path, names: Sequence[str]) -> list[Row]:
    """What the definitions hold and what a careful reader objects to; an invalid one is a row too."""
    rows: list[Row] = []
    for path in locate_traits(folder, names):
        try:
            trait = load_trait(path)
        except UserError as error:
            rows.append(
                {
                    "trait": path.stem,
                    "pairs": None,
                    "questions": None,
                    "evaluation_questions": None,
                    "source": str(path),
                    "faults": error.cause.splitlines() or [error.problem],
                }
            )
            continue
        rows.append(
            {
                "trait": trait.name,
                "pairs": len(trait.pairs),
                "questions": len(trait.questions),
                "evaluation_questions": len(trait.evaluation_questions),
                "source": str(path),
                "faults": lint_trait(trait),
            }
        )
    return rows


def run_rows(run: Run, config: Config) -> list[Row]:
    """Trait by trait, what a run has done so far; scores are those of each trait's latest judge."""
    return [_run_row(run, name, config) for name in run.trait_names()]


def _run_row(run: Run, name: str, config: Config) -> Row:
    from traitcli.stages.filtering import select_rollouts

    files = run.trait(name)
    rollouts = files.rollouts()
    extraction = [r for r in rollouts if r.split == "extraction"]
    judgements = files.judgements()
    latest = judgements[-1].judge if judgements else ""
    own: Mapping[str, Judgement] = {j.rollout: j for j in judgements if j.judge == latest}
    selection = select_rollouts(extraction, own, config.filter)
    return {
        "trait": name,
        "rollouts_done": len(rollouts),
        "rollouts_total": _planned(run, name, config),
        "empty": selection.counts["empty"],
        "judge": latest,
        "judged": sum(j.score.value is not None for j in own.values()),
        "missing": sum(j.score.value is None for j in own.values()),
        "judge_auroc": selection.judge_auroc,
        "positive_score": selection.counts["positive_score"],
        "negative_score": selection.counts["negative_score"],
        "kept_positive": _count(selection.kept, "positive") if own else None,
        "kept_negative": _count(selection.kept, "negative") if own else None,
        "vector": str(files.last_built() or ""),
        "note": selection.filter if own and not selection.trusted else "",
    }


def _count(rollouts: Sequence[Rollout], polarity: str) -> int:
    return sum(r.polarity == polarity for r in rollouts)


def _planned(run: Run, name: str, config: Config) -> int | None:
    """How many rollouts the run asks of a trait, if the definition is still known."""
    from traitcli.config import ExtractConfig
    from traitcli.stages.plan import plan_rollouts

    path = find_traits(config.paths.traits).get(name)
    if path is None:
        return None
    settings = run.manifest().get("settings", {})
    asked = {key: settings[f"extract.{key}"] for key in ("repeats", "questions", "evaluation_questions")}
    return len(plan_rollouts(load_trait(path), ExtractConfig.model_validate(asked)))


def collect_records(runs: Path, names: Sequence[str]) -> list[Row]:
    """Monitoring records: the named files, else all in runs/monitor, else the example that ships.

    Raises UserError when a named file is no record.
    """
    paths = [Path(name) for name in names] or sorted((runs / "monitor").glob("*.json"), reverse=True)
    paths = paths or sorted(find_shipped("docs/examples").glob("*.json"))
    return [record for path in paths for record in _read_records(path)]


def _read_records(path: Path) -> list[Row]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read the record {path}", cause=str(error), fix="name a file that traitcli monitor wrote"
        ) from None
    records = content if isinstance(content, list) else [content]
    for record in records:
        if (
            not isinstance(record, dict)
            or "tokens" not in record
            or not ({"trait_scores", "projections"} & set(record))
        ):
            raise UserError(
                f"{path} is no monitoring record",
                cause="it lacks tokens or trait_scores",
                fix="name a file that traitcli monitor wrote",
            )
    return [{**record, "name": path.stem} for record in records]


def collect_vectors(runs: Path, names: Sequence[str], shipped: Config) -> list[Row]:
    """Rows of the vectors that the named runs built last (all runs, if none is named), else the shipped ones.

    Raises RunError for a name that is no run.
    """
    folders = [runs / name for name in names] or sorted(path.parent for path in runs.glob("*/run.json"))
    rows = []
    for folder in folders:
        run = Run(folder)
        if not run.manifest():
            raise RunError(
                f"no run {run.name}",
                cause=f"there is no {folder}/run.json",
                fix="traitcli inspect run lists what there is",
            )
        for trait in run.trait_names():
            path = run.trait(trait).last_built()
            rows += [vector_row(path)] if path and path.is_file() else []
    if rows or names:
        return rows
    return [vector_row(path) for path in sorted((find_shipped("vectors") / shipped.model.name).glob("*.safetensors"))]
