"""Files that imitate vectors: refused fast, in little memory, without running their code."""

from __future__ import annotations

import io
import json
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save, save_file

from traitcli.errors import VectorError
from traitcli.records import ClassStats, TraitVector
from traitcli.vectors.files import MAX_BYTES, write_safetensors
from traitcli.vectors.formats.export import export_vector
from traitcli.vectors.formats.read_any import read_any

HUGE = 2**62
U32, STRING, ARRAY = 4, 8, 9


class CreatesFile:
    """Creates a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def gguf(fields=b"", count=1, tensors=b"", tensor_count=0, version=3):
    """A GGUF file of a control vector whose counts may be wrong."""
    architecture = text("general.architecture") + struct.pack("<I", STRING) + text("controlvector")
    return (
        b"GGUF"
        + struct.pack("<IQQ", version, tensor_count, count)
        + architecture
        + fields
        + tensors
    )


def direction(name="direction.1", dimensions=1, width=8, offset=0):
    return text(name) + struct.pack("<IQIQ", dimensions, width, 0, offset)


def safetensors(header, data=b""):
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def archive(data, compression=zipfile.ZIP_STORED, **records):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compression) as written:
        written.writestr("evil/data.pkl", data)
        written.writestr("evil/version", b"3\n")
        for name, content in records.items():
            written.writestr(f"evil/{name}", content)
    return made.getvalue()


def saved(content):
    made = io.BytesIO()
    torch.save(content, made)
    return made.getvalue()


def changed(old, new, count=-1):
    """A saved tensor of eight numbers whose pickle declares another size."""
    with zipfile.ZipFile(io.BytesIO(saved(torch.arange(8.0)))) as whole:
        data = whole.read("archive/data.pkl")
        assert old in data
        return archive(data.replace(old, new, count), **{"data/0": whole.read("archive/data/0")})


def native(**changes):
    """One of our own files with a few entries of the header replaced."""
    header = {
        "format": 1,
        "trait": "evil",
        "model": "m",
        "method": "m",
        "layer": 1,
        "quality": {},
        "provenance": {},
    }
    encoded = json.dumps(header | changes)
    return save({"response_avg": np.ones((3, 4), np.float32)}, {"traitcli": encoded})


def swollen():
    """An archive whose directory claims to be as long as the file, which is large."""
    whole = bytearray(archive(b"\x80\x02N.", filler=bytes(2**21)))
    end = whole.rfind(b"PK\x05\x06")
    struct.pack_into("<II", whole, end + 12, end, 0)
    return bytes(whole)


def twice():
    with pytest.warns(UserWarning, match="Duplicate name"):
        return archive(b"\x80\x02N.", **{"data.pkl": b"\x80\x02N."})


FILES = {
    "nothing": lambda: b"",
    "noise": lambda: np.random.default_rng(0).bytes(5000),
    "words": lambda: b"I am a vector, believe me.\n" * 100,
    "an opening brace": lambda: b"12345678{",
    # gguf
    "gguf: the magic alone": lambda: b"GGUF",
    "gguf: version 1": lambda: gguf(version=1),
    "gguf: the other byte order": lambda: gguf(version=3 << 24),
    "gguf: as many tensors as can be": lambda: gguf(tensor_count=HUGE),
    "gguf: as many fields as can be": lambda: gguf(count=HUGE),
    "gguf: a long text": lambda: gguf(struct.pack("<Q", HUGE), count=2),
    "gguf: a text of half the file": lambda: gguf(struct.pack("<Q", 2**21) + bytes(2**22), count=2),
    "gguf: no text": lambda: gguf(struct.pack("<Q", 4) + b"\xff\xfe\xff\xfe" + bytes(64), count=2),
    "gguf: a long list": lambda: gguf(text("x") + struct.pack("<IIQ", ARRAY, 0, HUGE), count=2),
    "gguf: a list of lists": lambda: gguf(
        text("x") + struct.pack("<IIQ", ARRAY, ARRAY, 9) * 500, count=2
    ),
    "gguf: a long list of texts": lambda: gguf(
        text("x") + struct.pack("<IIQ", ARRAY, STRING, 2**40), count=2
    ),
    "gguf: an unknown type": lambda: gguf(text("x") + struct.pack("<I", 77), count=2),
    "gguf: no room between tensors": lambda: gguf(
        text("general.alignment") + struct.pack("<II", U32, 0), count=2
    ),
    "gguf: no architecture": lambda: b"GGUF" + struct.pack("<IQQ", 3, 0, 0),
    "gguf: many dimensions": lambda: gguf(tensors=direction(dimensions=2**31), tensor_count=1),
    "gguf: a long direction": lambda: gguf(tensors=direction(width=HUGE), tensor_count=1),
    "gguf: a direction that is not there": lambda: gguf(
        tensors=direction(offset=HUGE), tensor_count=1
    ),
    "gguf: a direction past the end": lambda: gguf(
        tensors=direction(width=4096) + bytes(99), tensor_count=1
    ),
    "gguf: a direction twice": lambda: gguf(tensors=direction() * 2 + bytes(99), tensor_count=2),
    "gguf: a block far off": lambda: gguf(
        tensors=direction("direction.9999") + bytes(99), tensor_count=1
    ),
    # safetensors
    "safetensors: a long header": lambda: struct.pack("<Q", HUGE) + b"{}",
    "safetensors: a header of 8 MB": lambda: safetensors(b"{" + b" " * 2**23 + b"}"),
    "safetensors: a header of brackets": lambda: safetensors(b'{"a":' + b"[" * 200_000),
    "safetensors: past the end": lambda: safetensors(
        {"a": {"dtype": "F32", "shape": [HUGE], "data_offsets": [0, 4]}}
    ),
    "safetensors: no tensor": lambda: safetensors({}),
    "safetensors: integers": lambda: save({"a": np.ones((3, 4), np.int32)}),
    "safetensors: three dimensions": lambda: save({"a": np.ones((3, 4, 5), np.float32)}),
    "safetensors: names of no layer": lambda: save({n: np.ones(4, np.float32) for n in ("a", "b")}),
    "safetensors: NaN": lambda: save({"a": np.full((3, 4), np.nan, np.float32)}),
    "safetensors: many tensors": lambda: save(
        {str(n): np.ones(1, np.float32) for n in range(1100)}
    ),
    "safetensors: long rows": lambda: save({"a": np.ones((2, 70_000), np.float32)}),
    "ours: brackets": lambda: save(
        {"response_avg": np.ones((3, 4), np.float32)}, {"traitcli": "[" * 100_000}
    ),
    "ours: a trait that leads elsewhere": lambda: native(trait="../../evil"),
    "ours: a trait of control characters": lambda: native(trait="evil\x1b[2J"),
    "ours: a layer of words": lambda: native(layer="16"),
    # JSON
    "json: brackets": lambda: b"[" * 200_000,
    "json: half": lambda: b'[{"activations": {"data": "AAAA',
    "json: nothing in it": lambda: b"[]",
    "json: no numbers": lambda: json.dumps([{"activations": {}, "layer_indices": []}]).encode(),
    "json: many vectors": lambda: json.dumps([{}] * 2000).encode(),
    "json: a number of a thousand digits": lambda: b'[{"layer_indices": [%s]}]' % (b"9" * 5000),
    # torch
    "torch: a bare pickle": lambda: pickle.dumps([1, 2, 3]),
    "torch: the magic alone": lambda: b"PK\x03\x04",
    "torch: an empty archive": lambda: b"PK\x05\x06" + bytes(18),
    "torch: no pickle": lambda: archive(b"\x80\x02N.").replace(b"data.pkl", b"data.txt"),
    "torch: None": lambda: archive(b"\x80\x02N."),
    "torch: half a pickle": lambda: archive(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n"),
    "torch: a pickle of nothing": lambda: archive(b""),
    "torch: an empty stack": lambda: archive(b"\x80\x02R."),
    "torch: a long text": lambda: archive(b"\x80\x02X\xff\xff\xff\x7f."),
    "torch: a name from the stack": lambda: archive(pickle.dumps(os.mkdir, protocol=4)),
    "torch: an old way to name": lambda: archive(b"(S'x'\nios\nmkdir\n."),
    "torch: bytes by the gigabyte": lambda: archive(
        b"\x80\x02c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R."
    ),
    "torch: a storage that is not there": lambda: changed(
        b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x009"
    ),
    "torch: a tensor larger than its storage": lambda: changed(
        b"K\x08\x85", b"J\xff\xff\xff\x7f\x85"
    ),
    "torch: a storage larger than its record": lambda: changed(b"K\x08", b"J\xff\xff\xff\x7f"),
    "torch: an endless stride": lambda: changed(b"K\x01\x85", b"J\xff\xff\xff\x7f\x85"),
    "torch: a negative offset": lambda: changed(b"QK\x00", b"QJ\xff\xff\xff\xff"),
    "torch: a bomb": lambda: archive(bytes(2**27), zipfile.ZIP_DEFLATED),
    "torch: a bomb beside the pickle": lambda: archive(
        b"N.", zipfile.ZIP_DEFLATED, **{"data/0": bytes(2**27)}
    ),
    "torch: a long pickle": lambda: saved({"x" * 2**21: torch.ones(4, 8)}),
    "torch: a long directory": swollen,
    "torch: two pickles": twice,
    "torch: one number a billion times": lambda: saved(torch.ones(1).expand(1000, 1_000_000)),
    "torch: one row a thousand times": lambda: saved(
        dict.fromkeys(range(1000), torch.ones(1).expand(2**20))
    ),
    "torch: many tensors": lambda: saved(dict.fromkeys(range(2000), torch.ones(4))),
    "torch: sparse": lambda: saved(torch.eye(4).to_sparse()),
    "torch: complex": lambda: saved(torch.ones(3, 4, dtype=torch.complex64)),
    "torch: an array": lambda: saved({1: np.ones(4)}),
    "torch: not in a dict but in two": lambda: saved({"a": {"b": {"c": torch.ones(4)}}}),
}
NON_FILES = {
    "no file": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to nowhere": lambda path: path.symlink_to(path.parent / "nowhere"),
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
}
NAMES = ("evil.pt", "evil.safetensors", "evil.gguf", "evil.json")
FORMS = ["gguf", "pt", "safetensors", "vllm-lens", "lm-eval"]


def refused(path):
    with pytest.raises(VectorError) as caught:
        read_any(path)
    assert caught.value.problem
    assert caught.value.cause
    assert caught.value.fix
    assert len(str(caught.value)) < 1000
    return caught.value


@pytest.mark.parametrize("content", FILES)
def test_a_file_without_a_vector_is_refused_under_any_name(tmp_path, content):
    (path := tmp_path / "evil").write_bytes(FILES[content]())

    for name in NAMES:
        path = path.rename(tmp_path / name)
        refused(path)


@pytest.mark.parametrize("kind", NON_FILES)
def test_a_folder_or_a_device_is_refused_as_a_file(tmp_path, kind):
    for name in NAMES:
        NON_FILES[kind](path := tmp_path / name)

        refused(path)


def test_a_name_that_cannot_be_a_file_is_refused():
    assert refused(Path("evil\0.pt")).cause == "embedded null byte"
    assert refused(Path("evil" * 100)).cause == "File name too long"


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_too_large_is_refused_unread(tmp_path, name):
    with (path := tmp_path / name).open("wb") as file:
        file.truncate(MAX_BYTES + 1)

    assert "bytes" in refused(path).cause


@pytest.mark.parametrize("form", FORMS)
def test_a_truncated_file_is_refused_at_any_length(tmp_path, form):
    matrix = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    stats = {"response_avg": ClassStats(*np.ones((4, 5), np.float32))}
    vector = TraitVector("evil", "m", "m", 2, {"response_avg": matrix}, stats)
    (whole,) = export_vector(vector, "response_avg", form, tmp_path)
    content, path = whole.read_bytes(), tmp_path / f"cut.{form}"

    for end in range(0, len(content), 13):
        path.write_bytes(content[:end])
        refused(path)


@pytest.mark.parametrize("form", FORMS)
def test_a_file_with_a_byte_changed_is_refused_or_makes_a_vector(tmp_path, form):
    matrix = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    vector = TraitVector("evil", "m", "m", 2, {"response_avg": matrix}, {})
    (whole,) = export_vector(vector, "response_avg", form, tmp_path)
    content, path, draw = whole.read_bytes(), tmp_path / f"changed.{form}", np.random.default_rng(1)

    outcomes = set()
    for position in draw.integers(len(content), size=200):
        path.write_bytes(content[:position] + draw.bytes(1) + content[position + 1 :])
        try:
            outcomes.add(bool(np.isfinite(next(iter(read_any(path).directions.values()))).all()))
        except VectorError:
            outcomes.add(None)

    assert outcomes <= {True, None}
    assert len(outcomes) == 2


@pytest.mark.parametrize(
    "kind", ["saved by torch", "in an archive", "a bare pickle", "saved the old way"]
)
def test_code_in_a_pickle_is_not_run(tmp_path, kind):
    mark, path = tmp_path / "mark", tmp_path / "evil.pt"
    if kind == "in an archive":
        path.write_bytes(archive(pickle.dumps(CreatesFile(mark), protocol=2)))
    elif kind == "a bare pickle":
        path.write_bytes(pickle.dumps(CreatesFile(mark)))
    else:
        torch.save(
            {1: CreatesFile(mark)}, path, _use_new_zipfile_serialization=kind == "saved by torch"
        )

    refused(path)

    assert not mark.exists()
    torch.load(path, weights_only=False) if kind == "saved by torch" else pickle.loads(
        pickle.dumps(CreatesFile(mark))
    )
    assert mark.exists(), "the pickle would have run nothing anyway"


def test_only_names_of_tensors_are_let_through_to_torch():
    encoded = {
        1: torch.ones(3, dtype=torch.bfloat16),
        2: torch.nn.Parameter(torch.ones(3, dtype=torch.float64)),
    }
    with zipfile.ZipFile(io.BytesIO(saved(encoded))) as whole:
        data = whole.read("archive/data.pkl")

    names = {
        str(argument) for opcode, argument, _ in pickletools.genops(data) if opcode.name == "GLOBAL"
    }

    assert names == {
        "torch BFloat16Storage",
        "torch DoubleStorage",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter",
        "collections OrderedDict",
    }


ALL_OF_THEM = """
import resource, sys, time
from pathlib import Path
from traitcli.errors import VectorError
from traitcli.vectors.formats.read_any import read_any
good, *bad = sorted(Path(sys.argv[1]).iterdir(), key=lambda path: path.name != "good.pt")
read_any(good)
read_any(good.with_suffix(".safetensors"))
before, longest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0.0
for path in bad:
    start = time.process_time()
    try:
        read_any(path)
    except VectorError:
        pass
    longest = max(longest, time.process_time() - start)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, longest)
