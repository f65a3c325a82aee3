"""Reads users' files, and writes files that survive a kill: atomic, append-only, locked."""

from __future__ import annotations

import codecs
import io
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from traitcli.errors import StorageError, TraitError


def write_atomic(path: Path, content: str | bytes | Sequence[bytes | memoryview]) -> None:
    """Replace a file atomically: readers see the old content or the new, never a part of it.

    Raises StorageError if the folder cannot be written or the disk is full.
    """
    data = content.encode() if isinstance(content, str) else content
    # In the same folder, because a rename is atomic only within one file system.
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("xb") as file:
            file.writelines([data] if isinstance(data, bytes) else data)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except OSError as error:
        with suppress(OSError):  # it may not exist, nor its folder
            scratch.unlink()
        raise StorageError(
            f"cannot write {path}", cause=error.strerror or str(error), fix=_FIX
        ) from None


def append_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Append records as JSON lines in one write. They are on disk when it returns.

    It first cuts a torn last line, which a kill in the middle of a write leaves behind.
    Raises StorageError.
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


def list_files(folder: Path, *patterns: str) -> list[Path]:
    """The files of a folder that match a pattern, sorted; empty if there is no such folder.

    Files that an editor, an archive or the system left there are passed over.
    """
    found = {path for pattern in patterns for path in folder.glob(pattern)}
    return sorted(path for path in found if not is_left_over(path.name))


def is_left_over(name: str) -> bool:
    """Whether a file is hidden, or a copy that an editor keeps: ._x, .#x, #x#, x~, ~$x."""
    return name.startswith((".", "#", "~$")) or name.endswith(("~", "#", ".swp", ".bak"))


def full_id(model_id: str) -> str:
    """A model's id; the absolute path of a folder or file, so that equal names differ."""
    path = Path(model_id)
    return str(path.resolve()) if path.exists() else model_id


def parse_json(text: str | bytes) -> Any:
    """Parse JSON text. Raises ValueError if it is invalid or nested too deep."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def read_text(path: Path) -> str:
    """The text of a file of any editor, lines ending in \\n; raises OSError, UnicodeDecodeError."""
    return decode_text(path.read_bytes()).replace("\r\n", "\n")


def decode_text(data: bytes) -> str:
    """Text from bytes in UTF-8, or in UTF-16 with its mark; raises UnicodeDecodeError."""
    # Excel and PowerShell begin their files with a byte order mark, and write UTF-16.
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if is_utf16 else "utf-8-sig")


def join_surrogates(text: str) -> str:
    """Text in which two halves of a character are one; a half alone becomes U+FFFD.

    Escapes such as \\ud83d\\ude00 write an emoji in two halves, and YAML leaves them apart.
    """
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def parse_lines(text: str) -> Iterator[tuple[int, Any]]:
    """Number and value of each line of JSON that is not blank; the ValueError for other lines."""
    # Not splitlines: it also splits at U+2028, which may occur in a text.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, parse_json(line)
            except ValueError as error:
                yield number, error


def unpack_zstandard(packed: bytes, size: int, window: int = 2**27) -> bytes:
    """Decompress Zstandard, at most one byte more than `size`.

    Args:
        packed: Whole frames.
        size: The expected number of bytes; a longer result shows that there is more.
        window: Bytes that a frame may look back, which are held in memory.

    Returns:
        The content, or its first size + 1 bytes.

    Raises:
        ValueError: The data is damaged, or needs a larger window.
        ModuleNotFoundError: zstandard is not installed.
    """
    import zstandard

    unpacker = zstandard.ZstdDecompressor(max_window_size=window)
    try:
        with unpacker.stream_reader(io.BytesIO(packed), read_across_frames=True) as reader:
            return bytes(reader.read(size + 1))
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None


def explain_unreadable(error: OSError | ValueError, *, is_line: bool = False) -> str:
    """Why a file cannot be read, in words: it is missing, is not text, or is not JSON.

    `is_line`: the text was one line of a file, so that its line number would always be 1.
    """
    for kind, words in _UNREADABLE.items():
        if isinstance(error, kind):
            return words
    if isinstance(error, json.JSONDecodeError):
        message = error.msg[:1].lower() + error.msg[1:].removesuffix(" at")
        line = "" if is_line else f"line {error.lineno}, "
        return f"not JSON: {message} at {line}column {error.colno}"
    return getattr(error, "strerror", None) or str(error)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a JSON-lines file; none if it does not exist. Skips a torn last line."""
    if not path.is_file():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                # Torn by a kill, or still being written: it was never reported as done.
                return
            try:
                yield parse_json(line)
            except ValueError as error:
                raise TraitError(
                    f"{path} is damaged",
                    cause=f"line {number}: {explain_unreadable(error, is_line=True)}",
                    fix="rename the run folder and start again",
                ) from None


@contextmanager
def lock(path: Path) -> Iterator[str | None]:
    """Hold a lock file. Yields None, or the name of the process that already holds it.

    The file names its process and host, so that it works on shared file systems too. A lock whose
    process on this host has ended is taken over. Raises StorageError if the folder cannot be
    written.
    """
    from filelock import SoftFileLock, Timeout

    # A lock of the operating system would be more robust, but NFS does not pass it on reliably.
    lock_file = SoftFileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock_file.acquire(timeout=_LOCK_TIMEOUT, poll_interval=0.05)
    except Timeout:
        yield _lock_holder(path)
        return
    except OSError as error:
        raise StorageError(
            f"cannot write {path}", cause=error.strerror or str(error), fix=_FIX
        ) from None
    try:
        yield None
    finally:
        lock_file.release()


_UNREADABLE: dict[type[Exception], str] = {
    FileNotFoundError: "the file does not exist",
    IsADirectoryError: "it is a folder",
    PermissionError: "you have no permission to read it",
    UnicodeDecodeError: "it is not text in UTF-8",
}
_LOCK_TIMEOUT = 0.5
"""Seconds; long enough to notice that the lock's process has ended."""
_FIX = "free disk space or choose another folder; finished work is kept, rerun the same command"


def _cut_torn_line(file: Any) -> None:
    """Truncate an open file after its last complete line."""
    end = file.seek(0, os.SEEK_END)
    # Backwards in blocks, because ledgers grow to hundreds of megabytes.
    while end:
        start = max(0, end - 2**16)
        file.seek(start)
        newline = file.read(end - start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    file.truncate(end)


def _lock_holder(path: Path) -> str:
    """The process that a lock file names."""
    try:
        pid, host = path.read_text(encoding="utf-8").splitlines()[:2]
    except (OSError, ValueError):
        return "an unknown process"
    return f"process {pid} on {host}"
