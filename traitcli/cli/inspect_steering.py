"""traitcli inspect steering"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from traitcli.cli.options import (
    ConfigFile,
    Json,
    Layer,
    MaxCost,
    MaxNewTokens,
    NoCache,
    Overrides,
    RunName,
    Seed,
    TrustRemoteCode,
    judge_overrides,
    parse_layer,
)
from traitcli.errors import UserError
from traitcli.output_paths import check_output_folder

if TYPE_CHECKING:
    from traitcli.config import Config
    from traitcli.events import Stage
    from traitcli.records import Polarity, Trait, TraitVector
    from traitcli.steering.sweep_plan import Sweep

Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="TRAIT", help="Traits, by name or definition file (default: all with vectors)."
    ),
]
Doses = Annotated[
    str | None,
    typer.Option(
        metavar="D,D",
        help="Doses to try; a dose is coefficient · ‖vector‖ / ‖hidden state‖ "
        "(default: -0.8,-0.4,-0.2,0,0.2,0.4,0.6,0.8,1).",
    ),
]
Coefficients = Annotated[
    str | None,
    typer.Option(metavar="C,C", help="Coefficients to try, instead of --doses."),
]
Questions = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Number of evaluation questions (default: all)."),
]
Brake = Annotated[
    list[str] | None,
    typer.Option(
        metavar="WAY",
        help="Another way of steering to try too, for example evil=ablate, 'evil<=0' or "
        "'evil=-2 if evil>0'. Can be repeated.",
    ),
]
Persona = Annotated[
    str | None,
    typer.Option(
        metavar="SIDE",
        help="Ask the questions under personas: positive or negative (default: no persona).",
    ),
]
Show = Annotated[bool, typer.Option("--show", help="Show one answer for each coefficient.")]


def steering(
    names: Names = None,
    config: ConfigFile = "default",
    run: RunName = None,
    doses: Doses = None,
    coefficients: Coefficients = None,
    questions: Questions = None,
    max_new_tokens: MaxNewTokens = None,
    layer: Layer = "auto",
    brake: Brake = None,
    persona: Persona = None,
    seed: Seed = None,
    show: Show = False,
    max_cost: MaxCost = None,
    no_cache: NoCache = False,
    overrides: Overrides = None,
    as_json: Json = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Measure how far each vector steers before answers break.

    Answers evaluation questions under several steering coefficients, judges the answers, and
    stores everything in the run's folder. Needs vectors; needs no rollouts.
    """
    from functools import partial

    # Under another name, because `show` is an option of this command.
    from traitcli.cli.output import show as print_out
    from traitcli.config import Override, load_config
    from traitcli.steering.sweep_plan import DOSES, Sweep
    from traitcli.views.tables.steering import steering_table

    if doses is not None and coefficients is not None:
        raise UserError(
            "--doses and --coefficients cannot be used together",
            cause="a dose is a coefficient in other units",
            fix="keep one of them",
        )

    changes = judge_overrides(overrides, max_cost, no_cache)
    if max_new_tokens is not None:
        key = f"extract.sampling.max_new_tokens={max_new_tokens}"
        changes.append(Override(key, f"--max-new-tokens {max_new_tokens}"))
    settings = load_config(config, changes)
    sweep = Sweep(
        sampling=settings.extract.sampling,
        doses=DOSES if doses is None else _numbers("--doses", doses),
        coefficients=() if coefficients is None else _numbers("--coefficients", coefficients),
        questions=questions,
        layer=parse_layer(layer),
        seed=settings.extract.seed if seed is None else seed,
        brakes=tuple(brake or ()),
        persona=_parse_persona(persona),
    )
    rows = _run_sweeps(settings, names or (), run, sweep, trust_remote_code)
    print_out(rows, partial(steering_table, show=show), as_json)


def _run_sweeps(
    config: Config, names: Sequence[str], run_name: str | None, sweep: Sweep, trust: bool
) -> list[dict[str, Any]]:
    """Do the missing steps of each trait's sweep. Returns one row for each trait.

    Holds the run's lock, so no other command writes to the run meanwhile.
    """
    from contextlib import closing

    from traitcli.api.steering_sweep import TraitSweep
    from traitcli.events import RunStarted
    from traitcli.pipeline.worker_context import Worker
    from traitcli.runs.run import find_run, lock_run
    from traitcli.steering.sweep_file import steering_budget
    from traitcli.vectors.files import load_vectors
    from traitcli.views import open_view

    # Everything that can be wrong with names, vectors and budget is found before the model loads.
    check_output_folder(config.paths.runs, "--set paths.runs=FOLDER")
    run, (traits, vectors) = find_run(config, run_name), _choose(config, names)
    if sweep.brakes:
        # A brake may name any trait that has a vector.
        vectors = {**load_vectors(config), **vectors}
    budget = steering_budget(config, run, traits)
    with lock_run(run), open_view() as view:
        worker = Worker(config, config.model.device, view.show, trust, budget)
        # An endpoint's connections are closed also when a sweep fails.
        with closing(worker.judge):
            sweeps = [TraitSweep(trait, vectors, sweep, run, worker, view.show) for trait in traits]

            todo = sum(one.todo for one in sweeps)
            # A finished sweep is only read; then there is no run to announce.
            if todo:
                swept, folder = tuple(trait.name for trait in traits), str(run.folder)
                # An answer that is missing has no score either.
                stages: dict[Stage, int] = {"rollouts": todo, "judgements": todo}
                view.show(RunStarted(run.name, folder, swept, (), todo=stages, builds=False))
            return [one.run() for one in sweeps]


def _choose(config: Config, names: Sequence[str]) -> tuple[list[Trait], Mapping[str, TraitVector]]:
    """The named traits, else the config's, else all that have a vector; and their vectors."""
    from traitcli.traits.definitions import select_traits
    from traitcli.vectors.files import find_vectors, load_vectors

    asked = list(names or config.traits)
    traits = select_traits(config.paths.traits, asked or list(find_vectors(config)))
    if not asked:
        # A trait of labelled responses has no judge prompt, so its answers cannot be scored.
        traits = [trait for trait in traits if not trait.responses]
    # All are read before the first sweep: a missing vector must not cost hours of judging.
    return traits, load_vectors(config, [trait.name for trait in traits])


def _parse_persona(text: str | None) -> Polarity | None:
    from traitcli.records import POLARITIES

    if text is None:
        return None
    for side in POLARITIES:
        if text == side:
            return side
    raise UserError(
        f"invalid --persona {text}",
        cause=f"the sides are {' and '.join(POLARITIES)}",
        fix="--persona positive",
    )


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(
            f"invalid {option} {text}",
            cause="expected numbers, separated by commas",
            fix=f"{option}=-0.4,0,0.4",
        ) from None