"""


def test_no_file_takes_much_memory_or_time(tmp_path):
    for number, make in enumerate(FILES.values()):
        (tmp_path / f"{number}.pt").write_bytes(make())
    torch.save(torch.ones(3, 4), tmp_path / "good.pt")
    save_file({"layer_1": np.ones(4, np.float32)}, tmp_path / "good.safetensors")

    done = subprocess.run(
        [sys.executable, "-c", ALL_OF_THEM, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )

    megabytes, seconds = map(float, done.stdout.split())
    assert megabytes < 64
    assert seconds < 2


def test_a_directory_of_an_archive_that_claims_to_be_long_is_not_read(tmp_path):
    (path := tmp_path / "evil.pt").write_bytes(swollen())

    assert refused(path).cause == "torch cannot read it: BadZipFile: its directory is too large"


def test_a_file_that_claims_a_huge_header_is_not_read(tmp_path):
    matrix = np.ones((3, 4), np.float32)
    path = write_safetensors(
        tmp_path, TraitVector("evil", "m", "m", 1, {"response_avg": matrix}, {})
    )
    content = bytearray(path.read_bytes())
    struct.pack_into("<Q", content, 0, HUGE)
    path.write_bytes(content)

    assert refused(path).cause == "it is damaged, or it is not a safetensors file"


@pytest.mark.parametrize(
    ("content", "cause"),
    [(b"", "it is empty"), (b"hello there", "it has none of the formats that traitcli reads")],
)
def test_an_empty_file_and_one_of_an_unknown_format_have_different_causes(tmp_path, content, cause):
    path = tmp_path / "evil.pt"
    path.write_bytes(content)

    assert refused(path).cause == cause
