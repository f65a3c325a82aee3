"""Reads vectors that other tools have made, and our own; see docs/interop.md for the formats."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from traitcli.errors import VectorError
from traitcli.records import POSITIONS, TraitVector
from traitcli.vectors.files import check_file, read_metadata, read_vector
from traitcli.vectors.formats.gguf_files import MAGIC, read_control_vector
from traitcli.vectors.formats.layers import Origin, assemble, check_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

_NAMED = re.compile(rf"(?P<trait>.+)_(?P<position>{'|'.join(POSITIONS)})(_diff)?")
"""`evil_response_avg_diff`, as persona-vectors and traitcli name a file of one position."""
_NUMBERED = re.compile(
    r"(?:(?P<kind>layers?|blocks?|direction|layer_activations|rows?|hidden_states)[._-]?)?(?P<k>\d{1,4})"
)
_ROWS = ("row", "rows", "hidden_states")
"""Names whose number is a row; all others count blocks."""
_LAYERED = "name a direction [H] by its block, counted from 0, as in {15: tensor}, or save all rows as one [L+1, H]"


def read_any(path: Path, rows: int | None = None) -> TraitVector:
    """A vector from a file of traitcli, persona-vectors, steering-vectors, repeng or llama.cpp.

    What the file is is seen in its first bytes. A foreign vector has no class means, its rows are ours (block k gives
    row k+1), and those that the file does not give are zero: `quality["rows_given"]` lists the others. `rows` is L+1
    of the model, for files that do not tell how many blocks it has. Raises VectorError when it is none of these, is
    damaged or does not make sense.
    """
    check_file(path)
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise VectorError(
            f"cannot read {path}", cause=error.strerror or str(error), fix="check the path"
        ) from None
    is_safetensors = start[8:9] == b"{" or path.suffix == ".safetensors"
    if (
        is_safetensors
        and not start.startswith((MAGIC, b"PK"))
        and "traitcli" in read_metadata(path)
    ):
        return read_vector(path)
    named = _NAMED.fullmatch(path.stem)
    origin = Origin(
        str(path),
        "safetensors" if is_safetensors else "torch",
        trait=named["trait"] if named else path.stem,
        more={"file": path.name},
    )
    if named:
        origin = replace(origin, position=next(p for p in POSITIONS if p == named["position"]))
    if start.startswith(MAGIC):
        given, told, origin = read_control_vector(path, replace(origin, form="gguf control vector"))
        return assemble(given, rows or told, origin)
    if is_safetensors and not start.startswith(b"PK"):
        return _interpret(_read_safetensors(path, origin), rows, origin)
    from traitcli.vectors.formats.torch_files import read_torch

    return _interpret(read_torch(path, origin), rows, origin)


def _read_safetensors(path: Path, origin: Origin) -> dict[str, Floats]:
    """Name -> float32; torch reads it, for bfloat16."""
    import torch
    from safetensors import SafetensorError, safe_open

    from traitcli.vectors.formats.torch_files import as_floats, check_tensors

    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 -- it is no mapping
            check_tensors(
                {k: (tuple(s.get_shape()), "F" in s.get_dtype()) for k, s in slices.items()}, origin
            )
            return {name: as_floats(file.get_tensor(name)) for name in slices}
    except (SafetensorError, OSError, RuntimeError, ValueError, AttributeError, TypeError) as error:
        origin.refuse(
            f"it cannot be read: {error}",
            f"copy it again; torch {torch.__version__} must know its types",
        )


def _interpret(content: Any, rows: int | None, origin: Origin) -> TraitVector:
    """A vector from one tensor, or from tensors by layer."""
    if isinstance(content, Mapping) and isinstance(content.get("layer_activations"), Mapping):
        kind = content.get("layer_type", "decoder_block")
        if kind != "decoder_block":
            origin.refuse(
                f"it steers {str(kind)[:80]!r}",
                "train it on decoder_block: rows are outputs of whole blocks",
            )
        content = content["layer_activations"]
    if isinstance(content, Mapping) and len(content) == 1:
        only = next(iter(content.values()))
        content = only if isinstance(only, np.ndarray) and only.ndim == 2 else content
    if isinstance(content, np.ndarray):
        return _of_rows(content, rows, origin)
    return assemble(
        _by_row(content, origin), rows, replace(origin, form=f"{origin.form}, by layer")
    )


def _of_rows(matrix: NDArray[Any], rows: int | None, origin: Origin) -> TraitVector:
    if matrix.ndim == 1:
        origin.refuse(
            f"it is one direction of {len(matrix):,} numbers; which layer it belongs to is missing",
            _LAYERED,
        )
    check_size(matrix.shape[0], matrix.shape[1], origin)
    if rows not in (None, len(matrix)):
        origin.refuse(f"it has {len(matrix)} rows, not {rows}", "take a vector of this model")
    return assemble(
        dict(enumerate(matrix)), len(matrix), replace(origin, form=f"{origin.form}, all rows")
    )


def _by_row(content: Mapping[Any, Any], origin: Origin) -> dict[int, Floats]:
    """Row -> [H] from tensors named by number."""
    found: dict[int, Floats] = {}
    for name, tensor in content.items():
        if not isinstance(tensor, np.ndarray):
            origin.refuse(
                f"under {str(name)[:80]!r} is a {type(tensor).__name__}, not a tensor", _LAYERED
            )
        match = _NUMBERED.fullmatch(str(name))
        if match is None:
            origin.refuse(f"the name {str(name)[:80]!r} tells no layer", _LAYERED)
        row = int(match["k"]) + (match["kind"] not in _ROWS)
        if row in found:
            origin.refuse(f"two tensors belong to row {row}", _LAYERED)
        found[row] = tensor
    return found
