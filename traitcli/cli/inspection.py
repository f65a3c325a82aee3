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
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Only these; for run: the run.")] = None,
    config: ConfigFile = "default",
    as_json: Json = False,
) -> None:
    """Show how good vectors, definitions or a run are."""
    from rich.console import Console

    from traitcli.views import tables

    show = {"vectors": tables.vectors_table, "traits": tables.traits_table, "run": tables.run_table}[what.value]
    rows = _rows(what, names or [], config)
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False))
    else:
        show(Console(), rows)


def _rows(what: What, names: list[str], config: str) -> list[dict[str, Any]]:
    from traitcli.config import load_config
    from traitcli.runs import find_run, require_run
    from traitcli.stages import inspection
    from traitcli.vectors.files import find_vectors

    settings = load_config(config)
    if what is What.vectors:
        return [inspection.vector_row(path) for path in find_vectors(settings, names).values()]
    if what is What.traits:
        return inspection.trait_rows(settings.paths.traits, names)
    run = find_run(settings, names[0] if names else None)
    require_run(run)
    return inspection.run_rows(run, settings)
