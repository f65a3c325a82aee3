"""traitcli report"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="RUN", help="Runs by name, records by file; all by default.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Where the page goes; runs/report.html.")] = None,
) -> None:
    """Put records and vectors into one HTML file.

    Prints the file's path on stdout.
    """
    from datetime import datetime

    from traitcli.config import load_config
    from traitcli.stages.inspection import collect_records, collect_vectors
    from traitcli.views.report import write_report

    settings = load_config()
    files = [name for name in runs or [] if name.endswith((".json", ".jsonl"))]
    records = collect_records(settings.paths.runs, files)
    vectors = collect_vectors(settings.paths.runs, [name for name in runs or [] if name not in files], settings)
    path = out or settings.paths.runs / "report.html"
    write_report(path, records, vectors, datetime.now().astimezone().isoformat(timespec="seconds"))
    typer.echo(path)
