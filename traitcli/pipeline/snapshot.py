"""Reads what a run holds of one trait once: definition, rollouts, judgements, selection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from traitcli.config import Config
from traitcli.errors import DefinitionError
from traitcli.judging.identity import judges_by_latest
from traitcli.records import Judgement, Rollout, Trait
from traitcli.runs.run import Run, TraitFiles
from traitcli.traits.definitions import find_traits, load_trait

if TYPE_CHECKING:
    pass


@dataclass(frozen=True, slots=True)
class TraitSnapshot:
    """What a run holds of one trait, read once."""

    name: str
    files: TraitFiles
    rollouts: list[Rollout]
    judgements: list[Judgement]

    @classmethod
    def read(cls, run: Run, name: str) -> TraitSnapshot:
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


def planned_rollouts(run: Run, name: str, config: Config) -> int | None:
    """How many rollouts the run asks of a trait, if the definition is still known."""
    from traitcli.config import ExtractConfig
    from traitcli.pipeline.plan import plan_rollouts

    definition = _definition(name, config)
    if definition is None:
        return None
    settings = run.manifest().get("settings", {})
    asked = {
        key: settings[f"extract.{key}"] for key in ("repeats", "questions", "evaluation_questions")
    }
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
