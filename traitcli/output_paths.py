"""Checks that an output path can be written, before any work is done for it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from traitcli.errors import UserError


def check_output_file(path: Path, option: str = "--out") -> None:
    """Raise UserError if a file cannot be written to a path; `option` is what names the path."""
    if path.is_dir():
        raise _cannot_write(path, f"{path} is a folder", f"name a file with {option}")
    if path.exists() and not path.is_file():
        raise _cannot_write(path, f"{path} is not a regular file", f"name a file with {option}")
    _check_parent(path, path.parent, f"name another file with {option}")


def check_output_folder(path: Path, option: str = "--out") -> None:
    """Raise UserError if files cannot be written into a folder, which need not exist yet."""
    _check_parent(path, path, f"name a folder with {option}")


def _check_parent(path: Path, folder: Path, fix: str) -> None:
    # The folders that do not exist are made when the file is written.
    existing = next((one for one in (folder, *folder.parents) if one.exists()), Path())
    if not existing.is_dir():
        raise _cannot_write(path, f"{existing} is not a folder", fix)
    try:
        # Not os.access, which says that the administrator may write to a read-only disk.
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        cause = f"no file can be made in {existing}: {error.strerror or error}"
        raise _cannot_write(path, cause, fix) from None


def _cannot_write(path: Path, cause: str, fix: str) -> UserError:
    return UserError(f"cannot write to {path}", cause=cause, fix=fix)
