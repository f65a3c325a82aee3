"""Keeps vectors: safetensors with everything, and the bare-tensor .pt known from persona-vectors."""

from __future__ import annotations

import io
import json
import stat
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from traitcli.config import Config
from traitcli.errors import VectorError
from traitcli.files import parse_json, write_atomic
from traitcli.records import POSITIONS, ClassStats, Position, TraitVector
from traitcli.shipped import find_shipped
from traitcli.vectors.verdict import quality_fault

MAX_ROWS, MAX_HIDDEN, MAX_NUMBERS = 1024, 65536, 2**24
"""What is read as a vector at most: the largest open models have 127 rows of 16,384."""
MAX_BYTES = 2**30
"""No larger file is opened as a vector."""
_MAX_HEADER = 2**22
"""Bytes of the part of a safetensors file that says what it holds."""
_FORMAT = 1
_HEADER = {
    "trait": str,
    "model": str,
    "method": str,
    "layer": int,
    "quality": dict,
    "provenance": dict,
}
"""What a header must hold, and of which type."""
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
        paths = _named(
            there, names, "", str(source), "name the folder that holds TRAIT.safetensors"
        )
    return {name: read_vector(path) for name, path in paths.items()}


def write_vector(folder: Path, vector: TraitVector) -> Path:
    """Write `<trait>.safetensors`, and beside it `<trait>_<position>_diff.pt`; returns the first."""
    write_pt(folder, vector)
    return write_safetensors(folder, vector)


def write_pt(folder: Path, vector: TraitVector) -> list[Path]:
    """Write `<trait>_<position>_diff.pt` for every position: bare float32 [L+1, H], as in persona-vectors."""
    import torch

    paths = []
    for position, direction in vector.directions.items():
        buffer = io.BytesIO()
        torch.save(torch.from_numpy(direction), buffer)
        paths.append(folder / f"{vector.trait}_{position}_diff.pt")
        write_atomic(paths[-1], buffer.getvalue())
    return paths


def write_safetensors(folder: Path, vector: TraitVector) -> Path:
    """Write `<trait>.safetensors`, which holds all of a vector."""
    from safetensors.numpy import save

    tensors: dict[str, Any] = {
        str(position): direction for position, direction in vector.directions.items()
    }
    for position, stats in vector.stats.items():
        tensors |= {f"{position}.{name}": getattr(stats, name) for name in _STATS}
    header = {
        "format": _FORMAT,
        "trait": vector.trait,
        "model": vector.model,
        "method": vector.method,
        "layer": vector.layer,
        "final_norm_row": vector.layer_count - 1,
        "quality": vector.quality,
        "provenance": vector.provenance,
    }
    path = folder / f"{vector.trait}.safetensors"
    write_atomic(path, save(tensors, metadata={"traitcli": json.dumps(header, ensure_ascii=False)}))
    return path


def read_header(path: Path) -> dict[str, Any]:
    """What a vector file says of itself, without its tensors; raises VectorError when it is not one."""
    try:
        header = parse_json(read_metadata(path).get("traitcli", "null"))
    except ValueError as error:
        raise _no_vector(path, str(error)) from None
    if not isinstance(header, dict):
        raise _no_vector(path, "traitcli did not write it")
    if header.get("format") != _FORMAT or not header.keys() >= _HEADER.keys():
        raise VectorError(
            f"{path} is of another format", cause=f"expected format {_FORMAT}", fix=_REMAKE
        )
    for key, kind in _HEADER.items():
        if type(header[key]) is not kind:
            raise _no_vector(
                path, f"its {key} is {str(header[key])[:80]!r}, not of type {kind.__name__}"
            )
    trait = header["trait"]
    if trait in ("", ".", "..") or Path(trait).name != trait or not trait.isprintable():
        raise _no_vector(path, f"its trait is {trait[:80]!r}, which names no file")
    if fault := quality_fault(header["quality"]):
        raise _no_vector(path, fault)
    return header


