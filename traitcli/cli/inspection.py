"""traitcli inspect: how good vectors, trait definitions, a run or a model are."""

from __future__ import annotations

from typing import Annotated

import typer

from traitcli.cli.hub import PullFrom, pull
from traitcli.cli.inspect_labels import labels
from traitcli.cli.inspect_methods import methods
from traitcli.cli.inspect_model import model
from traitcli.cli.inspect_steering import steering
from traitcli.cli.options import ConfigFile, Json, JudgeName, Overrides, RunName, Traits, Verbose
from traitcli.cli.output import show

inspect = typer.Typer(
    help="Check the quality of vectors, trait definitions, a run or a model.", no_args_is_help=True
)


@inspect.command()
def vectors(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TRAIT|FILE",
            help="Traits by name, or vector files of any supported format "
            "(default: all with vectors).",
        ),
    ] = None,
    config: ConfigFile = "default",
    pull_from: PullFrom = None,
    verbose: Verbose = False,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Exit with code 1 unless every vector reads its own texts or carries over.",
        ),
    ] = False,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Show how far each vector can be trusted, and why."""
    from functools import partial
    from pathlib import Path

    from traitcli.config import load_config
    from traitcli.inspection.vector_rows import vector_rows
    from traitcli.vectors.ownership import owner_notes
    from traitcli.vectors.verdict import SHOWN
    from traitcli.views.tables.vectors import vectors_table

    settings = load_config(config, overrides or ())
    pulled = [str(path) for path in pull(settings, pull_from, names or ())] if pull_from else None
    # After a pull only the pulled vectors are shown, not all that the model has.
    rows = vector_rows(settings, pulled or names or [])
    for note in owner_notes(settings, [Path(row["path"]) for row in rows]):
        typer.echo(f"warning: {note}", err=True)
    show(rows, partial(vectors_table, verbose=verbose), as_json)
    # After the table, which says what is wrong with each vector.
    if strict and any(row["verdict"] not in SHOWN for row in rows):
        raise typer.Exit(1)


@inspect.command()
def traits(
    names: Traits = None,
    config: ConfigFile = "default",
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Check trait definitions for faults."""
    from traitcli.config import load_config
    from traitcli.inspection.trait_rows import trait_rows
    from traitcli.views.tables.runs import traits_table

    settings = load_config(config, overrides or ())
    show(trait_rows(settings.paths.traits, names or []), traits_table, as_json)


@inspect.command()
def run(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="TRAIT", help="Traits of the run, by name (default: all)."),
    ] = None,
    config: ConfigFile = "default",
    run: RunName = None,
    judge: JudgeName = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Show the progress of a run and the reliability of its judge."""
    from traitcli.api.trait_names import check_trait_names
    from traitcli.config import load_config
    from traitcli.inspection.run_rows import judged_rows
    from traitcli.runs.run import find_run, require_run
    from traitcli.views.tables.runs import run_table

    settings = load_config(config, overrides or ())
    found = find_run(settings, run)
    # First: the config's run may not exist, and that error would hide the real mistake.
    check_trait_names(settings, found, names or (), "inspect run")
    require_run(found)
    show(judged_rows(found, settings, names or [], judge), run_table, as_json)


inspect.command()(methods)
inspect.command()(labels)
inspect.command()(steering)
inspect.command()(model)
