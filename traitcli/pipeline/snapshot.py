"""Reads what a run holds of one trait once: definition, rollouts, judgements, vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from traitcli.config import Config, ExtractConfig, FilterConfig
from traitcli.errors import DefinitionError
from traitcli.judging.identity import judges_by_latest
from traitcli.pipeline.plan import plan_rollouts
from traitcli.records import Judgement, Rollout, Trait, Usage
from traitcli.runs.run import Run, TraitFiles
from traitcli.traits.definitions import find_traits, load_trait

if TYPE_CHECKING:
    from traitcli.pipeline.filtering import Selection


# Without slots, because `cached_property` needs a `__dict__`.
@dataclass(frozen=True)
class TraitSnapshot:
    """What a run holds of one trait. Read it once and pass it on: a ledger may be large.

    definition      the trait as it is defined now; None if its definition is gone
    rollouts        in the order in which they were stored
    all_judgements  every stored judgement, also those that a later one replaces
    vectors         the vector files built from this run; the last one is the current one
    """

    run: Run
    name: str
    definition: Trait | None
    rollouts: Sequence[Rollout]
    all_judgements: Sequence[Judgement]
    vectors: Sequence[Path]

    @classmethod
    def read(cls, run: Run, name: str, definition: Trait | None = None) -> TraitSnapshot:
        """Parse each ledger of a trait once."""
        files = run.trait(name)
        stored = files.rollouts(), files.all_judgements(), files.vectors()
        return cls(run, name, definition, *stored)

    @property
    def files(self) -> TraitFiles:
        """Where the ledgers and activations are."""
        return self.run.trait(self.name)

    @cached_property
    def judgements(self) -> list[Judgement]:
        """Every judge's last judgement of each rollout, in the order in which they were stored."""
        last: dict[tuple[str, str], Judgement] = {}
        for judgement in self.all_judgements:
            key = judgement.judge, judgement.rollout
            last.pop(key, None)  # a replaced judgement counts from its new position
            last[key] = judgement
        return list(last.values())

    @cached_property
    def neutral(self) -> set[str]:
        """The rollouts that have a neutral reading."""
        return self.files.neutral_ids()

    @property
    def extraction(self) -> list[Rollout]:
        """The rollouts that vectors are built from."""
        return [rollout for rollout in self.rollouts if rollout.split == "extraction"]

    @property
    def judges(self) -> list[str]:
        """The judges of this trait, latest first."""
        return judges_by_latest(self.judgements)

    @property
    def usage(self) -> Usage:
        """What all judging of this trait cost, replaced judgements included."""
        return sum((judgement.usage for judgement in self.all_judgements), Usage())

    @property
    def last_vector(self) -> Path | None:
        """The vector file that was built last from this run."""
        return self.vectors[-1] if self.vectors else None

    def judged_by(self, judge: str) -> dict[str, Judgement]:
        """One judge's last judgement of each rollout, by rollout id."""
        return {made.rollout: made for made in self.judgements if made.judge == judge}

    def select(self, judge: str, config: FilterConfig) -> Selection:
        """Apply the filter with one judge's scores."""
        from traitcli.pipeline.filtering import select_rollouts

        return select_rollouts(self.extraction, self.judged_by(judge), config)

    def question(self, rollout: Rollout) -> str:
        """The question of a rollout; "" if the definition is gone or has changed since."""
        asked = self.definition.questions if self.definition else ()
        if rollout.split != "extraction" or rollout.question >= len(asked):
            return ""
        # If the definition was edited after the rollout, its index may name another question.
        text = asked[rollout.question]
        return text if text in rollout.prompt else ""

    @property
    def planned(self) -> int | None:
        """How many rollouts the run asks for; None without a definition."""
        if self.definition is None:
            return None
        settings = self.run.manifest().get("settings", {})
        # The settings that the run was made with: the present ones may ask for another number.
        keys = ("repeats", "questions", "evaluation_questions")
        asked = {key: settings[f"extract.{key}"] for key in keys}
        # Runs of earlier versions lack it: they asked under all pairs.
        asked["pairs_per_question"] = settings.get("extract.pairs_per_question")
        return len(plan_rollouts(self.definition, ExtractConfig.model_validate(asked)))


def read_snapshots(
    run: Run, config: Config, names: Sequence[str] | None = None
) -> list[TraitSnapshot]:
    """Snapshots of the named traits of a run, all by default, with their present definitions."""
    chosen = run.trait_names() if names is None else names
    paths = find_traits(config.paths.traits)
    return [TraitSnapshot.read(run, name, _load_definition(paths.get(name))) for name in chosen]


def _load_definition(path: Path | None) -> Trait | None:
    """A run is still shown when its definition, or a file that the definition names, is gone."""
    try:
        return load_trait(path) if path else None
    except DefinitionError:
        return None
