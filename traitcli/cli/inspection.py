"""traitcli inspect: how good vectors, definitions or a run are."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from traitcli.cli.options import ConfigFile, Json, Traits

if TYPE_CHECKING:
    from rich.console import Console

Rows = Sequence[dict[str, Any]]

inspect = typer.Typer(help="Show how good vectors, definitions or a run are.", no_args_is_help=True)


@inspect.command()
def vectors(
    names: Annotated[list[str] | None, typer.Argument(metavar="TRAIT", help="Traits; all by default.")] = None,
    config: ConfigFile = "default",
    as_json: Json = False,
) -> None:
    """Say how far each vector can be trusted."""
    from traitcli.config import load_config
    from traitcli.stages.inspection import vector_row
    from traitcli.vectors.files import find_vectors
    from traitcli.views.tables import vectors_table

    settings = load_config(config)
    show([vector_row(path) for path in find_vectors(settings, names or []).values()], vectors_table, as_json)


@inspect.command()
def traits(names: Traits = None, config: ConfigFile = "default", as_json: Json = False) -> None:
    """Check trait definitions."""
    from traitcli.config import load_config
    from traitcli.stages.inspection import trait_rows
    from traitcli.views.tables import traits_table

    show(trait_rows(load_config(config).paths.traits, names or []), traits_table, as_json)


@inspect.command()
def run(
    name: Annotated[str | None, typer.Argument(metavar="RUN", help="The run; the config's by default.")] = None,
    names: Annotated[list[str] | None, typer.Argument(metavar="TRAIT", help="Traits of it; all by default.")] = None,
    config: ConfigFile = "default",
    judge: Annotated[
        str | None, typer.Option(metavar="JUDGE", help="Whose scores to show; a part of the name will do.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what a run has done, and how far its judge can be believed."""
    from traitcli.config import load_config
    from traitcli.runs import find_run, require_run
    from traitcli.stages.inspection import judged_rows
    from traitcli.views.tables import run_table

    settings = load_config(config)
    found = find_run(settings, name)
    require_run(found)
    show(judged_rows(found, settings, names or [], judge), run_table, as_json)


def show(rows: Rows, table: Callable[[Console, Rows], None], as_json: bool) -> None:
    """Print rows, as JSON or as a table."""
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False))
        return
    from rich.console import Console

    table(Console(), rows)
