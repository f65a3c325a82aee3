"""Writes files so that a kill at any moment leaves them whole: atomic replace, append-only lines, locks."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from traitcli.errors import StorageError, TraitError


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace a file at once: readers see the old content or the new, never a part.

    Raises StorageError when the folder cannot be written or the disk is full.
    """
    data = content.encode() if isinstance(content, str) else content
    scratch = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(scratch).chmod(0o666 & ~_umask())
        Path(scratch).replace(path)
    except OSError as error:
        if scratch:
            Path(scratch).unlink(missing_ok=True)
        raise StorageError(
            f"cannot write {path}", cause=error.strerror or str(error), fix=_FIX
        ) from None


def append_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Append records as JSON lines in one write, on disk when it returns.

    A torn last line, left by a kill in the middle of a write, is cut first. Raises StorageError.
    """
    block = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            _cut_torn_line(file)
            file.write(block)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(
            f"cannot write {path}", cause=error.strerror or str(error), fix=_FIX
        ) from None


def parse_json(text: str | bytes) -> Any:
    """What JSON text holds; raises ValueError when it is none, and also when it is nested too deep to be read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a JSON-lines file; none when it is not there; a torn last line is passed over."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield parse_json(line)
            except ValueError as error:
                raise TraitError(
                    f"{path} is damaged",
                    cause=f"line {number}: {error}",
                    fix="move the run aside and start anew",
                ) from None


@contextmanager
def lock(path: Path) -> Iterator[str | None]:
    """Hold a lock file, which tells the process and its host; gives nothing, or who holds it if it is taken.

    It works on shared file systems too. The lock of a process of this host that has ended is taken over.
    Raises StorageError when the folder cannot be written.
    """
    from filelock import SoftFileLock, Timeout

    mine = SoftFileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mine.acquire(timeout=_A_MOMENT, poll_interval=0.05)
    except Timeout:
        yield _holder(path)
        return
    except OSError as error:
        raise StorageError(
            f"cannot write {path}", cause=error.strerror or str(error), fix=_FIX
        ) from None
    try:
        yield None
    finally:
        mine.release()


_A_MOMENT = 0.5
"""Seconds in which a lock that was left behind is surely noticed."""
_FIX = (
    "free space or choose another folder; what was finished is kept, and the same command goes on"
)


def _cut_torn_line(file: Any) -> None:
    """Shorten an open file to its last whole line."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - 2**16)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    file.truncate(end)


def _holder(path: Path) -> str:
    """The process that a lock file names."""
    try:
        pid, host = path.read_text(encoding="utf-8").splitlines()[:2]
    except (OSError, ValueError):
        return "some process"
    return f"process {pid} on {host}"


def _umask() -> int:
    current = os.umask(0o022)
    os.umask(current)
    return current
