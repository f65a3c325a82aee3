"""What extract, judge and build-vector share: settings become jobs, jobs become an outcome."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import typer

from traitcli.config import Config, load_config
from traitcli.errors import JudgeError
from traitcli.events import Event, RunFinished, RunStarted, Stage, TraitFailed, Warned
from traitcli.pipeline.ledgers import RunLedgers
from traitcli.records import Trait
from traitcli.runs.run import Run, check_run, find_run, hold_run, require_run, start_run
from traitcli.traits.definitions import select_traits

if TYPE_CHECKING:
    from traitcli.scheduling.placement import DeviceRequest, Placement


@dataclass(frozen=True, slots=True)
class Work:
    """Everything checked, nothing begun."""

    config: Config
    traits: tuple[Trait, ...]
    run: Run
    ledgers: RunLedgers
    stages: tuple[Stage, ...]

    @classmethod
    def prepare(
        cls,
        config: str,
        overrides: Sequence[str],
        traits: Sequence[str],
        run: str | None,
        stages: tuple[Stage, ...],
    ) -> Work:
        """Read config and traits; raises UserError before the first second of compute."""
        settings = load_config(config, overrides)
        place = find_run(settings, run)
        if "rollouts" not in stages:
            require_run(place)
        names = traits or settings.traits or (() if "rollouts" in stages else place.trait_names())
        chosen = tuple(select_traits(settings.paths.traits, names))
        return cls(settings, chosen, place, RunLedgers(place, chosen), stages)


def carry_out(
    work: Work,
    wish: DeviceRequest,
    as_json: bool,
    trust: bool = False,
    then: Callable[[Collection[str]], Mapping[str, Any]] = lambda failed: {},
) -> None:
    """Do the work under a view, while no other command does; exit code 1 when a trait failed.

    `then` is told which traits failed, and gives what else the JSON holds.
    """
    from traitcli.scheduling.devices import choose_site

    site = choose_site(wish, work.config.model)
    check_run(work.run, work.config, work.traits)
    with hold_run(work.run):
        start_run(work.run, work.config, work.traits)
        failures = _carry_out(work, site, trust)
    _finish(work, failures, as_json, then({failure.trait for failure in failures}))


def _carry_out(work: Work, site: Placement, trust: bool) -> list[TraitFailed]:
    from traitcli.pipeline.trait_pipeline import Job
    from traitcli.runs.command_log import CommandLog
    from traitcli.scheduling import run_jobs
    from traitcli.views import open_view
    from traitcli.views.words import usage_text

    journal = CommandLog(work.run, work.config, work.stages)
    jobs = [Job(trait, work.config, work.ledgers, work.stages) for trait in work.traits]
    before = work.ledgers.usage()
    start, names = time.monotonic(), tuple(trait.name for trait in work.traits)
    with open_view() as view, journal:

        def tell(event: Event) -> None:
            view.show(event)
            journal.listen(event)

        known = tuple(
            place for place in site.places if place != "auto"
        )  # what auto is, the loaded model tells
        notes = (*site.notes, *_notes(work))
        todo = sum(_missing(work).values())
        tell(RunStarted(work.run.name, str(work.run.folder), names, known, notes, todo))
        try:
            failures = run_jobs(jobs, site, tell, trust)
        except JudgeError:
            if told := usage_text(work.ledgers.usage() - before):
                tell(Warned("", f"until then the judge took {told}"))
            raise
        seconds, used = time.monotonic() - start, work.ledgers.usage() - before
        tell(RunFinished(work.run.name, str(work.run.folder), seconds, len(failures), used))
    return failures


def show_plan(work: Work, wish: DeviceRequest, as_json: bool, trust: bool = False) -> None:
    """Print what would be done, where, and what it takes; run nothing. Raises ModelError when it cannot fit."""
    from rich.console import Console

    from traitcli.pipeline.estimate import plan_rows
    from traitcli.scheduling.devices import choose_site
    from traitcli.scheduling.memory_check import measure_fit, refuse_unfit
    from traitcli.scheduling.partition import assign
    from traitcli.views.tables.runs import places_table, plan_table

    check_run(work.run, work.config, work.traits)
    site = choose_site(wish, work.config.model)
    rows = plan_rows(work.traits, work.config, work.ledgers, trust)
    fits = measure_fit(work.config, site, trust)
    shares = assign(_missing(work), len(site.places))
    places = [
        {
            "worker": number,
            "device": fit.place,
            "needed_mb": round(fit.needed / 2**20),
            "found_mb": None if fit.found is None else round(fit.found / 2**20),
            "shares": [asdict(share) for share in mine],
        }
        for number, (fit, mine) in enumerate(zip(fits, shares, strict=True))
    ]
    if as_json:
        plan = {
            "run": str(work.run.folder),
            "model": work.config.model.name,
            "plan": rows,
            "workers": places,
        }
        typer.echo(json.dumps(plan | {"notes": site.notes}))
    else:
        plan_table(Console(), rows)
        places_table(Console(), places, site.notes)
    refuse_unfit(work.config, fits)


def _missing(work: Work) -> dict[str, int]:
    """Rollouts of each trait that are to be made."""
    from traitcli.pipeline.estimate import count_missing

    asked = work.traits if "rollouts" in work.stages else ()
    return {trait.name: count_missing(trait, work.config, work.ledgers) for trait in asked}


def _finish(
    work: Work, failures: Sequence[TraitFailed], as_json: bool, more: Mapping[str, Any]
) -> None:
    """Tell how it ended: JSON on stdout, the exit code; the view has told the failures."""
    if as_json:
        typer.echo(json.dumps({**_outcome(work, failures), **more}))
    if failures:
        raise typer.Exit(1)


def _outcome(work: Work, failures: Sequence[TraitFailed]) -> dict[str, Any]:
    from traitcli.inspection.run_rows import snapshot_rows
    from traitcli.inspection.vector_rows import built_rows

    names = {trait.name for trait in work.traits}
    chosen = [work.ledgers.trait(name).snapshot for name in sorted(names)]
    everything = [trait.snapshot for trait in work.ledgers.all_traits]
    return {
        "run": str(work.run.folder),
        "traits": snapshot_rows(chosen, work.config),
        "vectors": [row for row in built_rows(everything) if row["trait"] in names],
        "failures": [asdict(failure) for failure in failures],
    }


def _notes(work: Work) -> list[str]:
    """What a reader should know of a run that is smaller than the definitions allow."""
    asked = work.config.extract
    notes: list[str] = []
    if all(trait.responses for trait in work.traits):
        return notes  # nothing is generated or judged
    if "rollouts" in work.stages and asked.questions is not None:
        held_out = "all" if asked.evaluation_questions is None else asked.evaluation_questions
        notes.append(
            f"reduced set: {asked.questions} extraction and {held_out} evaluation questions a trait"
        )
    if work.config.judge.backend == "likelihood" and "judgements" in work.stages:
        notes.append("the likelihood judge needs no key and gives no coherence score")
    return notes
