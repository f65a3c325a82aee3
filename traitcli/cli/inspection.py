"""traitcli inspect: how good vectors, definitions or a run are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from traitcli.cli.hub import PullFrom, pull
from traitcli.cli.inspect_steering import steering
from traitcli.cli.options import ConfigFile, Json, Overrides, RunName, Traits
from traitcli.cli.output import show

if TYPE_CHECKING:
    pass


inspect = typer.Typer(help="Show how good vectors, definitions or a run are.", no_args_is_help=True)


@inspect.command()
def vectors(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TRAIT|FILE", help="Traits, all by default, or files of any format."
        ),
    ] = None,
    config: ConfigFile = "default",
    pull_from: PullFrom = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show every row of every vector.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 when any is not good.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say how far each vector can be trusted, and why."""
    from functools import partial

    from traitcli.config import load_config
    from traitcli.inspection.vector_rows import vector_rows
    from traitcli.views.tables.vectors import vectors_table

    settings = load_config(config)
    pulled = [str(path) for path in pull(settings, pull_from, names or ())] if pull_from else None
    rows = vector_rows(settings, pulled or names or [])
    show(rows, partial(vectors_table, verbose=verbose), as_json)
    if strict and any(row["verdict"] != "good" for row in rows):
        raise typer.Exit(1)


@inspect.command()
def traits(names: Traits = None, config: ConfigFile = "default", as_json: Json = False) -> None:
    """Check trait definitions."""
    from traitcli.config import load_config
    from traitcli.inspection.trait_rows import trait_rows
    from traitcli.views.tables.runs import traits_table

    show(trait_rows(load_config(config).paths.traits, names or []), traits_table, as_json)


@inspect.command()
def run(
    name: Annotated[
        str | None, typer.Argument(metavar="RUN", help="The run; the config's by default.")
    ] = None,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="TRAIT", help="Traits of it; all by default.")
    ] = None,
    config: ConfigFile = "default",
    judge: Annotated[
        str | None,
        typer.Option(metavar="JUDGE", help="Whose scores to show; a part of the name will do."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what a run has done, and how far its judge can be believed."""
    from traitcli.config import load_config
    from traitcli.inspection.run_rows import judged_rows
    from traitcli.runs.run import find_run, require_run
    from traitcli.views.tables.runs import run_table

    settings = load_config(config)
    found = find_run(settings, name)
    require_run(found)
    show(judged_rows(found, settings, names or [], judge), run_table, as_json)


@inspect.command()
def methods(
    names: Traits = None,
    config: ConfigFile = "default",
    run: RunName = None,
    judge: Annotated[
        str | None,
        typer.Option(metavar="JUDGE", help="Whose scores filter; a part of the name will do."),
    ] = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Compare ways to make a vector, on what a run has stored."""
    from rich.console import Console
    from rich.text import Text

    from traitcli.config import load_config
    from traitcli.inspection.compare_methods import compare_methods
    from traitcli.runs.run import find_run, require_run
    from traitcli.traits.definitions import select_traits
    from traitcli.views.tables.vectors import methods_table

    settings = load_config(config, overrides or ())
    found = find_run(settings, run)
    require_run(found)
    chosen = select_traits(settings.paths.traits, names or settings.traits or found.trait_names())
    with Console(stderr=True).status("") as status:
        rows = compare_methods(
            found, chosen, settings, judge, lambda step: status.update(Text(f"{step} …"))
        )
    show(rows, methods_table, as_json)


inspect.command()(steering)
