"""Reads and writes control vectors of llama.cpp: GGUF files with one direction per block.

`general.architecture` is `controlvector`. The F32 tensor `direction.{i}` is added to the output of
block i, counted from 0, with i at least 1: it is layer i+1. `controlvector.model_hint` and
`controlvector.layer_count` (the number of directions) are written by every tool and read by none.

Sources: `common_control_vector_load_one` and `llama_adapter_cvec` of llama.cpp, and
`ControlVector.export_gguf` of repeng. The files are parsed here, because the reader of the `gguf`
package trusts every count in a file.
"""

from __future__ import annotations

import io
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from traitcli.files import parse_json, write_atomic
from traitcli.vectors.files import MAX_LAYERS, MAX_NUMBERS
from traitcli.vectors.formats.layers import Origin

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

MAGIC = b"GGUF"
_ARCHITECTURE = "controlvector"
# Version 1 counts with 32 bits, and llama.cpp refuses it too.
_VERSIONS = (2, 3)
_F32 = 0
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Metadata type -> bytes, for types of a fixed size."""
_UINT32, _STRING, _ARRAY = 4, 8, 9
_LIMITS = {
    "fields": 1024,
    "tensors": MAX_LAYERS,
    "bytes of a text": 2**16,
    "entries of a list": 2**16,
}
"""More than any control vector has; a count above its limit is refused."""
_DIRECTION = re.compile(r"direction\.(\d{1,4})")
_USE_OTHER = (
    "use a control vector for llama.cpp, from repeng or from traitcli build-vector --export gguf"
)


def write_control_vector(
    path: Path, directions: Mapping[int, Floats], model_hint: str, about: Mapping[str, Any]
) -> None:
    """Write block -> float32 [H], for blocks from 1; `about` is stored under the key `traitcli`."""
    from gguf import GGUFWriter

    # GGUFWriter writes to a path only, and a half-written file must never have the final name
    with TemporaryDirectory() as scratch:
        writer = GGUFWriter(Path(scratch) / "vector.gguf", _ARCHITECTURE)
        writer.add_string(f"{_ARCHITECTURE}.model_hint", model_hint)
        writer.add_uint32(f"{_ARCHITECTURE}.layer_count", len(directions))
        writer.add_string("traitcli", json.dumps(about, ensure_ascii=False))
        for block, direction in sorted(directions.items()):
            writer.add_tensor(f"direction.{block}", np.ascontiguousarray(direction, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        write_atomic(path, (Path(scratch) / "vector.gguf").read_bytes())


def read_control_vector(path: Path, origin: Origin) -> tuple[dict[int, Floats], int | None, Origin]:
    """Layer -> float32 [H]; L+1 if traitcli wrote the file; what the file says about itself.

    Raises VectorError for a file that is not a control vector.
    """
    with path.open("rb") as file:
        try:
            cursor = _Cursor(file, path.stat().st_size, origin)
            fields, tensors = _read_header(cursor, origin)
            layers = {block + 1: cursor.floats(*extent) for block, extent in tensors.items()}
        except (struct.error, UnicodeDecodeError, EOFError) as error:
            origin.refuse(f"the GGUF file is damaged: {error}", "copy it again")

    # kept, because an export of this vector should write the same hint again
    if hint := str(fields.get(f"{_ARCHITECTURE}.model_hint", "")):
        origin = replace(origin, more={**origin.more, "model_hint": hint})
    return layers, *_read_about(fields, origin)


@dataclass(slots=True)
class _Cursor:
    """Reads a file from the front; raises EOFError before a count leads beyond its end."""

    file: BinaryIO
    size: int
    origin: Origin

    def take(self, count: int) -> bytes:
        # skip first: it refuses a count beyond the end, before memory is allocated for it
        self.skip(count)
        self.file.seek(-count, io.SEEK_CUR)
        return self.file.read(count)

    def skip(self, count: int) -> None:
        if count > self.size - self.file.tell():
            raise EOFError("the file ends too early")
        self.file.seek(count, io.SEEK_CUR)

    def number(self, form: str) -> int:
        return int(struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))[0])

    def count(self, what: str) -> int:
        """A 64-bit count, refused above its limit: it decides how much memory is read into."""
        found = self.number("Q")
        if found > _LIMITS[what]:
            self.origin.refuse(
                f"it claims {found:,} {what}; a control vector has at most {_LIMITS[what]:,}",
                _USE_OTHER,
            )
        return found

    def text(self) -> str:
        return self.take(self.count("bytes of a text")).decode()

    def value(self, kind: int) -> str | int | None:
        """A field's value if it is a text or a 32-bit number; other types are skipped."""
        if kind == _STRING:
            return self.text()
        if kind == _UINT32:
            return self.number("I")
        if kind == _ARRAY:
            inner, count = self.number("I"), self.count("entries of a list")
            if inner == _ARRAY:  # a file could nest lists until the stack overflows
                self.origin.refuse("it holds lists of lists", _USE_OTHER)
            for _ in range(count):
                self.value(inner)
        elif kind in _SIZES:
            self.skip(_SIZES[kind])
        else:
            self.origin.refuse(f"it holds a field of the unknown type {kind}", _USE_OTHER)
        return None

    def floats(self, offset: int, width: int) -> Floats:
        self.file.seek(0)
        self.skip(offset)
        return np.frombuffer(self.take(width * 4), "<f4")