def read_vector(path: Path) -> TraitVector:
    """Read a vector file; raises VectorError when it is not one, or holds what no vector can hold."""
    from safetensors import SafetensorError, safe_open

    header = read_header(path)
    try:
        with safe_open(path, framework="numpy") as file:
            places = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 -- it is no mapping
            shapes = {
                name: (place.get_dtype(), tuple(place.get_shape()))
                for name, place in places.items()
            }
            positions = [position for position in POSITIONS if position in shapes]
            if not positions:
                raise VectorError(
                    f"{path} holds no direction",
                    cause=f"none of {', '.join(POSITIONS)}",
                    fix=_REMAKE,
                )
            with_stats = [p for p in positions if any(f"{p}.{name}" in shapes for name in _STATS)]
            if fault := _fault_in(shapes, positions, with_stats, header["layer"]):
                raise _no_vector(path, fault)
            directions = {p: file.get_tensor(p) for p in positions}
            stats = {
                p: ClassStats(*(file.get_tensor(f"{p}.{name}") for name in _STATS))
                for p in with_stats
            }
    except (SafetensorError, OSError) as error:
        raise _no_vector(path, str(error)) from None
    _check_finite(path, directions, stats)
    return TraitVector(**{key: header[key] for key in _HEADER}, directions=directions, stats=stats)


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; raises VectorError when it is not one."""
    from safetensors import SafetensorError, safe_open

    check_file(path)
    try:
        with path.open("rb") as start:
            length = int.from_bytes(start.read(8), "little")
        if length > _MAX_HEADER:
            raise _no_vector(path, f"no safetensors file: its header would have {length:,} bytes")
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise _no_vector(path, str(error)) from None


def check_file(path: Path) -> None:
    """Raise VectorError for what is not there, is no file, or is too large to be a vector."""
    try:
        there = path.stat()
    except FileNotFoundError:
        raise VectorError(
            f"no vector file {path}", cause="there is no such file", fix="check the path"
        ) from None
    except (OSError, ValueError) as error:
        cause = error.strerror if isinstance(error, OSError) else str(error)
        raise VectorError(
            f"cannot read {path}", cause=cause or str(error), fix="check the path"
        ) from None
    if not stat.S_ISREG(there.st_mode):
        raise _no_vector(path, "it is no file")
    if there.st_size > MAX_BYTES:
        raise _no_vector(path, f"it has {there.st_size:,} bytes, a vector at most {MAX_BYTES:,}")


def _fault_in(
    shapes: Mapping[str, tuple[str, tuple[int, ...]]],
    positions: list[Position],
    with_stats: list[Position],
    layer: int,
) -> str:
    """What is wrong with tensors by their types and shapes; nothing when they make a vector."""
    first = shapes[positions[0]][1]
    if len(first) != 2 or not 2 <= first[0] <= MAX_ROWS or not 1 <= first[1] <= MAX_HIDDEN:
        return f"{positions[0]} is {list(first)}, not [L+1, H]"
    if first[0] * first[1] > MAX_NUMBERS:
        return f"{positions[0]} holds more than {MAX_NUMBERS:,} numbers"
    wanted: dict[str, tuple[int, ...]] = dict.fromkeys(map(str, positions), first)
    wanted |= {f"{position}.{name}": first[:1] for position in with_stats for name in _STATS}
    for name, shape in wanted.items():
        if name not in shapes:
            return f"it lacks {name}"
        if shapes[name] != ("F32", shape):
            return f"{name} is {shapes[name][0]} {list(shapes[name][1])}, not F32 {list(shape)}"
    return "" if 0 <= layer < first[0] else f"its layer is {layer}, of rows 0 to {first[0] - 1}"


def _check_finite(
    path: Path, directions: Mapping[Position, Any], stats: Mapping[Position, ClassStats]
) -> None:
    import numpy as np

    tensors = dict(directions) | {
        f"{p}.{name}": getattr(held, name) for p, held in stats.items() for name in _STATS
    }
    for name, tensor in tensors.items():
        if not np.isfinite(tensor).all():
            raise _no_vector(path, f"{name} holds NaN or infinity")


def _no_vector(path: Path, cause: str) -> VectorError:
    return VectorError(f"{path} is no trait vector", cause=cause, fix=_REMAKE)


def _named(
    found: Mapping[str, Path], names: Sequence[str], whose: str, place: str, fix: str
) -> dict[str, Path]:
    missing = [name for name in names if name not in found]
    if missing or not found:
        raise VectorError(
            f"no vector of {', '.join(missing) or 'any trait'}{whose}",
            cause=f"looked in {place}" + (f"; there are: {', '.join(found)}" if found else ""),
            fix=fix,
        )
    return {name: found[name] for name in (names or found)}


_REMAKE = "make it anew with traitcli build-vector"
