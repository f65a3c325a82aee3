"""Gathers what `inspect` and `report` show: plain rows, without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from traitcli.config import Config
from traitcli.errors import RunError, suggest
from traitcli.inspection.judge_quality import judge_quality
from traitcli.judging.identity import choose_judges
from traitcli.pipeline.snapshot import TraitSnapshot, read_snapshots
from traitcli.records import Judgement, Rollout
from traitcli.runs.run import Run

if TYPE_CHECKING:
    from traitcli.pipeline.filtering import Selection

Row = dict[str, Any]


def run_rows(run: Run, config: Config) -> list[Row]:
    """Trait by trait, what a run has done so far; scores are those of each trait's latest judge."""
    return snapshot_rows(read_snapshots(run, config), config)


def snapshot_rows(snapshots: Sequence[TraitSnapshot], config: Config) -> list[Row]:
    """As `run_rows`, of traits that are read already."""
    return [run_row(config, trait, next(iter(trait.judges), "")) for trait in snapshots]


def judged_rows(
    run: Run, config: Config, traits: Sequence[str] = (), judge: str | None = None
) -> list[Row]:
    """`run_rows` of the named traits, of all by default, with `judge_quality`: None where nothing is judged.

    `judge` picks the judge whose scores are shown. Raises RunError for a trait or a judge that the run
    does not hold, and for a part of a name that several judges share.
    """
    held = read_snapshots(run, config, _named(run, traits))
    chosen = choose_judges({trait.name: trait.judges for trait in held}, judge, run.name)
    return [
        {
            **run_row(config, trait, chosen[trait.name]),
            "judge_quality": _quality(trait, chosen),
        }
        for trait in held
    ]


def _named(run: Run, traits: Sequence[str]) -> list[str]:
    """The traits asked for, each once; raises RunError for one that the run does not hold."""
    there = run.trait_names()
    for name in traits:
        if name not in there:
            raise RunError(
                f"no trait {name} in the run {run.name}",
                cause=f"it holds {', '.join(there) or 'none'}",
                fix=suggest(name, there) or "name one of them, or none for all",
            )
    return list(dict.fromkeys(traits)) or there


def _quality(trait: TraitSnapshot, chosen: Mapping[str, str]) -> Row | None:
    """`judge_quality` of the chosen judge, with what judging the trait has taken, by whatever judge."""
    judge = chosen[trait.name]
    if not judge:
        return None
    quality = judge_quality(trait.rollouts, trait.judgements, judge, trait.question)
    return {**quality, "usage": asdict(trait.usage)}


def run_row(config: Config, trait: TraitSnapshot, judge: str) -> Row:
    """What a run has done of a trait, and what a judge's scores of it are worth."""
    from traitcli.judging import LABELLED

    own = trait.judged_by(judge)
    selection = trait.select(judge, config.filter)
    return {
        "trait": trait.name,
        "rollouts_done": len(trait.rollouts),
        "rollouts_total": trait.planned,
        "empty": selection.counts["empty"],
        "judge": LABELLED if selection.labelled else judge,
        "judged": sum(j.score.value is not None for j in own.values()),
        "missing": sum(j.score.value is None for j in own.values()),
        "judge_auroc": selection.judge_auroc,
        "positive_score": selection.counts["positive_score"],
        "negative_score": selection.counts["negative_score"],
        "kept_positive": _count(selection.kept, "positive") if own or selection.labelled else None,
        "kept_negative": _count(selection.kept, "negative") if own or selection.labelled else None,
        "vector": str(trait.last_vector or ""),
        "note": _note(trait, own, selection),
    }


def _note(trait: TraitSnapshot, own: Mapping[str, Judgement], selection: Selection) -> str:
    if selection.labelled:
        return selection.filter
    if own:
        return "" if selection.trusted else selection.filter
    return (
        f"no scores by this judge; there are some by {', '.join(trait.judges)}"
        if trait.judges
        else ""
    )


def _count(rollouts: Sequence[Rollout], polarity: str) -> int:
    return sum(r.polarity == polarity for r in rollouts)
