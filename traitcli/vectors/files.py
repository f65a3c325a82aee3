"""Reads and writes vector files: safetensors with everything, and bare-tensor .pt."""

from __future__ import annotations

import io
import json
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from traitcli.config import EMBEDDED, Config
from traitcli.errors import VectorError, suggest
from traitcli.files import explain_unreadable, list_files, parse_json, write_atomic
from traitcli.records import POSITIONS, ClassStats, Position, TraitVector
from traitcli.shipped import find_shipped
from traitcli.vector_quality import VectorQuality

MAX_LAYERS, MAX_HIDDEN, MAX_NUMBERS = 1024, 65536, 2**24
"""Largest L+1, H and (L+1) · H of a vector; the largest open models have 127 layers of 16,384."""
MAX_BYTES = 2**30
"""No larger file is opened as a vector."""
_MAX_HEADER = 2**22
"""Bytes of the JSON header of a safetensors file; the library would parse 100 MB."""
_FORMAT = 1
_STATS = [field.name for field in fields(ClassStats)]


@dataclass(frozen=True, slots=True)
class VectorHeader:
    """What a vector file says about its vector, without the tensors; see TraitVector."""

    trait: str
    model: str
    method: str
    layer: int
    quality: VectorQuality
    provenance: Mapping[str, Any]

    @classmethod
    def of(cls, vector: TraitVector) -> VectorHeader:
        return cls(*(getattr(vector, each.name) for each in fields(cls)))


_HEADER_TYPES = {
    "trait": str,
    "model": str,
    "method": str,
    "layer": int,
    "quality": dict,
    "provenance": dict,
}
"""JSON types of the keys that a header must have."""


def vector_folder(config: Config) -> Path:
    """Where this model's vectors are written."""
    return config.paths.vectors / config.model.name


def find_vectors(config: Config, names: Sequence[str] = ()) -> dict[str, Path]:
    """Trait -> file: your own vectors of the config's model, else those that ship with traitcli.

    Raises VectorError when no vector is found, or a given name has none.
    """
    # later entries replace earlier ones, so your own vectors win
    found: dict[str, Path] = {}
    for folder in (find_shipped("vectors") / config.model.name, vector_folder(config)):
        found |= {path.stem: path for path in list_files(folder, "*.safetensors")}
    missing = [name for name in names if name not in found]
    fix = " ".join(["build with: traitcli extract", *missing])
    if config.model.id != EMBEDDED:
        fix += ", with the same -c and --set"
    return _pick(found, names, f" for {config.model.name}", str(vector_folder(config)), fix)


def load_vectors(source: Config | Path | str, names: Sequence[str] = ()) -> dict[str, TraitVector]:
    """Trait -> vector, from a folder or for a config's model: your own, else the shipped ones.

    Raises VectorError when no vector is found, or a given name has none.
    """
    if isinstance(source, Config):
        paths = find_vectors(source, names)
    else:
        found = {path.stem: path for path in list_files(Path(source), "*.safetensors")}
        paths = _pick(found, names, "", str(source), "name the folder that holds TRAIT.safetensors")
    return dict(zip(paths, read_all(list(paths.values())), strict=True))


def read_all(
    paths: Sequence[Path], read: Callable[[Path], TraitVector] | None = None
) -> list[TraitVector]:
    """Read several files with `read`, usually `read_vector`.

    Raises VectorError, which names every file that cannot be read.
    """
    found, faults = [], []
    for path in paths:
        try:
            found.append((read or read_vector)(path))
        except VectorError as error:
            faults.append(error)
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise VectorError(
            f"{len(faults)} of {len(paths)} vector files cannot be read",
            cause="\n".join(f"{fault.problem}: {fault.cause}" for fault in faults),
            fix="name only the other files, or see docs/interop.md for what can be read",
        )
    return found


def write_vector(folder: Path, vector: TraitVector) -> Path:
    """Write `<trait>.safetensors` and the `.pt` files of `write_pt`; returns the first.

    Raises VectorError if a number is NaN or infinite.
    """
    _check_finite(folder / f"{vector.trait}.safetensors", vector.directions, vector.stats)
    # the safetensors file last: build-vector takes its presence to mean that everything is written
    write_pt(folder, vector)
    return write_safetensors(folder, vector)


def write_pt(folder: Path, vector: TraitVector) -> list[Path]:
    """Write `<trait>_<position>_diff.pt`, a bare float32 [L+1, H] per position.

    persona-vectors has this layout.
    """
    paths = []
    for position in vector.directions:
        paths.append(folder / f"{vector.trait}_{position}_diff.pt")
        save_pt(paths[-1], vector, position)
    return paths


