"""Files that stay complete if the process is killed at any time."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest

from traitcli.errors import TraitError
from traitcli.files import append_lines, lock, read_lines, write_atomic

WRITE_ON_A_FULL_DISK = """
import resource, sys
from pathlib import Path
from traitcli.errors import TraitError
from traitcli.files import {write}
resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
try:
    {write}(Path(sys.argv[1]), {content})
except TraitError as error:
    print(error.problem, error.cause, sep="|")
"""

HOLD = """
import sys, time
from pathlib import Path
from traitcli.files import lock
with lock(Path(sys.argv[1])) as holder:
    print(holder, flush=True)
    time.sleep(60)
"""


def lock_in_another_process(path):
    """Start another process that holds the lock."""
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "None\n"
    return other


def on_a_full_disk(path, write, content):
    """Return the message of a write in a process limited to files of 64 bytes."""
    script = WRITE_ON_A_FULL_DISK.format(write=write, content=content)
    return subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    ).stdout


def test_writing_makes_the_folders_it_needs(tmp_path):
    path = tmp_path / "a" / "b" / "c.txt"

    write_atomic(path, "é\n")

    assert path.read_bytes() == "é\n".encode()


def test_writing_replaces_the_old_content_and_leaves_no_other_file(tmp_path):
    path = tmp_path / "a.txt"
    write_atomic(path, "a long old content")

    write_atomic(path, b"new")

    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"a.txt": b"new"}


def test_a_written_file_can_be_read_by_others_as_the_umask_allows(tmp_path):
    path = tmp_path / "a.txt"
    old = os.umask(0o002)

    write_atomic(path, "x")

    os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o664


def test_a_failed_write_keeps_the_old_content_and_no_scratch_file(tmp_path):
    path = tmp_path / "a.txt"
    write_atomic(path, "old")

    printed = on_a_full_disk(path, "write_atomic", "'new' * 100")

    assert printed == f"cannot write {path}|File too large\n"
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.txt": "old"}


def test_a_write_that_cannot_begin_keeps_the_old_content(tmp_path):
    path = tmp_path / ("a" * 250)
    path.write_text("old")

    with pytest.raises(TraitError):
        write_atomic(path, "new")

    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {path.name: "old"}


@pytest.mark.parametrize(
    "write", [write_atomic, lambda path, text: append_lines(path, [{"text": text}])]
)
def test_a_folder_inside_a_file_is_an_error_with_cause_and_fix(tmp_path, write):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "folder" / "below.txt"

    with pytest.raises(TraitError) as caught:
        write(path, "x")

    assert str(caught.value) == (
        f"error: cannot write {path}\n"
        "cause: Not a directory\n"
        "fix:   free disk space or choose another folder; finished work is kept, "
        "rerun the same command"
    )


def test_lines_are_read_in_the_order_in_which_they_were_appended(tmp_path):
    path = tmp_path / "deep" / "lines.jsonl"
    append_lines(path, [{"n": 1}, {"n": 2, "text": "é\n\u2028"}])

    append_lines(path, [{"n": 3}])

    assert list(read_lines(path)) == [{"n": 1}, {"n": 2, "text": "é\n\u2028"}, {"n": 3}]


def test_appending_nothing_adds_nothing(tmp_path):
    path = tmp_path / "lines.jsonl"
    append_lines(path, [{"n": 1}])

    append_lines(path, [])

    assert path.read_text() == '{"n": 1}\n'


@pytest.mark.parametrize("torn", ['{"n": 2', '{"n": 2}', "x" * (2**16 - 1), "x" * 200_000])
def test_an_incomplete_last_line_is_cut_before_the_next_append(tmp_path, torn):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"n": 1}\n' + torn)

    append_lines(path, [{"n": 3}])

    assert path.read_text() == '{"n": 1}\n{"n": 3}\n'


def test_a_file_with_only_an_incomplete_line_becomes_empty(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text("x" * 200_000)

    append_lines(path, [{"n": 1}])

    assert path.read_text() == '{"n": 1}\n'


def test_an_append_that_fails_in_the_middle_loses_none_of_the_lines_before(tmp_path):
    path = tmp_path / "lines.jsonl"
    append_lines(path, [{"n": 1}])

    printed = on_a_full_disk(path, "append_lines", "[{'text': 'x' * 100}]")

    assert printed == f"cannot write {path}|File too large\n"
    assert list(read_lines(path)) == [{"n": 1}]


def test_a_missing_file_is_read_as_no_lines(tmp_path):
    assert list(read_lines(tmp_path / "none.jsonl")) == []


def test_an_incomplete_last_line_is_ignored(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"n": 1}\n{"n": 2}')

    assert list(read_lines(path)) == [{"n": 1}]


@pytest.mark.parametrize("damaged", [b'{"n": 2', b"", b'{"n": "\xff"}'])
def test_a_damaged_line_that_is_not_the_last_is_named(tmp_path, damaged):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"n": 1}\n' + damaged + b'\n{"n": 3}\n')

    with pytest.raises(TraitError) as caught:
        list(read_lines(path))

    assert caught.value.problem == f"{path} is damaged"
    assert caught.value.cause.startswith("line 2: ")
    assert caught.value.fix == "rename the run folder and start again"


def test_the_lines_before_a_damaged_one_are_read(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text(json.dumps({"n": 1}) + "\n}\n")

    lines = read_lines(path)

    assert next(lines) == {"n": 1}


def test_a_taken_lock_names_its_process_and_host(tmp_path):
    other = lock_in_another_process(tmp_path / "lock")
    try:
        with lock(tmp_path / "lock") as holder:
            assert holder == f"process {other.pid} on {socket.gethostname()}"
    finally:
        other.kill()
        other.communicate()


def test_the_lock_of_a_killed_process_is_taken_over(tmp_path):
    other = lock_in_another_process(tmp_path / "lock")
    other.kill()
    other.communicate()
    assert (tmp_path / "lock").is_file()

    with lock(tmp_path / "lock") as holder:
        assert holder is None


def test_a_lock_of_another_host_is_not_taken_over(tmp_path):
    (tmp_path / "lock").write_text(f"{os.getpid()}\nsome-other-host\n", encoding="utf-8")

    with lock(tmp_path / "lock") as holder:
        assert holder == f"process {os.getpid()} on some-other-host"
    assert (tmp_path / "lock").is_file()


def test_a_released_lock_leaves_no_file(tmp_path):
    with lock(tmp_path / "run" / "lock"):
        assert [path.name for path in (tmp_path / "run").iterdir()] == ["lock"]
    assert list((tmp_path / "run").iterdir()) == []


def test_a_lock_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")

    with pytest.raises(TraitError, match="cannot write"), lock(tmp_path / "file" / "lock"):
        pass
