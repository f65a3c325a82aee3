"""Reads and writes the steering vectors of vllm-lens: JSON, as its server takes it.

A list of objects, or one object. `activations` is a tensor [n, H] in base64, `layer_indices` names
n blocks, counted from 0, to whose outputs `scale` times the rows are added.

Source: `SteeringVector` and `serialize_tensor` of vllm-lens 1.3.0. It writes numbers of any float
type, compressed with Zstandard, and reads them without compression too, as they are written here.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from traitcli.files import decode_text, parse_json, unpack_zstandard, write_atomic
from traitcli.vectors.files import MAX_LAYERS, MAX_NUMBERS
from traitcli.vectors.formats.layers import Origin, check_size, finite_number

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

_KEYS = {"activations", "layer_indices"}
_FORMAT = 'vllm-lens writes [{"activations": {"data": …, "dtype": …, "shape": …}, …}]'
_TYPES = {"float16": np.float16, "float32": np.float32, "float64": np.float64}
_BFLOAT16 = "torch.bfloat16"
"""`original_dtype` of numbers that are stored as int16: the upper half of a float32."""
_LARGEST = 2**28
"""Bytes of JSON: MAX_NUMBERS of eight bytes each, in base64, and more."""


def write_steering_vector(
    path: Path, block: int, direction: Floats, about: Mapping[str, Any]
) -> None:
    """Write float32 [H] for one block; `about` is stored under the key `traitcli`."""
    rows = np.ascontiguousarray(direction, "<f4").reshape(1, -1)
    activations = {
        "data": base64.b64encode(rows.tobytes()).decode("ascii"),
        "dtype": "float32",
        "original_dtype": "torch.float32",
        "shape": list(rows.shape),
    }
    vector = {
        "activations": activations,
        "layer_indices": [block],
        "scale": 1.0,
        "norm_match": False,
        "position_indices": None,
        "traitcli": dict(about),
    }
    write_atomic(path, json.dumps([vector], ensure_ascii=False) + "\n")


def is_json(start: bytes) -> bool:
    """Whether the first bytes of a file are those of a JSON object or list."""
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    # a safetensors file may begin with any byte, but its eight-byte length has zeros in front
    return text[:1] in {b"{", b"["} and b"\x00" not in start


def read_steering_vectors(
    path: Path, origin: Origin
) -> tuple[dict[int, Floats], int | None, Origin]:
    """Layer -> float32 [H]; L+1 if traitcli wrote the file; what the file says about itself.

    Numbers are read as they are stored: `scale` and `norm_match` are settings of the steering, and
    are kept in the provenance where they are not the default.

    Raises VectorError for JSON that is not of vllm-lens.
    """
    try:
        if path.stat().st_size > _LARGEST:
            origin.refuse(f"it has more than {_LARGEST / 2**20:.0f} MiB of JSON", _FORMAT)
        content = parse_json(decode_text(path.read_bytes()))
    except (OSError, ValueError) as error:
        origin.refuse(f"the JSON cannot be read: {error}", "copy it again")
    vectors = [content] if isinstance(content, Mapping) else content
    if len(vectors) > MAX_LAYERS:
        origin.refuse(f"it holds {len(vectors):,} vectors; the limit is {MAX_LAYERS:,}")
    layers: dict[int, Floats] = {}
    for vector in vectors:
        if not isinstance(vector, Mapping) or not vector.keys() >= _KEYS:
            origin.refuse("its JSON has no activations and layer_indices", _FORMAT)
        # a small file can hold a large tensor, compressed, a thousand times
        if sum(direction.size for direction in layers.values()) > MAX_NUMBERS:
            origin.refuse(f"it holds more than {MAX_NUMBERS:,} numbers")
        for layer, direction in _rows(vector, origin).items():
            if layer in layers:
                origin.refuse(
                    f"two directions belong to block {layer - 1}", "keep one vector in the file"
                )
            layers[layer] = direction
    about = [vector.get("traitcli") for vector in vectors]
    layer_count, origin = origin.with_about(about[0] if len(about) == 1 else None)
    settings = [one for one in map(_settings, vectors) if one]
    more = {**origin.more, "steering": settings} if settings else origin.more
    return layers, layer_count, replace(origin, more=more)


def _rows(vector: Mapping[str, Any], origin: Origin) -> dict[int, Floats]:
    """Layer -> float32 [H] of one object."""
    blocks, stored = vector["layer_indices"], vector["activations"]
    # not isinstance: true is an instance of int
    if not isinstance(blocks, list) or not all(type(one) is int and one >= 0 for one in blocks):
        origin.refuse("its layer_indices are not a list of block numbers from 0", _FORMAT)
    if len(set(blocks)) < len(blocks):
        origin.refuse("its layer_indices name a block twice", "keep one of them")
    shape = stored.get("shape") if isinstance(stored, Mapping) else None
    if not isinstance(shape, list) or not all(type(one) is int for one in shape):
        origin.refuse("its activations are not a tensor with a shape", _FORMAT)
    if len(shape) != 2:
        origin.refuse(
            f"its activations are {shape}: they differ by the position of the token",
            "save one [H] for each block",
        )
    if shape[0] != len(blocks):
        origin.refuse(f"it has {shape[0]} directions for {len(blocks)} blocks", _FORMAT)
    check_size(max(shape[0], 2), shape[1], origin)
    numbers = _numbers(stored, shape[0] * shape[1], origin).reshape(shape)
    return {block + 1: row for block, row in zip(blocks, numbers, strict=True)}


def _numbers(stored: Mapping[str, Any], count: int, origin: Origin) -> Floats:
    """The numbers of a tensor as float32; count is at most MAX_NUMBERS."""
    name, original = stored.get("dtype"), stored.get("original_dtype")
    is_half = original == _BFLOAT16 and name == "int16"
    if not is_half and name not in _TYPES:
        origin.refuse(f"its activations are {str(original or name)[:80]!r}, not floats", _FORMAT)
    kind = np.dtype(np.uint16 if is_half else _TYPES[str(name)]).newbyteorder("<")
    size = count * kind.itemsize
    try:
        data = base64.b64decode(str(stored.get("data")), validate=True)
        if stored.get("compression") == "zstd":
            data = unpack_zstandard(data, size)
    except ModuleNotFoundError:
        origin.refuse("it is compressed, and zstandard is missing", "pip install zstandard")
    except (binascii.Error, ValueError) as error:
        origin.refuse(f"its activations are damaged: {error}", "copy it again")
    if len(data) != size:
        origin.refuse(f"its activations have {len(data):,} bytes, not {size:,}", "copy it again")
    numbers = np.frombuffer(data, kind)
    if is_half:
        return (numbers.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):  # an overflow becomes infinity, which `assemble` refuses
        return numbers.astype(np.float32)


def _settings(vector: Mapping[str, Any]) -> dict[str, Any]:
    """How the vector is added, where that is not once and as it is."""
    found: dict[str, Any] = {}
    scale = finite_number(vector.get("scale", 1.0))
    if scale not in (None, 1.0):
        found["scale"] = scale
    if vector.get("norm_match") is True:
        found["norm_match"] = True
    return {"blocks": vector["layer_indices"], **found} if found else {}
