"""traitcli calibrate"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from traitcli.cli import monitor_options as option
from traitcli.cli.options import ConfigFile, Json, Overrides, TrustRemoteCode


def calibrate(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Benign texts (JSONL, chats, CSV or plain text).")
    ],
    config: ConfigFile = "default",
    fpr: Annotated[
        str,
        typer.Option(
            metavar="RATE,RATE",
            help="False-positive rates, comma-separated (default: 1%,5%).",
            show_default=False,
        ),
    ] = "1%,5%",
    check: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Benign texts of another source: count how many exceed the thresholds.",
        ),
    ] = None,
    traits: option.Traits = None,
    vectors: option.Vectors = None,
    overrides: Overrides = None,
    as_json: Json = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Find the thresholds of alarms from benign texts, and store them beside the vectors.

    Afterwards, monitor --fail-on 'evil@fpr=1%' fails on 1 in 100 benign texts.
    """
    from traitcli.api.vector_source import VectorSource
    from traitcli.cli.calibration import Calibration, parse_rates
    from traitcli.cli.monitor import split_names
    from traitcli.config import load_config

    rates = parse_rates(fpr)
    settings = load_config(config, overrides or ())
    source = VectorSource(settings, vectors, split_names(traits), layer=None)
    Calibration(source, rates, as_json=as_json, trust=trust_remote_code).run(file, check)
