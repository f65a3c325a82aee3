"""Reads vector files of other tools and of traitcli; docs/interop.md describes the formats."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from traitcli.records import POSITIONS, TraitVector
from traitcli.vectors.files import open_safetensors, read_opened, read_start
from traitcli.vectors.formats.gguf_files import MAGIC, read_control_vector
from traitcli.vectors.formats.layers import Origin, assemble, check_size
from traitcli.vectors.formats.lm_eval import is_steered, read_steered
from traitcli.vectors.formats.vllm_lens import is_json, read_steering_vectors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

_NAMED = re.compile(rf"(?P<trait>.+)_(?P<position>{'|'.join(POSITIONS)})(_diff|_steered)?")
"""`evil_response_avg_diff`, as persona-vectors and traitcli name a file of one position."""
_NUMBERED = re.compile(
    r"(?:(?P<kind>layers?|blocks?|direction|layer_activations|rows?|hidden_states)[._-]?)?"
    r"(?P<k>\d{1,4})"
)
"""`layers.15`, `direction.15`, `hidden_states.16`, `15`."""
_OUR_NUMBERS = ("row", "rows", "hidden_states")
"""Names whose number is one of our layers; with other names it is a block, counted from 0."""
_BY_BLOCK = (
    "name a direction [H] by its block, counted from 0, as in {15: tensor}, "
    "or save all layers as one [L+1, H]"
)
_ZIP = b"PK"


def read_any(path: Path, layer_count: int | None = None, layer: int | None = None) -> TraitVector:
    """A vector from a file of traitcli or of another tool; docs/interop.md lists them.

    The first bytes decide the format, not the name. A vector of another tool has no class means.
    Block k becomes layer k+1; layers that the file does not hold are zero, and
    `quality.layers_provided` lists the others. `layer_count` is L+1 of the model, for files that
    do not say how many blocks it has. `layer` is the layer of a single direction [H] whose file
    does not say it.

    Raises VectorError when the file has none of these formats, is damaged, or does not make sense.
    """
    start = read_start(path)
    origin = replace(_origin(path), named_layer=layer)
    if start.startswith(MAGIC):
        gguf = replace(origin, form="gguf control vector")
        by_layer, stored_count, gguf = read_control_vector(path, gguf)
        # the caller's count wins: it is that of the model
        return assemble(by_layer, layer_count or stored_count, gguf)

    if is_json(start):
        json = replace(origin, form="vllm-lens JSON")
        by_layer, stored_count, json = read_steering_vectors(path, json)
        return assemble(by_layer, layer_count or stored_count, json)

    # eight bytes of length precede the JSON header of a safetensors file
    is_safetensors = start[8:9] == b"{" or path.suffix == ".safetensors"
    if is_safetensors and not start.startswith(_ZIP):
        # numpy first: importing torch to read our own files would take seconds
        with open_safetensors(path, start) as file:
            if "traitcli" in (file.metadata() or {}):
                return read_opened(path, file)
        origin = replace(origin, form="safetensors")
        return _interpret(_read_safetensors(path, origin), layer_count, origin)

    from traitcli.vectors.formats.torch_files import read_torch

    return _interpret(read_torch(path, start, origin), layer_count, origin)


def _origin(path: Path) -> Origin:
    """What the name of a file says about the vector in it."""
    origin = Origin(str(path), "torch", trait=path.stem, more={"file": path.name})
    named = _NAMED.fullmatch(path.stem)
    if named is None:
        return origin
    position = next(p for p in POSITIONS if p == named["position"])
    return replace(origin, trait=named["trait"], position=position)


def _read_safetensors(path: Path, origin: Origin) -> dict[str, Floats]:
    """Name -> float32. Torch opens the file once more, because numpy has no bfloat16."""
    import torch
    from safetensors import SafetensorError, safe_open

    from traitcli.vectors.formats.torch_files import as_floats, check_tensors

    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            slices = {name: file.get_slice(name) for name in names}
            # the types of floats have an F in their names: F32, BF16, F8_E4M3
            shapes = {k: (tuple(s.get_shape()), "F" in s.get_dtype()) for k, s in slices.items()}
            check_tensors(shapes, origin)
            return {name: as_floats(file.get_tensor(name)) for name in slices}
    except (SafetensorError, OSError, RuntimeError, ValueError, AttributeError, TypeError) as error:
        origin.refuse(
            f"it cannot be read: {error}",
            f"copy it again, or save its tensors in a type that torch {torch.__version__} knows",
        )


def _interpret(content: Any, layer_count: int | None, origin: Origin) -> TraitVector:
    """A vector from one tensor of all layers, or from tensors by block."""
    if is_steered(content):
        by_layer, stored_count, origin = read_steered(content, origin)
        return assemble(by_layer, layer_count or stored_count, origin)

    # the fields of a steering_vectors.SteeringVector, saved as a mapping
    if isinstance(content, Mapping) and isinstance(content.get("layer_activations"), Mapping):
        kind = content.get("layer_type", "decoder_block")
        if kind != "decoder_block":
            origin.refuse(
                f"it steers {str(kind)[:80]!r}",
                "train it on decoder_block: traitcli reads the outputs of whole blocks",
            )
        content = content["layer_activations"]

    # one [L+1, H] under any name is a matrix of all layers; one [H] is a direction of one block
    if isinstance(content, Mapping) and len(content) == 1:
        only = next(iter(content.values()))
        content = only if isinstance(only, np.ndarray) and only.ndim == 2 else content

    if isinstance(content, np.ndarray):
        return _from_matrix(content, layer_count, origin)
    by_layer = _by_layer(content, origin)
    return assemble(by_layer, layer_count, replace(origin, form=f"{origin.form}, by layer"))


def _from_matrix(matrix: NDArray[Any], layer_count: int | None, origin: Origin) -> TraitVector:
    if matrix.ndim == 1 or matrix.shape[0] == 1:
        direction = matrix.reshape(-1)
        if origin.named_layer is None:
            origin.refuse(
                f"it is one direction of {direction.size:,} numbers, and it does not say for which "
                "layer",
                "name the layer when you monitor: --layer K; in Python, "
                f"traitcli.read(path, layer=K); or {_BY_BLOCK}",
            )
        named = replace(origin, form=f"{origin.form}, one direction", layer=origin.named_layer)
        return assemble({origin.named_layer: direction}, layer_count, named)
    check_size(matrix.shape[0], matrix.shape[1], origin)
    if layer_count not in (None, len(matrix)):
        origin.refuse(
            f"it has {len(matrix)} layers, not {layer_count}", "use a vector of this model"
        )
    origin = replace(origin, form=f"{origin.form}, all layers")
    return assemble(dict(enumerate(matrix)), len(matrix), origin)


def _by_layer(content: Mapping[Any, Any], origin: Origin) -> dict[int, Floats]:
    """Layer -> [H] from tensors named by number."""
    found: dict[int, Floats] = {}
    for name, tensor in content.items():
        shown = repr(str(name)[:80])
        if not isinstance(tensor, np.ndarray):
            kind = type(tensor).__name__
            origin.refuse(f"{shown} holds a {kind}, not a tensor", _BY_BLOCK)
        match = _NUMBERED.fullmatch(str(name))
        if match is None:
            origin.refuse(f"the name {shown} does not say which layer it is", _BY_BLOCK)
        # block k computes layer k+1
        is_block = match["kind"] not in _OUR_NUMBERS
        layer = int(match["k"]) + 1 if is_block else int(match["k"])

        # "15" and "layers.15" are different names, and the same layer
        if layer in found:
            origin.refuse(f"two tensors belong to layer {layer}", _BY_BLOCK)
        found[layer] = tensor
    return found
