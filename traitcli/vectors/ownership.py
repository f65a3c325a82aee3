"""Keeps a vector of one model from being replaced by that of another."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from traitcli.config import Config
from traitcli.errors import VectorError
from traitcli.files import full_id
from traitcli.vectors.files import read_header, vector_folder


def check_owner(config: Config, traits: Sequence[str]) -> None:
    """Raise VectorError if a vector to be written would replace one of another model.

    Models whose ids end alike share a folder: runA/checkpoint-500 and runB/checkpoint-500.
    """
    own = full_id(config.model.id), config.model.revision or ""
    for trait in traits:
        path = vector_folder(config) / f"{trait}.safetensors"
        built = _owner(path) if path.is_file() else None
        if built is None or built in (own, (config.model.id, own[1])):
            continue
        shown, wanted = (" at ".join(filter(None, each)) for each in (built, own))
        folder = config.paths.vectors / re.sub(r"[^A-Za-z0-9._-]+", "-", config.model.id).strip(
            "-."
        )
        raise VectorError(
            f"{path} belongs to another model",
            cause=f"it was built from {shown}, not from {wanted}",
            fix=f"--set paths.vectors={folder}",
        )


def _owner(path: Path) -> tuple[str, str] | None:
    """The id and the revision that a vector was built from; None if its file does not say."""
    try:
        provenance = read_header(path).provenance
    except VectorError:
        return None
    settings = provenance.get("run_settings")
    # The settings say which revision was asked for; the model's own says which one was found.
    asked = settings if isinstance(settings, Mapping) else {}
    identity = provenance.get("model_identity")
    found = identity.get("id") if isinstance(identity, Mapping) else asked.get("model.id")
    return (str(found), str(asked.get("model.revision") or "")) if found else None
