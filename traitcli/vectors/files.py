"""Keeps vectors: safetensors with everything, and the bare-tensor .pt known from persona-vectors."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from traitcli.config import Config
from traitcli.errors import VectorError
from traitcli.files import write_atomic
from traitcli.records import POSITIONS, ClassStats, Position, TraitVector
from traitcli.shipped import find_shipped

_FORMAT = 1
_HEADER = {"trait", "model", "method", "layer", "quality", "provenance"}
_STATS = [field.name for field in fields(ClassStats)]


def vector_folder(config: Config) -> Path:
    """Where this model's vectors are written."""
    return config.paths.vectors / config.model.name


def find_vectors(config: Config, names: Sequence[str] = ()) -> dict[str, Path]:
    """Trait -> file: the user's own vectors of this model, else those that come with traitcli.

    Raises VectorError when there are none, or none of a name asked for.
    """
    found: dict[str, Path] = {}
    for folder in (find_shipped("vectors") / config.model.name, vector_folder(config)):
        found |= {path.stem: path for path in sorted(folder.glob("*.safetensors"))}
    missing = [name for name in names if name not in found]
    fix = f"make {'it' if len(missing) == 1 else 'them'} with: traitcli extract {' '.join(missing)}".rstrip()
    return _named(found, names, f" for {config.model.name}", str(vector_folder(config)), fix)


def load_vectors(source: Config | Path | str, names: Sequence[str] = ()) -> dict[str, TraitVector]:
    """Trait -> vector: those of a config's model (the user's own, else the shipped ones), or of a folder.

    Raises VectorError when there are none, or none of a name asked for.
    """
    if isinstance(source, Config):
        paths = find_vectors(source, names)
    else:
        there = {path.stem: path for path in sorted(Path(source).glob("*.safetensors"))}
        paths = _named(there, names, "", str(source), "name the folder that holds TRAIT.safetensors")
    return {name: read_vector(path) for name, path in paths.items()}


def write_vector(folder: Path, vector: TraitVector) -> Path:
    """Write `<trait>.safetensors`, and beside it `<trait>_<position>_diff.pt`; returns the first."""
    import torch
    from safetensors.numpy import save

    tensors: dict[str, Any] = {str(position): direction for position, direction in vector.directions.items()}
    for position, stats in vector.stats.items():
        tensors |= {f"{position}.{name}": getattr(stats, name) for name in _STATS}
    header = {
        "format": _FORMAT,
        "trait": vector.trait,
        "model": vector.model,
        "method": vector.method,
        "layer": vector.layer,
        "final_norm_row": vector.rows - 1,
        "quality": vector.quality,
        "provenance": vector.provenance,
    }
    path = folder / f"{vector.trait}.safetensors"
    for position, direction in vector.directions.items():
        buffer = io.BytesIO()
        torch.save(torch.from_numpy(direction), buffer)
        write_atomic(folder / f"{vector.trait}_{position}_diff.pt", buffer.getvalue())
    write_atomic(path, save(tensors, metadata={"traitcli": json.dumps(header, ensure_ascii=False)}))
    return path


def read_header(path: Path) -> dict[str, Any]:
    """What a vector file says of itself, without its tensors."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            header = json.loads((file.metadata() or {}).get("traitcli", "null"))
    except FileNotFoundError:
        raise VectorError(f"no vector file {path}", cause="there is no such file", fix="check the path") from None
    except (SafetensorError, ValueError, OSError) as error:
        raise VectorError(f"{path} is no trait vector", cause=str(error), fix=_REMAKE) from None
    if not isinstance(header, dict):
        raise VectorError(f"{path} is no trait vector", cause="traitcli did not write it", fix=_REMAKE)
    if header.get("format") != _FORMAT or not header.keys() >= _HEADER:
        raise VectorError(f"{path} is of another format", cause=f"expected format {_FORMAT}", fix=_REMAKE)
    return header


def read_vector(path: Path) -> TraitVector:
    """Read a vector file; raises VectorError when it is not one."""
    from safetensors.numpy import load_file

    header = read_header(path)
    tensors = load_file(path)
    directions: dict[Position, Any] = {p: tensors[p] for p in POSITIONS if p in tensors}
    stats = {
        p: ClassStats(*(tensors[f"{p}.{name}"] for name in _STATS)) for p in directions if f"{p}.{_STATS[0]}" in tensors
    }
    if not directions:
        raise VectorError(f"{path} holds no direction", cause=f"none of {', '.join(POSITIONS)}", fix=_REMAKE)
    return TraitVector(**{key: header[key] for key in _HEADER}, directions=directions, stats=stats)


def _named(found: Mapping[str, Path], names: Sequence[str], whose: str, place: str, fix: str) -> dict[str, Path]:
    missing = [name for name in names if name not in found]
    if missing or not found:
        raise VectorError(
            f"no vector of {', '.join(missing) or 'any trait'}{whose}",
            cause=f"looked in {place}" + (f"; there are: {', '.join(found)}" if found else ""),
            fix=fix,
        )
    return {name: found[name] for name in (names or found)}


_REMAKE = "make it anew with traitcli build-vector"
