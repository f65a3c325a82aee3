"""traitcli inspect steering"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from traitcli.cli.options import ConfigFile, Json, Overrides, RunName, TrustRemoteCode
from traitcli.errors import UserError

if TYPE_CHECKING:
    from traitcli.config import Config
    from traitcli.records import Trait, TraitVector
    from traitcli.steering.sweep import Sweep

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="TRAIT", help="Traits; all that have a vector by default."),
]
Doses = Annotated[
    str | None,
    typer.Option(
        metavar="D,D",
        help="Push by coefficient · ‖vector‖ / ‖state‖; -0.8,-0.4,-0.2,0,0.2,0.4,0.6,0.8,1 by default.",
    ),
]
Coefficients = Annotated[
    str | None, typer.Option(metavar="C,C", help="Push by so many times the vector, instead.")
]
Questions = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Evaluation questions to ask; all by default."),
]
Tokens = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="The longest answer; as extracted by default."),
]
Layer = Annotated[
    int | None, typer.Option(metavar="K", help="The layer to push; the vector's own by default.")
]
Seed = Annotated[int | None, typer.Option(metavar="N", min=0, help="Draw other answers.")]
Show = Annotated[bool, typer.Option("--show", help="Show an answer under each coefficient.")]


def steering(
    names: Names = None,
    config: ConfigFile = "default",
    run: RunName = None,
    doses: Doses = None,
    coefficients: Coefficients = None,
    questions: Questions = None,
    tokens: Tokens = None,
    layer: Layer = None,
    seed: Seed = None,
    show: Show = False,
    overrides: Overrides = None,
    as_json: Json = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Say how far each vector can push answers before they fall apart.

    Answers evaluation questions under several coefficients, has the judge score what was written, and keeps all of
    it in the run's folder. Needs a vector, and no extraction.
    """
    from functools import partial

    from traitcli.cli.output import show as print_out
    from traitcli.config import load_config
    from traitcli.steering.sweep import DOSES, Sweep
    from traitcli.views.tables.steering import steering_table

    if doses is not None and coefficients is not None:
        raise UserError(
            "--doses and --coefficients",
            cause="a dose is a coefficient in other units",
            fix="give one",
        )
    changes = [f"extract.sampling.max_new_tokens={tokens}"] if tokens is not None else []
    settings = load_config(config, [*(overrides or ()), *changes])
    sweep = Sweep(
        sampling=settings.extract.sampling,
        doses=DOSES if doses is None else _numbers("--doses", doses),
        coefficients=() if coefficients is None else _numbers("--coefficients", coefficients),
        questions=questions,
        layer=layer,
        seed=settings.extract.seed if seed is None else seed,
    )
    rows = _carry_out(settings, names or (), run, sweep, trust_remote_code)
    print_out(rows, partial(steering_table, show=show), as_json)


def _carry_out(
    config: Config, names: Sequence[str], run: str | None, sweep: Sweep, trust: bool
) -> list[dict[str, Any]]:
    """Do what is missing, while no other command writes to the run; a row for each trait."""
    from contextlib import closing

    from traitcli.events import RunStarted
    from traitcli.pipeline.worker_context import Worker
    from traitcli.runs.run import find_run, hold_run
    from traitcli.steering.sweep import TraitSweep, steering_budget
    from traitcli.views import open_view

    place, chosen = find_run(config, run), _choose(config, names)
    budget = steering_budget(config, place, [trait for trait, _ in chosen])
    with hold_run(place), open_view() as view:
        worker = Worker(config, config.model.device, view.show, trust, budget)
        with closing(worker.judge):
            sweeps = [
                TraitSweep(trait, vector, sweep, place, worker, view.show)
                for trait, vector in chosen
            ]
            todo, traits = sum(one.todo for one in sweeps), tuple(one.trait.name for one in sweeps)
            if todo:
                view.show(
                    RunStarted(place.name, str(place.folder), traits, (), todo=todo, builds=False)
                )
            return [one.run() for one in sweeps]


def _choose(config: Config, names: Sequence[str]) -> list[tuple[Trait, TraitVector]]:
    """The traits asked for, else those of the config, else all that have a vector and can be judged."""
    from traitcli.traits.definitions import select_traits
    from traitcli.vectors.files import find_vectors, load_vectors

    asked = names or config.traits
    traits = select_traits(config.paths.traits, list(asked or find_vectors(config)))
    judged = [trait for trait in traits if asked or not trait.responses]
    vectors = load_vectors(config, [trait.name for trait in judged])
    return [(trait, vectors[trait.name]) for trait in judged]


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(
            f"{option} {text} is no list of numbers",
            cause="commas stand between them",
            fix=f"{option}=-0.4,0,0.4",
        ) from None
