"""Gathers the rows of `inspect run` and `inspect judge`: what a run holds of each trait."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from traitcli.config import Config
from traitcli.errors import RunError, suggest
from traitcli.inspection.judge_quality import judge_quality
from traitcli.judging import LABELLED
from traitcli.judging.identity import choose_judges
from traitcli.pipeline.snapshot import TraitSnapshot, read_snapshots
from traitcli.records import Judgement, Rollout
from traitcli.runs.run import Run

if TYPE_CHECKING:
    from traitcli.pipeline.filtering import Selection

Row = dict[str, Any]


def run_rows(run: Run, config: Config) -> list[Row]:
    """One row for each trait of a run, with the scores of the trait's latest judge."""
    return snapshot_rows(read_snapshots(run, config), config)


def snapshot_rows(snapshots: Sequence[TraitSnapshot], config: Config) -> list[Row]:
    """The same as `run_rows`, for traits that were read before."""
    return [run_row(config, trait, next(iter(trait.judges), "")) for trait in snapshots]


def judged_rows(
    run: Run, config: Config, traits: Sequence[str] = (), judge: str | None = None
) -> list[Row]:
    """The rows of `run_rows`, each with `judge_quality`, or None if nothing is judged.

    Args:
        run: The run to read.
        config: Finds the definitions, and sets the filter.
        traits: Traits by name (default: all of the run).
        judge: The judge's id, or a part of it (default: each trait's latest judge).

    Raises RunError for a trait or judge that the run does not have, and for a part of an id that
    several judges share.
    """
    snapshots = read_snapshots(run, config, _check_names(run, traits))
    judges = {trait.name: trait.judges for trait in snapshots}
    chosen = choose_judges(judges, judge, run.name)
    rows = []
    for trait in snapshots:
        row = run_row(config, trait, chosen[trait.name])
        rows.append(row | {"judge_quality": _quality(trait, chosen[trait.name])})
    return rows


def _check_names(run: Run, traits: Sequence[str]) -> list[str]:
    """The requested traits without repetitions, or else all; raises RunError for an unknown one."""
    known = run.trait_names()
    for name in traits:
        if name not in known:
            raise RunError(
                f"no trait {name} in the run {run.name}",
                cause=f"it has {', '.join(known) or 'none'}",
                fix=suggest(name, known) or "name one of them, or leave the name out for all",
            )
    return list(dict.fromkeys(traits)) or known


def _quality(trait: TraitSnapshot, judge: str) -> Row | None:
    """The judge's quality, and what all judges of the trait together cost."""
    if not judge:
        return None
    quality = judge_quality(trait.rollouts, trait.judgements, judge, trait.question)
    return {**quality, "usage": asdict(trait.usage)}


def run_row(config: Config, trait: TraitSnapshot, judge: str) -> Row:
    """A trait's progress, and what the filter keeps of it by one judge's scores."""
    own = trait.judged_by(judge)
    selection = trait.select(judge, config.filter)
    # Without any label or score the filter keeps all, which would look like a result.
    is_selected = bool(own) or selection.labelled

    has_value = [judgement.score.value is not None for judgement in own.values()]
    return {
        "trait": trait.name,
        "rollouts_done": len(trait.rollouts),
        "rollouts_total": trait.planned,
        "empty": selection.counts["empty"],
        "judge": LABELLED if selection.labelled else judge,
        "judged": has_value.count(True),
        "missing": has_value.count(False),
        "judge_auroc": selection.judge_auroc,
        "positive_score": selection.counts["positive_score"],
        "negative_score": selection.counts["negative_score"],
        "kept_positive": _count(selection.kept, "positive") if is_selected else None,
        "kept_negative": _count(selection.kept, "negative") if is_selected else None,
        "vector": str(trait.last_vector or ""),
        "note": _note(trait, own, selection),
    }


def _note(trait: TraitSnapshot, own: Mapping[str, Judgement], selection: Selection) -> str:
    if selection.labelled:
        return selection.filter
    # A judge at chance does not filter, which changes what the counts mean.
    if own:
        return "" if selection.trusted else selection.filter
    # Another judge has scored this trait, so the empty columns would look like a loss.
    if trait.judges:
        return f"this judge has no scores; scored by {', '.join(trait.judges)}"
    return ""


def _count(rollouts: Sequence[Rollout], polarity: str) -> int:
    return sum(rollout.polarity == polarity for rollout in rollouts)
