"""Loads what monitor needs, and shows the generation."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import typer

from traitcli.config import Config
from traitcli.errors import UserError
from traitcli.vectors.files import find_vectors, read_vector


def watch(
    prompt: str,
    config: Config,
    names: Sequence[str],
    layer: int | None,
    out: Path | None,
    *,
    as_json: bool,
    trust: bool,
) -> None:
    """Generate an answer under the monitor's view; the record goes to `out` or runs/monitor/."""
    if not prompt.strip():
        raise UserError(
            "the prompt is empty", cause="there is nothing to answer", fix='traitcli monitor "What should I read?"'
        )
    prompt = prompt.encode("utf-8", "replace").decode()  # bytes of the shell's that are no text
    vectors = [read_vector(path) for path in find_vectors(config, names).values()]

    from traitcli.models.load import load_model
    from traitcli.stages.monitor import make_probes, monitor, record_path, to_json
    from traitcli.views import open_monitor_view
    from traitcli.views.plain import PlainMonitorView

    path = out or record_path(config.paths.runs, prompt)
    # With --json stdout holds the record alone; notes and warnings go to stderr all the same.
    with PlainMonitorView(StringIO(), sys.stderr) if as_json else open_monitor_view() as view:
        loaded = load_model(config.model, view.show, trust)
        probes = make_probes(vectors, loaded, config.vector.position, layer)
        scores = monitor(loaded, probes, prompt, config.monitor, path, view.show)
    if as_json:
        typer.echo(json.dumps(to_json(scores), ensure_ascii=False))