def save_pt(path: Path, vector: TraitVector, position: Position) -> None:
    """Write the directions of one position as a bare float32 [L+1, H]."""
    # here and not above: torch takes two seconds to import, and reading vectors does not need it
    import torch

    buffer = io.BytesIO()
    torch.save(torch.from_numpy(vector.directions[position]), buffer)
    write_atomic(path, buffer.getvalue())


def write_safetensors(folder: Path, vector: TraitVector) -> Path:
    """Write `<trait>.safetensors`; returns its path. See `save_safetensors`."""
    path = folder / f"{vector.trait}.safetensors"
    save_safetensors(path, vector)
    return path


def save_safetensors(path: Path, vector: TraitVector) -> None:
    """Write everything about a vector.

    Raises VectorError if a number is NaN or infinite.
    """
    from safetensors.numpy import save

    _check_finite(path, vector.directions, vector.stats)
    tensors: dict[str, Any] = {
        str(position): direction for position, direction in vector.directions.items()
    }
    for position, stats in vector.stats.items():
        tensors |= {f"{position}.{name}": getattr(stats, name) for name in _STATS}
    header = {
        "format": _FORMAT,
        **asdict(VectorHeader.of(vector)),
        # for other readers: layer L is after the final norm, so no hook on a block sees it
        "final_norm_layer": vector.layer_count - 1,
    }
    write_atomic(path, save(tensors, metadata={"traitcli": json.dumps(header, ensure_ascii=False)}))


def read_header(path: Path) -> VectorHeader:
    """What a vector file says about its vector; raises VectorError unless the file is whole."""
    with open_safetensors(path, read_start(path)) as file:
        return _parse_header(path, file.metadata() or {})


def read_vector(path: Path) -> TraitVector:
    """Read a vector file; raises VectorError when it is not one, or holds impossible values."""
    with open_safetensors(path, read_start(path)) as file:
        return read_opened(path, file)


def read_opened(path: Path, file: Any) -> TraitVector:
    """The vector in a file that `open_safetensors` has opened; errors name `path`."""
    header = _parse_header(path, file.metadata() or {})

    # types and shapes first: a tensor takes memory only once it is known to fit a vector
    shapes = {}
    for name in file.keys():  # noqa: SIM118 -- not a mapping
        tensor = file.get_slice(name)
        shapes[name] = (tensor.get_dtype(), tuple(tensor.get_shape()))
    positions = [position for position in POSITIONS if position in shapes]
    if not positions:
        raise VectorError(
            f"{path} holds no direction", cause=f"none of {', '.join(POSITIONS)}", fix=_REBUILD
        )

    # a vector of another tool has no class means; one with only some of them is refused below
    stats_of = {}
    for p in positions:
        stats_of[p] = [f"{p}.{name}" for name in _STATS]
    with_stats = [p for p, names in stats_of.items() if not shapes.keys().isdisjoint(names)]
    if fault := _find_fault(shapes, positions, with_stats, header.layer):
        raise _not_a_vector(path, fault)

    directions = {p: file.get_tensor(p) for p in positions}
    stats = {}
    for p in with_stats:
        stats[p] = ClassStats(*map(file.get_tensor, stats_of[p]))
    _check_finite(path, directions, stats)
    return TraitVector(
        trait=header.trait,
        model=header.model,
        method=header.method,
        layer=header.layer,
        directions=directions,
        stats=stats,
        quality=header.quality,
        provenance=header.provenance,
    )


def read_start(path: Path) -> bytes:
    """The first nine bytes, which show a file's format; raises VectorError like `check_file`."""
    check_file(path)
    try:
        with path.open("rb") as file:
            return file.read(9)
    except OSError as error:
        raise _cannot_read(path, error) from None


@contextmanager
def open_safetensors(path: Path, start: bytes) -> Iterator[Any]:
    """Open a safetensors file, given its first bytes; raises VectorError when it is damaged."""
    from safetensors import SafetensorError, safe_open

    length = int.from_bytes(start[:8], "little")
    if length > _MAX_HEADER:
        # The first eight bytes of any other file are a number as well, usually a huge one.
        raise _unreadable(path, "it is damaged, or it is not a safetensors file")
    try:
        with safe_open(path, framework="numpy") as file:
            yield file
    except OSError as error:
        raise _cannot_read(path, error) from None
    except SafetensorError as error:
        detail = str(error).removeprefix("Error while deserializing header: ")
        cause = f"it is damaged, or it is not a safetensors file ({detail})"
        raise _unreadable(path, cause) from None


