"""traitcli inspect"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated, Any

import typer

from traitcli.cli.options import ConfigFile, Json


class What(StrEnum):
    """Things that can be inspected."""

    vectors = "vectors"
    traits = "traits"
    run = "run"


def inspect(
    what: Annotated[What, typer.Argument(help="vectors, traits or run.")],
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME", help="Only these; for run: the run, then traits.")
    ] = None,
    config: ConfigFile = "default",
    judge: Annotated[
        str | None, typer.Option(metavar="JUDGE", help="For run: whose scores to show; a part of the name will do.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show how good vectors, definitions or a run are."""
    from rich.console import Console

    from traitcli.views import tables

    show = {"vectors": tables.vectors_table, "traits": tables.traits_table, "run": tables.run_table}[what.value]
    rows = _rows(what, names or [], config, judge)
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False))
    else:
        show(Console(), rows)


def _rows(what: What, names: list[str], config: str, judge: str | None) -> list[dict[str, Any]]:
    from traitcli.config import load_config
    from traitcli.errors import UserError
    from traitcli.runs import find_run, require_run
    from traitcli.stages import inspection
    from traitcli.vectors.files import find_vectors

    if judge is not None and what is not What.run:
        fix = "leave it out, or traitcli inspect run --judge JUDGE"
        raise UserError("--judge is for inspect run", cause=f"{what.value} have no scores to choose from", fix=fix)
    settings = load_config(config)
    if what is What.vectors:
        return [inspection.vector_row(path) for path in find_vectors(settings, names).values()]
    if what is What.traits:
        return inspection.trait_rows(settings.paths.traits, names)
    run = find_run(settings, names[0] if names else None)
    require_run(run)
    return inspection.judged_rows(run, settings, names[1:], judge)
