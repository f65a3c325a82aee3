"""traitcli inspect model: what a model is, and whether traitcli reads it correctly."""

from __future__ import annotations

import typer

from traitcli.cli.options import ConfigFile, Json, Overrides, TrustRemoteCode
from traitcli.cli.output import show


def model(
    config: ConfigFile = "default",
    overrides: Overrides = None,
    trust_remote_code: TrustRemoteCode = False,
    as_json: Json = False,
) -> None:
    """Show what a model is and whether it is read correctly.

    Exits with code 1 if scores would be wrong.
    """
    from rich.console import Console
    from rich.text import Text

    from traitcli.config import load_config
    from traitcli.inspection.model_rows import model_row
    from traitcli.models.load import open_model
    from traitcli.views.tables.model import model_table

    settings = load_config(config, overrides or ())
    with Console(stderr=True).status(Text(f"loading {settings.model.name} …")):
        loaded = open_model(settings.model, trust_remote_code=trust_remote_code, thorough=True)
    row = model_row(loaded, settings.model.id)
    show([row], model_table, as_json)
    if row["problem"]:
        raise typer.Exit(1)