def _read_header(
    cursor: _Cursor, origin: Origin
) -> tuple[dict[str, str | int | None], dict[int, tuple[int, int]]]:
    """Field -> value, and block -> (offset of its floats, their number)."""
    if cursor.take(4) != MAGIC or cursor.number("I") not in _VERSIONS:
        origin.refuse(
            f"it is not a GGUF file of version {' or '.join(map(str, _VERSIONS))}", _USE_OTHER
        )

    tensors, count = cursor.count("tensors"), cursor.count("fields")
    fields: dict[str, str | int | None] = {}
    for _ in range(count):
        name = cursor.text()
        fields[name] = cursor.value(cursor.number("I"))
        # checked at once: a whole model has far larger fields than a control vector
        if name == "general.architecture" and fields[name] != _ARCHITECTURE:
            origin.refuse(
                f"its architecture is {str(fields[name])[:80]!r}, not {_ARCHITECTURE!r}", _USE_OTHER
            )
    if "general.architecture" not in fields:
        origin.refuse(
            "it has no general.architecture, so it may not be a control vector", _USE_OTHER
        )

    found: dict[int, tuple[int, int]] = {}
    for _ in range(tensors):
        block, offset, width = _tensor(cursor, origin)
        if block in found:
            origin.refuse(f"it holds direction.{block} twice", _USE_OTHER)
        found[block] = (offset, width)
    if sum(width for _, width in found.values()) > MAX_NUMBERS:
        origin.refuse(f"it holds more than {MAX_NUMBERS:,} numbers", _USE_OTHER)

    step = fields.get("general.alignment", 32)
    if not isinstance(step, int) or not 0 < step <= 2**16:
        origin.refuse(f"its alignment is {step}", _USE_OTHER)

    # tensors begin at the next multiple of the alignment; their offsets count from there
    start = -(-cursor.file.tell() // step) * step
    return fields, {block: (start + offset, width) for block, (offset, width) in found.items()}


def _tensor(cursor: _Cursor, origin: Origin) -> tuple[int, int, int]:
    """Block, offset and length of the next direction."""
    name = cursor.text()
    match = _DIRECTION.fullmatch(name)
    if match is None:
        origin.refuse(
            f"it holds a tensor {name[:80]!r}; a control vector holds direction.1, direction.2, …",
            _USE_OTHER,
        )
    dimensions = cursor.number("I")
    if dimensions != 1:
        origin.refuse(f"{name} has {dimensions} dimensions; a direction has one", _USE_OTHER)
    # not limited here: _Cursor.floats refuses a width or an offset that leads beyond the end
    width, kind, offset = cursor.number("Q"), cursor.number("I"), cursor.number("Q")
    if kind != _F32:
        origin.refuse(f"{name} is of GGML type {kind}; a direction is F32 (0)", _USE_OTHER)
    return int(match[1]), offset, width


def _read_about(fields: Mapping[str, Any], origin: Origin) -> tuple[int | None, Origin]:
    """L+1, and the origin with what traitcli wrote about the vector, as far as it is valid."""
    try:
        about = parse_json(str(fields.get("traitcli", "null")))
    except ValueError:
        about = None
    return origin.with_about(about)
