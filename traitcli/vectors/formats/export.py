"""Writes vectors in the formats that other tools read; see docs/interop.md."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from traitcli.errors import VectorError
from traitcli.records import Position, TraitVector
from traitcli.vectors.files import write_pt, write_safetensors
from traitcli.vectors.formats.gguf_files import write_control_vector
from traitcli.vectors.formats.layers import to_layer_directions

Form = Literal["gguf", "pt", "safetensors"]


def export_vector(
    vector: TraitVector, position: Position, form: Form, folder: Path, model_hint: str = ""
) -> list[Path]:
    """Write a vector for other tools, each file at once; returns the files.

    gguf         `<trait>_<position>.gguf`, a control vector for llama.cpp and repeng: direction.{k−1} is row k,
                 2 ≤ k < L; rows 0 and 1 have no place there, and row L is not what the last block gives
    pt           `<trait>_<position>_diff.pt` for every position, a bare float32 [L+1, H] as in persona-vectors
    safetensors  `<trait>.safetensors`, all that traitcli knows of the vector

    `model_hint` is for gguf: the model's architecture, as llama.cpp calls it; by default what is known of the model.
    Raises VectorError when the vector has nothing to write, StorageError when it cannot be written.
    """
    if form == "safetensors":
        return [write_safetensors(folder, vector)]
    if form == "pt":
        return write_pt(folder, vector)
    directions = {
        block: row for block, row in to_layer_directions(vector, position).items() if block >= 1
    }
    if not directions:
        raise VectorError(
            f"the vector of {vector.trait} cannot be a control vector",
            cause="llama.cpp adds nothing to block 0, and no other has a direction",
            fix="export it as pt or safetensors",
        )
    about = {
        "trait": vector.trait,
        "model": vector.model,
        "method": vector.method,
        "position": position,
        "layer_count": vector.layer_count,
        "layer": vector.layer,
    }
    path = folder / f"{vector.trait}_{position}.gguf"
    write_control_vector(path, directions, model_hint or _hint(vector), about)
    return [path]


def _hint(vector: TraitVector) -> str:
    """What a control vector file came with, else the model's name."""
    return str(vector.provenance.get("model_hint") or vector.model)
