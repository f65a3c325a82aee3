"""Opens Inspect's .eval archives: a zip file with one JSON file a sample, possibly hostile."""

from __future__ import annotations

import importlib.util
import io
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from traitcli.errors import UserError
from traitcli.files import explain_unreadable, parse_json, unpack_zstandard

_ZSTANDARD = 93
"""The compression of today's logs; Python's zipfile reads it from 3.14 on."""
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, _ZSTANDARD}
LARGEST_SAMPLE = 2**28
"""Bytes of one file in an archive, unpacked: 256 MiB. Its JSON takes several times as much."""
LARGEST_TOTAL = 2**35
"""Bytes of all files in an archive, unpacked: 32 GiB."""
_DAMAGED = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error),
    *(EOFError, NotImplementedError, RuntimeError, OverflowError, ValueError),
)
_HEADERS = ("header.json", "_journal/start.json")
"""What describes the evaluation; the second is all that an unfinished log has."""


def is_archive(path: Path) -> bool:
    """Whether a file is a zip file, or a damaged one that is named as a log of Inspect."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            has_mark = file.read(4) == b"PK\x03\x04"
        return has_mark and (path.suffix.lower() == ".eval" or zipfile.is_zipfile(path))
    except OSError:
        return False  # reading it says why


def read_archive(path: Path) -> Iterator[tuple[int, Any]]:
    """The evaluation's description and then each sample, one at a time in memory.

    Args:
        path: A file for which `is_archive` is true.

    Yields:
        0 and the value of `eval`; then number and JSON of each sample, or the ValueError of one
        that cannot be read.

    Raises:
        UserError: The archive is damaged, has no evaluation, or needs a package.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            # A name that is in the archive twice was written again: the last one is valid.
            members = {info.filename: info for info in archive.infolist()}
            _check(path, members)
            header = next((members[name] for name in _HEADERS if name in members), None)
            description = parse_json(_unpack(file, archive, header)) if header else None
            if not isinstance(description, dict) or not isinstance(description.get("eval"), dict):
                cause = "it is a zip file without the log of an evaluation"
                raise UserError(f"cannot read {path}", cause=cause, fix=_FIX)
            yield 0, description["eval"]
            samples = [name for name in members if name.startswith("samples/")]
            for number, name in enumerate(sorted(samples), start=1):
                yield number, _sample(file, archive, members[name])
    except OSError as error:
        cause = explain_unreadable(error)
        raise UserError(f"cannot read {path}", cause=cause, fix="check the path") from None
    except _DAMAGED as error:
        raise UserError(f"cannot read {path}", cause=f"damaged: {error}", fix=_FIX) from None


def _check(path: Path, members: dict[str, zipfile.ZipInfo]) -> None:
    """Raise UserError for an archive that would unpack to too much, or needs a package."""
    total = sum(info.file_size for info in members.values())
    if total > LARGEST_TOTAL:
        cause = f"it unpacks to {total / 2**30:,.0f} GiB, and the limit is 32"
        raise UserError(f"cannot read {path}", cause=cause, fix="split the log")
    is_packed = any(info.compress_type == _ZSTANDARD for info in members.values())
    if is_packed and sys.version_info < (3, 14) and not importlib.util.find_spec("zstandard"):
        raise UserError(
            f"cannot read {path}",
            cause="it is compressed with Zstandard, and the package zstandard is not installed",
            fix="pip install 'traitcli[inspect]'",
        )


def _sample(file: io.BufferedReader, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Any:
    try:
        return parse_json(_unpack(file, archive, info))
    except _DAMAGED as error:
        return ValueError(explain_unreadable(error) if isinstance(error, ValueError) else error)


def _unpack(file: io.BufferedReader, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The content of a member; raises one of _DAMAGED."""
    if max(info.file_size, info.compress_size) > LARGEST_SAMPLE:
        raise ValueError(f"it has {info.file_size / 2**20:,.0f} MiB, and the limit is 256")
    if info.compress_type not in _METHODS:
        raise ValueError(f"its compression {info.compress_type} is not one that Inspect uses")
    if info.compress_type != _ZSTANDARD or sys.version_info >= (3, 14):
        with archive.open(info) as member:
            # No more than the size that was checked above; zipfile checks the sum.
            return member.read(info.file_size + 1)
    data = unpack_zstandard(_packed(file, info), info.file_size)
    if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
        raise ValueError("its content does not have the size or sum that the archive says")
    return data


def _packed(file: io.BufferedReader, info: zipfile.ZipInfo) -> bytes:
    """The compressed bytes of a member: behind its own header, which has a variable length."""
    file.seek(info.header_offset)
    header = file.read(30)
    if len(header) < 30 or not header.startswith(b"PK\x03\x04"):
        raise ValueError("the archive has no file where it says")
    file.seek(sum(struct.unpack("<HH", header[26:30])), io.SEEK_CUR)
    return file.read(info.compress_size)


_FIX = "name a .eval or .json log of Inspect"
