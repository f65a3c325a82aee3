"""Writes vectors in formats that other tools read; docs/interop.md describes them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from traitcli.errors import VectorError
from traitcli.records import Position, TraitVector
from traitcli.vectors.files import save_pt, save_safetensors, write_pt, write_safetensors
from traitcli.vectors.formats.gguf_files import write_control_vector
from traitcli.vectors.formats.layers import (
    about_vector,
    to_block_direction,
    to_layer_directions,
)
from traitcli.vectors.formats.lm_eval import write_steered
from traitcli.vectors.formats.vllm_lens import write_steering_vector

Form = Literal["gguf", "pt", "safetensors", "vllm-lens", "lm-eval"]


def export_vector(
    vector: TraitVector,
    position: Position,
    form: Form,
    folder: Path,
    model_hint: str = "",
    blocks: str = "layers",
) -> list[Path]:
    """Write a vector in one format, and return the files.

    gguf         `<trait>_<position>.gguf`, a control vector for llama.cpp and repeng. Layer k
                 becomes direction.{k−1}, for 2 ≤ k < L: the format has no place for layers 0
                 and 1, and layer L is not the output of the last block
    pt           `<trait>_<position>_diff.pt`, a bare float32 [L+1, H] per position
    safetensors  `<trait>.safetensors`, everything that traitcli knows about the vector
    vllm-lens    `<trait>_<position>.json`, the vector's layer k as block k−1
    lm-eval      `<trait>_<position>_steered.pt` for the model `steered`, the same

    `model_hint` is for gguf: the model's architecture, as llama.cpp calls it (default: the hint of
    an imported vector, else the model's name). `blocks` is for lm-eval: the name of the list of
    blocks below `base_model`; `models.block_names.path_of_blocks` finds it.

    Raises VectorError when no layer can be written, and StorageError when a file cannot be written.
    """
    if form == "safetensors":
        return [write_safetensors(folder, vector)]
    if form == "pt":
        return write_pt(folder, vector)
    name = f"{vector.trait}_{position}"
    if form == "vllm-lens":
        path = folder / f"{name}.json"
        _save_vllm_lens(path, vector, position)
    elif form == "lm-eval":
        path = folder / f"{name}_steered.pt"
        block, direction = to_block_direction(vector, position)
        about = about_vector(vector, position)
        write_steered(path, f"{blocks}.{block}", direction, about)
    else:
        path = folder / f"{name}.gguf"
        _save_gguf(path, vector, position, model_hint)
    return [path]


def save_vector(path: Path, vector: TraitVector, position: Position, model_hint: str = "") -> None:
    """Write a vector to a file whose ending chooses the format; see `export_vector`.

    Of a vector with several positions, .pt, .gguf and .json hold the given one.

    Raises VectorError for another ending, and when no layer can be written; StorageError when the
    file cannot be written.
    """
    match path.suffix.lower():
        case ".safetensors":
            save_safetensors(path, vector)
        case ".pt":
            save_pt(path, vector, position)
        case ".gguf":
            _save_gguf(path, vector, position, model_hint)
        case ".json":
            _save_vllm_lens(path, vector, position)
        case _:
            name = path.stem or vector.trait
            raise VectorError(
                f"cannot save a vector as {path.name or path}",
                cause="the name does not end in .safetensors, .pt, .gguf or .json",
                fix=f"{path.parent / name}.safetensors keeps everything about it",
            )


def _save_gguf(path: Path, vector: TraitVector, position: Position, model_hint: str) -> None:
    by_block = to_layer_directions(vector, position)
    directions = {block: direction for block, direction in by_block.items() if block >= 1}
    if not directions:
        raise VectorError(
            f"the vector of {vector.trait} cannot be a control vector",
            cause="llama.cpp adds nothing to block 0, and no other block has a direction",
            fix="export it as pt or safetensors",
        )

    # traitcli reads this back from the file; other tools ignore it
    about = about_vector(vector, position)
    write_control_vector(path, directions, model_hint or _hint(vector), about)


def _save_vllm_lens(path: Path, vector: TraitVector, position: Position) -> None:
    block, direction = to_block_direction(vector, position)
    write_steering_vector(path, block, direction, about_vector(vector, position))


def _hint(vector: TraitVector) -> str:
    """The hint that a control vector file came with, else the model's name."""
    return str(vector.provenance.get("model_hint") or vector.model)
