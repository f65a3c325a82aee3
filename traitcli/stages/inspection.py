"""Gathers what `inspect` and `report` show: plain rows, without torch."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traitcli.config import Config
from traitcli.errors import DefinitionError, RunError, UserError
from traitcli.records import Judgement, Rollout, Trait
from traitcli.runs import Run, TraitFiles
from traitcli.shipped import find_shipped
from traitcli.stages.judge_quality import choose_judges, judge_quality, judges_by_latest
from traitcli.stages.monitor_records import find_records, read_records
from traitcli.traits import find_traits, lint_trait, load_trait, locate_traits

if TYPE_CHECKING:
    from traitcli.stages.filtering import Selection

Row = dict[str, Any]


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
                    "responses": None,
                    "source": str(path),
                    "faults": error.cause.splitlines() or [error.problem],
                }
            )
            continue
        rows.append(
            {
                "trait": trait.name,
                "pairs": None if trait.responses else len(trait.pairs),
                "questions": len(trait.questions),
                "evaluation_questions": len(trait.evaluation_questions),
                "responses": len(trait.responses) or None,
                "source": str(path),
                "faults": lint_trait(trait),
            }
        )
    return rows


def run_rows(run: Run, config: Config) -> list[Row]:
    """Trait by trait, what a run has done so far; scores are those of each trait's latest judge."""
    held = [Held.read(run, name) for name in run.trait_names()]
    return [run_row(run, config, trait, next(iter(trait.judges), "")) for trait in held]


def judged_rows(run: Run, config: Config, traits: Sequence[str] = (), judge: str | None = None) -> list[Row]:
    """`run_rows` of the named traits, of all by default, with `judge_quality`: None where nothing is judged.

    `judge` picks the judge whose scores are shown. Raises RunError for a trait or a judge that the run
    does not hold, and for a part of a name that several judges share.
    """
    held = [Held.read(run, name) for name in _named(run, traits)]
    chosen = choose_judges({trait.name: trait.judges for trait in held}, judge, run.name)
    return [
        {**run_row(run, config, trait, chosen[trait.name]), "judge_quality": _quality(trait, chosen, config)}
        for trait in held
    ]


@dataclass(frozen=True, slots=True)
class Held:
    """What a run holds of one trait, read once."""

    name: str
    files: TraitFiles
    rollouts: list[Rollout]
    judgements: list[Judgement]

    @classmethod
    def read(cls, run: Run, name: str) -> Held:
        files = run.trait(name)
        return cls(name, files, files.rollouts(), files.judgements())

    @property
    def extraction(self) -> list[Rollout]:
        return [rollout for rollout in self.rollouts if rollout.split == "extraction"]

    def judged_by(self, judge: str) -> dict[str, Judgement]:
        """Rollout id -> what this judge said of it."""
        return {made.rollout: made for made in self.judgements if made.judge == judge}

    @property
    def judges(self) -> list[str]:
        return judges_by_latest(self.judgements)


def _named(run: Run, traits: Sequence[str]) -> list[str]:
    """The traits asked for, each once; raises RunError for one that the run does not hold."""
    there = run.trait_names()
    for name in traits:
        if name not in there:
            close = difflib.get_close_matches(name, there, n=1)
            raise RunError(
                f"no trait {name} in the run {run.name}",
                cause=f"it holds {', '.join(there) or 'none'}",
                fix=f"did you mean {close[0]}?" if close else "name one of them, or none for all",
            )
    return list(dict.fromkeys(traits)) or there


def _quality(trait: Held, chosen: Mapping[str, str], config: Config) -> Row | None:
    """`judge_quality` of the chosen judge, with what judging the trait has taken, by whatever judge."""
    judge = chosen[trait.name]
    if not judge:
        return None
    quality = judge_quality(trait.rollouts, trait.judgements, judge, question_finder(trait.name, config))
    return {**quality, "usage": asdict(trait.files.usage())}


def run_row(run: Run, config: Config, trait: Held, judge: str) -> Row:
    """What a run has done of a trait, and what a judge's scores of it are worth."""
    from traitcli.judging import LABELLED
    from traitcli.stages.filtering import select_rollouts

    own = trait.judged_by(judge)
    selection = select_rollouts(trait.extraction, own, config.filter)
    return {
        "trait": trait.name,
        "rollouts_done": len(trait.rollouts),
        "rollouts_total": _planned(run, trait.name, config),
        "empty": selection.counts["empty"],
        "judge": LABELLED if selection.labelled else judge,
        "judged": sum(j.score.value is not None for j in own.values()),
        "missing": sum(j.score.value is None for j in own.values()),
        "judge_auroc": selection.judge_auroc,
        "positive_score": selection.counts["positive_score"],
        "negative_score": selection.counts["negative_score"],
        "kept_positive": _count(selection.kept, "positive") if own or selection.labelled else None,
        "kept_negative": _count(selection.kept, "negative") if own or selection.labelled else None,
        "vector": str(trait.files.last_built() or ""),
        "note": _note(trait, own, selection),
    }


def _note(trait: Held, own: Mapping[str, Judgement], selection: Selection) -> str:
    if selection.labelled:
        return selection.filter
    if own:
        return "" if selection.trusted else selection.filter
    return f"no scores by this judge; there are some by {', '.join(trait.judges)}" if trait.judges else ""


def _count(rollouts: Sequence[Rollout], polarity: str) -> int:
    return sum(r.polarity == polarity for r in rollouts)


def _planned(run: Run, name: str, config: Config) -> int | None:
    """How many rollouts the run asks of a trait, if the definition is still known."""
    from traitcli.config import ExtractConfig
    from traitcli.stages.plan import plan_rollouts

    definition = _definition(name, config)
    if definition is None:
        return None
    settings = run.manifest().get("settings", {})
    asked = {key: settings[f"extract.{key}"] for key in ("repeats", "questions", "evaluation_questions")}
    return len(plan_rollouts(definition, ExtractConfig.model_validate(asked)))


def question_finder(name: str, config: Config) -> Callable[[Rollout], str]:
    """Gives the question of a trait's rollout, "" where the definition is gone or has changed since."""
    definition = _definition(name, config)

    def question(rollout: Rollout) -> str:
        asked = definition.questions if definition and rollout.split == "extraction" else ()
        text = asked[rollout.question] if rollout.question < len(asked) else ""
        return text if text in rollout.prompt else ""

    return question


def _definition(name: str, config: Config) -> Trait | None:
    """A trait as it is defined now; none where the definition, or a file that it names, is gone."""
    path = find_traits(config.paths.traits).get(name)
    try:
        return load_trait(path) if path else None
    except DefinitionError:
        return None


def collect_records(runs: Path, names: Sequence[str]) -> list[Row]:
    """Monitoring records: the named files, else all in runs/monitor, else the example that ships.

    Records of what failed are left out. Raises UserError when a named file is no record.
    """
    paths = find_records(runs, names) or sorted(find_shipped("docs/examples").glob("*.json"))
    return [row for path in paths for row in _records_of(path) if "error" not in row]


def _records_of(path: Path) -> list[Row]:
    records = read_records(path)
    numbers = [f" {number}" if len(records) > 1 else "" for number in range(1, len(records) + 1)]
    return [{**record, "name": f"{path.stem}{number}"} for record, number in zip(records, numbers, strict=True)]
