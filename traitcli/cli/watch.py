"""Loads what monitor needs, and shows the generation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

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
        raise UserError("the prompt is empty", fix='traitcli monitor "What is the capital of France?"')
    vectors = [read_vector(path) for path in find_vectors(config, names).values()]

    from traitcli.models.load import load_model
    from traitcli.stages.monitor import make_probes, monitor, record_path, to_json
    from traitcli.views import open_monitor_view, open_view

    with open_view() as view:
        loaded = load_model(config.model, view.show, trust)
    probes = make_probes(vectors, loaded, config.vector.position, layer)
    opened: AbstractContextManager[Any] = nullcontext() if as_json else open_monitor_view()
    with opened as view:
        listen = view.show if view else lambda event: None
        scores = monitor(loaded, probes, prompt, config.monitor, out or record_path(config.paths.runs, prompt), listen)
    if as_json:
        typer.echo(json.dumps(to_json(scores), ensure_ascii=False))
