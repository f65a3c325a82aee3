"""traitcli inspect labels"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from traitcli.cli import monitor_options as option
from traitcli.cli.options import ConfigFile, Json, LabelKey, Overrides, TrustRemoteCode


def labels(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Labelled answers (JSONL, chats or CSV)."),
    ],
    trait: Annotated[
        str, typer.Option("--trait", metavar="TRAIT", help="The trait that the labels are about.")
    ],
    config: ConfigFile = "default",
    label: LabelKey = None,
    by: Annotated[
        str | None,
        typer.Option("--by", metavar="KEY", help="Compare within each value of this key too."),
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option("--keep", metavar="NAME", help="Store the result beside the vector."),
    ] = None,
    no_ask: Annotated[
        bool, typer.Option("--no-ask", help="Do not ask the model yes or no about each answer.")
    ] = False,
    vectors: option.Vectors = None,
    overrides: Overrides = None,
    as_json: Json = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Measure how well a vector separates labelled answers of another source."""
    from traitcli.api.vector_source import VectorSource
    from traitcli.cli.labelled_answers import LabelledComparison
    from traitcli.config import load_config
    from traitcli.monitoring.labelled_answers import LABEL

    settings = load_config(config, overrides or ())
    source = VectorSource(settings, vectors, (trait,), layer=None)
    compared = LabelledComparison(source, trait, asks=not no_ask, trust=trust_remote_code)
    compared.run(file, (label or LABEL, by), keep, as_json=as_json)
