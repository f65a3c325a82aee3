"""Output that cannot be written: other encodings, full disks, closed pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(folder, *arguments, stdout=subprocess.PIPE, **environment):
    return subprocess.run(
        [sys.executable, "-m", "traitcli", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=stdout,
        stderr=subprocess.PIPE,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1", "cp932"])
@pytest.mark.parametrize("arguments", [["inspect", "vectors"], ["inspect", "traits"], ["--help"]])
def test_characters_that_stdout_cannot_encode_are_replaced(tmp_path, encoding, arguments):
    ended = run(tmp_path, *arguments, PYTHONIOENCODING=encoding)

    assert (ended.returncode, ended.stderr) == (0, b"")
    assert len(ended.stdout.decode(encoding).splitlines()) > 5


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8", "utf-16"])
def test_json_is_the_same_in_every_encoding(tmp_path, encoding):
    trait = tmp_path / "traits" / "höflich.yaml"
    trait.parent.mkdir()
    trait.write_text("name: höflich", encoding="utf-8")

    ended = run(tmp_path, "inspect", "traits", "höflich", "--json", PYTHONIOENCODING=encoding,
                PYTHONUTF8="1")  # fmt: skip

    [row] = json.loads(ended.stdout.decode(encoding))
    assert row["trait"] == "höflich"


@pytest.mark.parametrize(
    "arguments",
    [["inspect", "vectors"], ["inspect", "vectors", "--json"], ["--help"], ["--version"]],
)
def test_a_full_disk_is_one_clear_error(tmp_path, arguments):
    with Path("/dev/full").open("wb") as full:
        ended = run(tmp_path, *arguments, stdout=full)

    assert ended.returncode == 1
    assert ended.stderr.decode() == (
        "error: cannot write to stdout\n"
        "cause: No space left on device\n"
        "fix:   free disk space, or redirect the output to another place\n"
    )


@pytest.mark.parametrize("arguments", [["inspect", "vectors", "--json"], ["monitor", "--help"]])
def test_a_reader_that_has_seen_enough_is_no_error(tmp_path, arguments):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        ended = run(tmp_path, *arguments, stdout=pipe)

    assert ended.returncode == 1
    assert ended.stderr == b""


def test_an_error_of_our_own_still_shows_its_traceback(tmp_path):
    code = (
        "import traitcli.__main__ as m\n"
        "def broken(**options): raise OSError(28, 'No space left on device', 'some/file')\n"
        "m.app = broken\n"
        "m.main()"
    )

    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=False, timeout=60
    )

    assert ended.returncode == 1
    assert b"Traceback" in ended.stderr
    assert b"some/file" in ended.stderr
