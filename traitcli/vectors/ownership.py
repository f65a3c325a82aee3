"""Keeps a vector of one model from being replaced by that of another."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from traitcli.config import Config
from traitcli.errors import VectorError
from traitcli.files import full_id
from traitcli.vectors.files import read_header, vector_folder


def check_owner(config: Config, traits: Sequence[str]) -> None:
    """Raise VectorError if a vector to be written would replace one of another model.

    Models whose ids end alike share a folder: runA/checkpoint-500 and runB/checkpoint-500.
    """
    own, typed = full_id(config.model.id), config.model.id
    revision = config.model.revision or ""
    for trait in traits:
        path = vector_folder(config) / f"{trait}.safetensors"
        built = _owner(path) if path.is_file() else None
        if built is None or (built.revision == revision and {own, typed} & {built.id, built.typed}):
            continue
        shown = " at ".join(filter(None, (built.id, built.revision)))
        wanted = " at ".join(filter(None, (own, revision)))
        folder = config.paths.vectors / re.sub(r"[^A-Za-z0-9._-]+", "-", config.model.id).strip(
            "-."
        )
        raise VectorError(
            f"{path} belongs to another model",
            cause=f"it was built from {shown}, not from {wanted}",
            fix=f"--set paths.vectors={folder}",
        )


@dataclass(frozen=True, slots=True)
class _Owner:
    """The model that a vector was built from.

    typed  the id as the config had it: a folder that was moved has another path, and the same id
    """

    id: str
    typed: str
    revision: str


def _owner(path: Path) -> _Owner | None:
    """Who owns a vector; None if its file does not say."""
    try:
        provenance = read_header(path).provenance
    except VectorError:
        return None
    settings = provenance.get("run_settings")
    # The settings say which revision was asked for; the model's own says which one was found.
    asked = settings if isinstance(settings, Mapping) else {}
    identity = provenance.get("model_identity")
    typed = str(asked.get("model.id") or "")
    found = str(identity.get("id") or "") if isinstance(identity, Mapping) else typed
    return _Owner(found, typed, str(asked.get("model.revision") or "")) if found else None
