"""What extract, judge and build-vector share: checks settings, runs stages, prints results."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import typer

from traitcli.cli.trait_names import check_trait_names
from traitcli.config import Config, Override, load_config
from traitcli.errors import JudgeError
from traitcli.events import Event, RunFinished, RunStarted, Stage, TraitFailed, Warned
from traitcli.output_paths import check_output_folder
from traitcli.pipeline.ledgers import RunLedgers
from traitcli.records import Trait
from traitcli.runs.run import Run, check_run, find_run, lock_run, require_run, start_run
from traitcli.traits.definitions import select_traits
from traitcli.vectors.ownership import check_owner

if TYPE_CHECKING:
    from traitcli.scheduling.placement import DeviceRequest, Placement


_COMMANDS = {"judgements": "judge", "vectors": "build-vector"}
"""Last stage -> the command, unless it is extract."""


@dataclass(frozen=True, slots=True)
class Work:
    """The checked settings of a command: its config, traits, run and stages."""

    config: Config
    traits: tuple[Trait, ...]
    run: Run
    ledgers: RunLedgers
    stages: tuple[Stage, ...]

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


def do_work(
    work: Work,
    request: DeviceRequest,
    as_json: bool,
    trust: bool = False,
    afterwards: Callable[[Collection[str]], Mapping[str, Any]] = lambda failed: {},
) -> None:
    """Run the stages under a view and the run's lock; exit with code 1 when a trait failed.

    `afterwards` gets the names of the failed traits, and returns more keys for the JSON output.
    """
    from traitcli.pipeline.estimate import check_judge
    from traitcli.scheduling.devices import choose_placement

    placement = choose_placement(request, work.config.model)
    _check_folders(work)
    if "vectors" in work.stages:
        check_owner(work.config, [trait.name for trait in work.traits])
    # Only when rollouts are planned: judge alone scores what is stored, and its run exists.
    if {"rollouts", "judgements"} <= set(work.stages):
        check_judge(work.traits, work.config, work.ledgers)
    # Before the lock, which creates the folder: a refused command must not leave an empty run.
    check_run(work.run, work.config, work.traits)
    with lock_run(work.run):
        # Inside the lock, because another command may be writing the manifest.
        start_run(work.run, work.config, work.traits)
        failures = _run_stages(work, placement, trust)

    # Outside of the lock: a slow upload must not keep other commands from the run.
    more = afterwards({failure.trait for failure in failures})
    if as_json:
        typer.echo(json.dumps({**_outcome(work, failures), **more}))
    if failures:
        # The view has shown each failure already.
        raise typer.Exit(1)


def _check_folders(work: Work) -> None:
    """Raise UserError if the results cannot be written; hours of work would be lost."""
    check_output_folder(work.config.paths.runs, "--set paths.runs=FOLDER")
    if "vectors" in work.stages:
        check_output_folder(work.config.paths.vectors, "--set paths.vectors=FOLDER")


def _run_stages(work: Work, placement: Placement, trust: bool) -> list[TraitFailed]:
    from traitcli.pipeline.trait_pipeline import Job
    from traitcli.runs.command_log import CommandLog
    from traitcli.scheduling import run_jobs
    from traitcli.views import open_view
    from traitcli.views.words import usage_text

    run = work.run
    # The log gets the events that the view gets, so no stage has to know of it.
    log = CommandLog(run, work.config, work.stages)
    jobs = [Job(trait, work.config, work.ledgers, work.stages) for trait in work.traits]
    usage_before, started = work.ledgers.usage(), time.monotonic()
    with open_view() as view, log:

        def show(event: Event) -> None:
            view.show(event)
            log.listen(event)

        show(_start_event(work, placement))
        try:
            failures = run_jobs(jobs, placement, show, trust)
        except JudgeError:
            # The command ends here without RunFinished, which would show what the judge has cost.
            if used := usage_text(work.ledgers.usage() - usage_before):
                show(Warned("", f"judge usage before this error: {used}"))
            raise
        seconds, usage = time.monotonic() - started, work.ledgers.usage() - usage_before
        show(RunFinished(run.name, str(run.folder), seconds, len(failures), usage))
    return failures


def _start_event(work: Work, placement: Placement) -> RunStarted:
    from traitcli.pipeline.estimate import count_todo

    names = tuple(trait.name for trait in work.traits)
    # The device that auto stands for is known, and shown, when the model is loaded.
    devices = tuple(device for device in placement.devices if device != "auto")
    notes = (*placement.notes, *_notes(work))
    todo = count_todo(work.traits, work.config, work.ledgers, work.stages)
    return RunStarted(work.run.name, str(work.run.folder), names, devices, notes, todo)


def show_plan(work: Work, request: DeviceRequest, as_json: bool, trust: bool = False) -> None:
    """Print what would be done, on which devices, and its cost; run nothing.

    Raises ModelError when the model does not fit the devices, after the plan is printed.
    """
    from rich.console import Console

    from traitcli.pipeline.estimate import plan_rows
    from traitcli.scheduling.devices import choose_placement
    from traitcli.scheduling.memory_check import first_device, measure_fit, refuse_unfit
    from traitcli.scheduling.partition import plan_partitions
    from traitcli.views.tables.runs import plan_table, workers_table

    # A plan that the real command would refuse is of no use.
    _check_folders(work)
    check_run(work.run, work.config, work.traits)
    placement = choose_placement(request, work.config.model)
    rows = plan_rows(work.traits, work.config, work.ledgers, trust, first_device(placement))
    fits = measure_fit(work.config, placement, trust)

    partitions = plan_partitions(_missing(work), len(placement.devices))
    workers = [
        {
            "worker": number,
            "device": fit.device,
            "needed_mb": round(fit.needed / 2**20),
            "found_mb": None if fit.found is None else round(fit.found / 2**20),
            "partitions": list(map(asdict, own)),
        }
        for number, (fit, own) in enumerate(zip(fits, partitions, strict=True))
    ]

    if as_json:
        plan = {
            "run": str(work.run.folder),
            "model": work.config.model.name,
            "plan": rows,
            "workers": workers,
            "notes": placement.notes,
        }
        typer.echo(json.dumps(plan))
    else:
        plan_table(Console(), rows)
        workers_table(Console(), workers, placement.notes)
    # Last, because the printed plan shows how much memory each worker lacks.
    refuse_unfit(work.config, fits)


def _missing(work: Work) -> dict[str, int]:
    """Trait -> the number of rollouts that are still to be generated."""
    from traitcli.pipeline.estimate import count_missing

    if "rollouts" not in work.stages:
        return {}
    return {trait.name: count_missing(trait, work.config, work.ledgers) for trait in work.traits}


def _outcome(work: Work, failures: Sequence[TraitFailed]) -> dict[str, Any]:
    from traitcli.inspection.run_rows import snapshot_rows
    from traitcli.inspection.vector_rows import built_rows

    names = {trait.name for trait in work.traits}
    chosen = [work.ledgers.trait(name).snapshot for name in sorted(names)]
    everything = [trait.snapshot for trait in work.ledgers.all_traits]
    # Cosines are between all vectors of the run, not only those of this command.
    vectors = [row for row in built_rows(everything) if row["trait"] in names]
    return {
        "run": str(work.run.folder),
        "traits": snapshot_rows(chosen, work.config),
        "vectors": vectors,
        "failures": [asdict(failure) for failure in failures],
    }


def _notes(work: Work) -> list[str]:
    """Limits of the results: a reduced question set, a judge that gives no coherence."""
    extract = work.config.extract
    notes: list[str] = []
    if all(trait.responses for trait in work.traits):
        return notes  # labelled responses are neither generated nor judged

    if "rollouts" in work.stages and extract.questions is not None:
        held_out = extract.evaluation_questions
        notes.append(
            f"reduced set: {extract.questions} extraction and "
            f"{'all' if held_out is None else held_out} evaluation questions per trait"
        )
    if work.config.judge.backend == "likelihood" and "judgements" in work.stages:
        notes.append("the likelihood judge needs no API key and gives no coherence score")
    return notes
