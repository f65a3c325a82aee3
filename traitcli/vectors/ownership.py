"""Says whose place a vector takes: that of another model's, or of a shipped one."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from traitcli.config import Config
from traitcli.errors import VectorError
from traitcli.files import full_id
from traitcli.shipped import find_shipped
from traitcli.vectors.files import read_header, vector_folder


def check_owner(config: Config, traits: Sequence[str]) -> None:
    """Raise VectorError if a vector to be written would replace one of another model.

    Models whose ids end alike share a folder: runA/checkpoint-500 and runB/checkpoint-500.
    """
    for trait in traits:
        path = vector_folder(config) / f"{trait}.safetensors"
        if path.is_file() and (models := _other_model(config, path)):
            folder = re.sub(r"[^A-Za-z0-9._-]+", "-", config.model.id).strip("-.")
            raise VectorError(
                f"{path} belongs to another model",
                cause=f"it was built from {models[0]}, not from {models[1]}",
                fix=f"--set paths.vectors={config.paths.vectors / folder}",
            )


def owner_notes(config: Config, paths: Sequence[Path]) -> list[str]:
    """A sentence for each vector in the folder of the config's model that is of another model."""
    notes = []
    for path in paths:
        if path.parent == vector_folder(config) and (models := _other_model(config, path)):
            notes.append(f"{path} was built from {models[0]}, not from {models[1]}")
    return notes


def hiding_notes(config: Config, traits: Sequence[str]) -> dict[str, str]:
    """Trait -> a sentence, for each vector to be written that is found before a shipped one."""
    notes = {}
    for trait in traits:
        own = vector_folder(config) / f"{trait}.safetensors"
        shipped = find_shipped("vectors") / config.model.name / own.name
        if shipped.is_file() and shipped.resolve() != own.resolve():
            notes[trait] = f"{own} hides the shipped vector; remove the file to get that one back"
    return notes


def _other_model(config: Config, path: Path) -> tuple[str, str] | None:
    """The model that a vector was built from and the config's, if they are not the same."""
    own, typed = full_id(config.model.id), config.model.id
    revision = config.model.revision or ""
    built = _owner(path)
    if built is None or (built.revision == revision and {own, typed} & {built.id, built.typed}):
        return None
    shown = " at ".join(filter(None, (built.id, built.revision)))
    return shown, " at ".join(filter(None, (own, revision)))


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