def check_file(path: Path) -> None:
    """Raise VectorError for a file that is missing, not regular, or too large for a vector."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise VectorError(
            f"no vector file {path}", cause="the file does not exist", fix="check the path"
        ) from None
    except (OSError, ValueError) as error:
        raise _cannot_read(path, error) from None
    # reading a pipe would block, and a device has no end
    if not stat.S_ISREG(status.st_mode):
        raise _not_a_vector(path, "not a regular file")
    if status.st_size > MAX_BYTES:
        raise _not_a_vector(
            path, f"it has {status.st_size:,} bytes, a vector at most {MAX_BYTES:,}"
        )


def _parse_header(path: Path, metadata: Mapping[str, str]) -> VectorHeader:
    """Check everything that a file says about itself: it may come from anywhere."""
    try:
        header = parse_json(metadata.get("traitcli", "null"))
    except ValueError as error:
        raise _not_a_vector(path, str(error)) from None
    if not isinstance(header, dict):
        raise VectorError(
            f"{path} is not a vector of traitcli",
            cause="another program wrote it, without the data that traitcli adds",
            fix="name the file itself: traitcli monitor --vectors FILE reads most formats",
        )
    if header.get("format") != _FORMAT or not header.keys() >= _HEADER_TYPES.keys():
        raise VectorError(
            f"{path} has another format", cause=f"expected format {_FORMAT}", fix=_REBUILD
        )
    for key, kind in _HEADER_TYPES.items():
        # not isinstance: true and false are instances of int
        if type(header[key]) is not kind:
            raise _not_a_vector(
                path, f"its {key} is {str(header[key])[:80]!r}, not of type {kind.__name__}"
            )

    # files are named after the trait, so a trait must not lead to another folder
    trait = header["trait"]
    if trait in ("", ".", "..") or Path(trait).name != trait or not trait.isprintable():
        raise _not_a_vector(path, f"its trait is {trait[:80]!r}, which cannot name a file")
    try:
        quality = VectorQuality.parse(header["quality"])
    except ValueError as error:
        raise _not_a_vector(path, str(error)) from None
    # a later version may write more keys
    known = {key: header[key] for key in _HEADER_TYPES}
    return VectorHeader(**known | {"quality": quality})


def _find_fault(
    shapes: Mapping[str, tuple[str, tuple[int, ...]]],
    positions: list[Position],
    with_stats: list[Position],
    layer: int,
) -> str:
    """What is wrong with the types and shapes of tensors; empty when they make a vector."""
    # every other tensor must match the first position, so one size check covers all of them
    first = shapes[positions[0]][1]
    if len(first) != 2 or not 2 <= first[0] <= MAX_LAYERS or not 1 <= first[1] <= MAX_HIDDEN:
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
    # a layer out of range would fail much later, when a model is monitored
    last = first[0] - 1
    return "" if 0 <= layer <= last else f"its layer is {layer}, its layers are 0 to {last}"


def _check_finite(
    path: Path, directions: Mapping[Position, Any], stats: Mapping[Position, ClassStats]
) -> None:
    import numpy as np

    tensors = dict(directions) | {
        f"{p}.{name}": getattr(one, name) for p, one in stats.items() for name in _STATS
    }
    # one NaN in a direction makes every score NaN, far from its cause
    for name, tensor in tensors.items():
        is_finite = np.isfinite(tensor)
        if not is_finite.all():
            layer = int(np.argwhere(~is_finite)[0][0])
            raise _not_a_vector(path, f"{name} holds NaN or infinity, first at layer {layer}")


def _not_a_vector(path: Path, cause: str) -> VectorError:
    return VectorError(f"{path} is not a trait vector", cause=cause, fix=_REBUILD)


def _unreadable(path: Path, cause: str) -> VectorError:
    """The error for a file that may come from another program, so that no rebuild helps."""
    fix = "copy it again, or see docs/interop.md for what can be read"
    return VectorError(f"{path} is not a trait vector", cause=cause, fix=fix)


def _cannot_read(path: Path, error: OSError | ValueError) -> VectorError:
    cause = explain_unreadable(error)
    return VectorError(f"cannot read {path}", cause=cause, fix="check the path")


def _pick(
    found: Mapping[str, Path], names: Sequence[str], of_model: str, folder: str, fix: str
) -> dict[str, Path]:
    """The files of the given names; without names, all files."""
    missing = [name for name in names if name not in found]
    if missing or not found:
        # Before the advice to build one: a misspelled name is more likely than a new trait.
        hints = (suggest(name, found) for name in missing)
        existing = f"; found: {', '.join(found)}" if found else ""
        raise VectorError(
            f"no vector of {', '.join(missing) or 'any trait'}{of_model}",
            cause=f"looked in {folder}{existing}",
            fix=next(filter(None, hints), fix),
        )
    return {name: found[name] for name in (names or found)}


_REBUILD = "rebuild it: traitcli build-vector"
