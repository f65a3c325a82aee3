"""The stages of a run: checks settings, does what is missing, gathers the results."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from traitcli.api.trait_names import check_trait_names
from traitcli.config import Config, Override, load_config
from traitcli.errors import JudgeError
from traitcli.events import Event, Listener, RunFinished, RunStarted, Stage, TraitFailed, Warned
from traitcli.output_paths import check_output_folder
from traitcli.pipeline.ledgers import RunLedgers
from traitcli.records import Trait
from traitcli.runs.run import Run, check_run, find_run, lock_run, require_run, start_run
from traitcli.traits.definitions import select_traits
from traitcli.vectors.ownership import check_owner, hiding_notes

if TYPE_CHECKING:
    from traitcli.models.loaded import LoadedModel
    from traitcli.scheduling.placement import DeviceRequest, Placement


_COMMANDS = {"judgements": "judge", "vectors": "build-vector"}
"""Last stage -> the command, unless it is extract."""


@dataclass(frozen=True, slots=True)
class Work:
    """What extract, judge and build-vector do, with all settings checked.

    loaded  the model, if it is in memory already
    """

    config: Config
    traits: tuple[Trait, ...]
    run: Run
    ledgers: RunLedgers
    stages: tuple[Stage, ...]
    trust: bool = False
    loaded: LoadedModel | None = None

    @classmethod
    def prepare(
        cls,
        config: str,
        overrides: Sequence[str | Override],
        traits: Sequence[str],
        run: str | None,
        stages: tuple[Stage, ...],
    ) -> Work:
        """Read config and traits; raises UserError before the first second of compute."""
        settings = load_config(config, overrides)
        found = find_run(settings, run)
        generates = "rollouts" in stages
        command = "extract" if generates else _COMMANDS[stages[-1]]
        check_trait_names(settings, found, traits, command)
        if not generates:
            require_run(found)

        # Without rollouts to generate, "all traits" means those that the run has.
        names = traits or settings.traits or (() if generates else found.trait_names())
        chosen = tuple(select_traits(settings.paths.traits, names))
        return cls(settings, chosen, found, RunLedgers(found, chosen), stages)

    def do(self, request: DeviceRequest, listener: Listener) -> list[TraitFailed]:
        """Do what is missing, under the run's lock; returns what failed.

        Events go to `listener` and to the run's log. Raises TraitError when nothing can be done.
        """
        placement = self.check(request)
        with lock_run(self.run):
            # Inside the lock, because another command may be writing the manifest.
            start_run(self.run, self.config, self.traits)
            return self._run_stages(placement, listener)

    def check(self, request: DeviceRequest) -> Placement:
        """Choose devices, and raise TraitError if the work cannot be done as asked."""
        from traitcli.pipeline.estimate import check_judge
        from traitcli.scheduling.devices import choose_placement
        from traitcli.scheduling.placement import Placement

        if self.loaded:
            placement = Placement((self.config.model.device,))
        else:
            placement = choose_placement(request, self.config.model)
        self.check_folders()
        if "vectors" in self.stages:
            check_owner(self.config, [trait.name for trait in self.traits])
        # Only when rollouts are planned: judge alone scores what is stored, and its run exists.
        if {"rollouts", "judgements"} <= set(self.stages):
            check_judge(self.traits, self.config, self.ledgers)
        # Before the lock, which creates the folder: a refused command must not leave an empty run.
        check_run(self.run, self.config, self.traits)
        return placement

    def check_folders(self) -> None:
        """Raise UserError if the results cannot be written; hours of work would be lost."""
        check_output_folder(self.config.paths.runs, "--set paths.runs=FOLDER")
        if "vectors" in self.stages:
            check_output_folder(self.config.paths.vectors, "--set paths.vectors=FOLDER")

    def _run_stages(self, placement: Placement, listener: Listener) -> list[TraitFailed]:
        from traitcli.pipeline.trait_pipeline import Job
        from traitcli.runs.command_log import CommandLog
        from traitcli.scheduling import run_jobs
        from traitcli.views.words import usage_text

        # The log gets the events that the view gets, so no stage has to know of it.
        log = CommandLog(self.run, self.config, self.stages)
        jobs = [Job(trait, self.config, self.ledgers, self.stages) for trait in self.traits]
        usage_before, started = self.ledgers.usage(), time.monotonic()

        def show(event: Event) -> None:
            listener(event)
            log.listen(event)

        with log:
            show(self._start_event(placement))
            if "vectors" in self.stages:
                hiding = hiding_notes(self.config, [trait.name for trait in self.traits])
                for trait, note in hiding.items():
                    show(Warned(trait, note))
            try:
                failures = run_jobs(jobs, placement, show, self.trust, self.loaded)
            except JudgeError:
                # It ends here without RunFinished, which would show what the judge has cost.
                if used := usage_text(self.ledgers.usage() - usage_before):
                    show(Warned("", f"judge usage before this error: {used}"))
                raise
            seconds, usage = time.monotonic() - started, self.ledgers.usage() - usage_before
            folder = str(self.run.folder)
            show(RunFinished(self.run.name, folder, seconds, len(failures), usage))
        return failures

    def _start_event(self, placement: Placement) -> RunStarted:
        from traitcli.pipeline.estimate import count_todo

        names = tuple(trait.name for trait in self.traits)
        # The device that auto stands for is known, and shown, when the model is loaded.
        devices = tuple(device for device in placement.devices if device != "auto")
        notes = (*placement.notes, *self._notes())
        todo = count_todo(self.traits, self.config, self.ledgers, self.stages)
        return RunStarted(self.run.name, str(self.run.folder), names, devices, notes, todo)

    def missing(self) -> dict[str, int]:
        """Trait -> the number of rollouts that are still to be generated."""
        from traitcli.pipeline.estimate import count_missing

        if "rollouts" not in self.stages:
            return {}
        return {
            trait.name: count_missing(trait, self.config, self.ledgers) for trait in self.traits
        }

    def outcome(self, failures: Sequence[TraitFailed]) -> dict[str, Any]:
        """What the stages gave, trait by trait (JSON-able)."""
        from traitcli.inspection.run_rows import snapshot_rows
        from traitcli.inspection.vector_rows import built_rows

        names = {trait.name for trait in self.traits}
        chosen = [self.ledgers.trait(name).snapshot for name in sorted(names)]
        everything = [trait.snapshot for trait in self.ledgers.all_traits]
        # Cosines are between all vectors of the run, not only those of this command.
        vectors = [row for row in built_rows(everything) if row["trait"] in names]
        return {
            "run": str(self.run.folder),
            "traits": snapshot_rows(chosen, self.config),
            "vectors": vectors,
            "failures": [asdict(failure) for failure in failures],
        }

    def _notes(self) -> list[str]:
        """Limits of the results: a reduced question set, a judge that gives no coherence."""
        extract = self.config.extract
        notes: list[str] = []
        if all(trait.responses for trait in self.traits):
            return notes  # labelled responses are neither generated nor judged

        if "rollouts" in self.stages and extract.questions is not None:
            held_out = extract.evaluation_questions
            notes.append(
                f"reduced set: {extract.questions} extraction and "
                f"{'all' if held_out is None else held_out} evaluation questions per trait"
            )
        if self.config.judge.backend == "likelihood" and "judgements" in self.stages:
            notes.append("the likelihood judge needs no API key and gives no coherence score")
        return notes
