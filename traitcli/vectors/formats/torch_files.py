"""Reads tensors that torch.save wrote, from files of unknown origin.

Nothing in such a file is run. Before torch sees it, two checks bound the memory, which
`weights_only` alone does not: the archive holds uncompressed records only, and its pickle names
only tensors.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import shutil
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from traitcli.vectors.files import MAX_LAYERS, MAX_NUMBERS
from traitcli.vectors.formats.layers import Origin

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Floats = NDArray[np.float32]

MAX_PICKLE = 2**20
"""Bytes of the pickle, which describes the tensors."""
_PLAIN = re.compile(
    r"torch \w+Storage|collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter)"
)
_NAMING = {"STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"}
"""Opcodes that name an object in ways that torch.save does not use."""
_IN_PROGRAM = "in the program that made it: "
_SAVE_PLAIN = f"{_IN_PROGRAM}torch.save({{block: tensor, ...}}, 'NAME.pt'), blocks counted from 0"
_SAVE_OBJECT = {
    "steering_vectors": f"{_IN_PROGRAM}torch.save(vector.layer_activations, 'NAME.pt')",
    "repeng": f"{_IN_PROGRAM}vector.export_gguf('NAME.gguf')",
}
"""Package of a pickled object -> how to save its tensors instead."""
_FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
    struct.error,
    zipfile.BadZipFile,
)
"""What zipfile, pickletools and torch raise for damaged files."""


def read_torch(path: Path, start: bytes, origin: Origin) -> Any:
    """A tensor as float32, or a mapping that holds tensors, given the file's first bytes.

    Raises VectorError.
    """
    import torch

    with TemporaryDirectory() as scratch:
        try:
            # one file can look like two archives to two readers: torch reads a copy written here
            copy = Path(scratch) / "checked.pt"
            _check_start(start, origin)
            _copy_checked(path, copy, origin)
            # mmap: a tensor that claims more bytes than the file has fails before it is allocated
            loaded = torch.load(str(copy), map_location="cpu", weights_only=True, mmap=True)
            _check_tensors(loaded, origin)
            return _as_arrays(loaded)
        except _FAULTS as error:
            cause = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            origin.refuse(
                f"torch cannot read it: {cause}",
                "copy it again; it is damaged, or torch.save did not write it",
            )


def as_floats(tensor: Tensor) -> Floats:
    """A float32 copy of a tensor of floats."""
    import torch

    floats: Floats = tensor.detach().to(torch.float32).numpy().copy()
    return floats


def check_tensors(shapes: Mapping[str, tuple[tuple[int, ...], bool]], origin: Origin) -> None:
    """Refuse name -> (shape, is float) that no vector has, before memory is allocated."""
    if len(shapes) > MAX_LAYERS:
        origin.refuse(f"it holds {len(shapes):,} tensors; the limit is {MAX_LAYERS:,} layers")
    for name, (shape, is_float) in shapes.items():
        what = f"tensor {name[:80]!r}" if name else "its tensor"
        if not is_float:
            origin.refuse(f"{what} does not hold floats", _SAVE_PLAIN)
        if len(shape) not in (1, 2):
            origin.refuse(f"{what} is {list(shape)}", "use one [L+1, H], or one [H] for each layer")
    # dtype=object: Python integers, because a hostile shape overflows int64
    numbers = sum(int(np.prod(shape, dtype=object)) for shape, _ in shapes.values())
    if numbers > MAX_NUMBERS:
        origin.refuse(f"it holds {numbers:,} numbers; the limit is {MAX_NUMBERS:,}")


class _BoundedFile(io.FileIO):
    """A file with a limit on each read: zipfile reads a directory as long as the file claims."""

    def read(self, size: int | None = -1, /) -> bytes:
        size = -1 if size is None else size
        start = self.tell()
        left = self.seek(0, io.SEEK_END) - start
        self.seek(start)
        wanted = min(size, left) if size >= 0 else left
        if wanted > MAX_PICKLE:
            raise zipfile.BadZipFile("its directory is too large")
        return super().read(size)


def _check_start(start: bytes, origin: Origin) -> None:
    """Refuse a file that is not a zip archive."""
    if start.startswith(b"\x80"):
        origin.refuse(
            "it is a bare pickle, or older than torch 1.6: loading such a file can take any memory",
            "if you trust it, load it, and torch.save the plain tensor with a current torch",
        )
    if not start:
        origin.refuse("it is empty", "copy it again")
    if not start.startswith(b"PK"):
        origin.refuse("it has none of the formats that traitcli reads")


def _copy_checked(path: Path, copy: Path, origin: Origin) -> None:
    """Write a copy of the archive from its records, once their names and sizes are checked."""
    with (
        _BoundedFile(path) as raw,
        zipfile.ZipFile(raw) as archive,
        zipfile.ZipFile(copy, "w") as checked,
    ):
        records = archive.infolist()
        # with two records of one name, torch could read another one than the one checked here
        if len({record.filename for record in records}) < len(records):
            origin.refuse("it holds two records of one name", _SAVE_PLAIN)

        # torch.save stores records uncompressed; a compressed one can expand a thousandfold
        if sum(record.file_size for record in records) > path.stat().st_size:
            origin.refuse(
                "its records are larger than the file: they are compressed, or some are missing",
                _SAVE_PLAIN,
            )

        pickles = [record for record in records if record.filename.endswith("data.pkl")]
        if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE:
            origin.refuse(
                "it is not an archive of torch.save, or its pickle is too large", _SAVE_PLAIN
            )
        _check_pickle(archive.read(pickles[0]), origin)

        # in small blocks: a record of weights may be as large as the file
        for record in records:
            with archive.open(record) as source, checked.open(record.filename, "w") as target:
                shutil.copyfileobj(source, target)


def _check_pickle(data: bytes, origin: Origin) -> None:
    """Refuse a pickle that names anything but tensors. It is disassembled, not loaded."""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name == "GLOBAL" and _PLAIN.fullmatch(str(argument)):
            continue
        if opcode.name == "GLOBAL" or opcode.name in _NAMING:
            name = str(argument or "").replace(" ", ".")[:80]
            shown = f", {name!r}" if name else ""
            origin.refuse(
                f"it holds a Python object{shown}, and loading one can run code",
                _SAVE_OBJECT.get(name.partition(".")[0], _SAVE_PLAIN),
            )


def _check_tensors(loaded: Any, origin: Origin) -> None:
    import torch

    check_tensors(
        {name: (tuple(t.shape), t.is_floating_point()) for name, t in _tensors_in(loaded)}, origin
    )
    if not isinstance(loaded, torch.Tensor | Mapping):
        origin.refuse(f"it holds a {type(loaded).__name__}", _SAVE_PLAIN)


def _tensors_in(loaded: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    import torch

    if isinstance(loaded, torch.Tensor):
        yield name, loaded
    # two levels hold every known format: {block: tensor} inside {"layer_activations": …}
    elif isinstance(loaded, Mapping) and depth < 2:
        for key, value in loaded.items():
            yield from _tensors_in(value, f"{name}.{key}" if name else str(key), depth + 1)


def _as_arrays(loaded: Any, depth: int = 0) -> Any:
    import torch

    if isinstance(loaded, torch.Tensor):
        return as_floats(loaded)
    if isinstance(loaded, Mapping) and depth < 2:
        return {key: _as_arrays(value, depth + 1) for key, value in loaded.items()}
    # anything else stays as it is: read_any names the entry when it refuses it
    return loaded
