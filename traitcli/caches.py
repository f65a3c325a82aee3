"""The user's cache folder, and what happens where it cannot be written."""

from __future__ import annotations

import atexit
import errno
import shutil
import tempfile
from pathlib import Path

from platformdirs import user_cache_path

from traitcli.errors import StorageError
from traitcli.events import Listener, Warned


def cache_folder() -> Path:
    """The folder of everything that traitcli keeps between commands; it may not exist."""
    return user_cache_path("traitcli")


def disk_full(problem: str, folder: Path) -> StorageError:
    """The error for a cache folder whose disk is full."""
    return StorageError(
        problem,
        cause=f"no space left in {folder}",
        fix="free disk space, or set XDG_CACHE_HOME to a folder on another disk",
    )


def writable_cache(name: str, on_event: Listener, consequence: str) -> Path:
    """A folder of this name in the cache; a temporary one, with a warning, if that is read-only.

    The temporary folder goes when the process ends. Raises StorageError if the disk is full.
    """
    folder = cache_folder() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise disk_full(f"cannot write {folder}", folder) from None
        reason = error.strerror or str(error)
    on_event(
        Warned("", f"cannot write the cache {folder} ({reason}): {consequence}; set XDG_CACHE_HOME")
    )
    temporary = Path(tempfile.mkdtemp(prefix="traitcli-"))
    atexit.register(shutil.rmtree, temporary, ignore_errors=True)
    return temporary
