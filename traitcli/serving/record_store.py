"""Keeps the records of served answers: the last ones in memory, all of them in a folder if named.

batch's thread ── keep ──> memory, bounded
                    └────> queue ── own thread ──> FOLDER/<id>.json
"""

from __future__ import annotations

import re
import secrets
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Self

from traitcli.errors import StorageError, UserError
from traitcli.monitoring.record_files import keep_record, read_records
from traitcli.output_paths import check_output_folder
from traitcli.records import TokenScores

KEPT = 256
"""Records in memory. One of 500 tokens and 8 traits takes about half a megabyte."""

_ID = re.compile(r"\d{8}-\d{6}-\d{6}-[0-9a-f]{32}", re.ASCII)


def new_id() -> str:
    """An id that sorts by time and cannot be guessed: who knows it may read the record."""
    return f"{datetime.now():%Y%m%d-%H%M%S-%f}-{secrets.token_hex(16)}"


class RecordStore:
    """Records by id, from `with` to its end. All methods may be called from any thread.

    Args:
        folder: Where each record gets a file that `traitcli report` reads; none: nowhere.
        on_problem: Called with the first error of several in a row, from the thread that writes.
        kept: How many records stay in memory.

    Raises:
        UserError: The folder cannot be written.
    """

    def __init__(
        self, folder: Path | None, on_problem: Callable[[StorageError], None], kept: int = KEPT
    ) -> None:
        if folder is not None:
            check_output_folder(folder, "--record")
        self._folder = folder
        self._on_problem = on_problem
        self._kept = kept
        # All that follows is changed only with this lock; waiting threads are woken by its changes.
        self._changed = threading.Condition()
        self._records: OrderedDict[str, TokenScores] = OrderedDict()
        self._unwritten: deque[tuple[Path, TokenScores]] = deque()
        self._is_closed = False
        self._has_problem = False
        self.lost = 0
        """Records that could not be written to the folder."""
        self._thread = threading.Thread(target=self._run, name="records", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        """Write what is left."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join()

    def keep(self, record_id: str, record: TokenScores) -> None:
        """Keep a record; a file of it is written later."""
        with self._changed:
            self._records[record_id] = record
            if len(self._records) > self._kept:
                self._records.popitem(last=False)
            if self._folder is not None:
                self._unwritten.append((_path(self._folder, record_id), record))
                self._changed.notify_all()

    def find(self, record_id: str) -> TokenScores | None:
        """The record of an id, from memory or from its file, where scores are rounded; or none."""
        with self._changed:
            if record_id in self._records:
                self._records.move_to_end(record_id)
                return self._records[record_id]
        # Ids come from clients: no other text may become a path.
        if self._folder is None or not _ID.fullmatch(record_id):
            return None
        try:
            [record] = read_records(_path(self._folder, record_id))
        except UserError:
            return None
        return record if isinstance(record, TokenScores) else None

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all files are written, at most `timeout` seconds; returns whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._unwritten, timeout)

    def _run(self) -> None:
        while (found := self._next()) is not None:
            problem = _write(*found)
            with self._changed:
                # Only now: `flush` waits for the file, too.
                self._unwritten.popleft()
                self.lost += problem is not None
                is_new = problem is not None and not self._has_problem
                self._has_problem = problem is not None
                self._changed.notify_all()
            # A full disk would otherwise fill the log as well.
            if problem is not None and is_new:
                self._on_problem(problem)

    def _next(self) -> tuple[Path, TokenScores] | None:
        """Wait for the next record to write; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._unwritten or self._is_closed)
            return self._unwritten[0] if self._unwritten else None


def _path(folder: Path, record_id: str) -> Path:
    return folder / f"{record_id}.json"


def _write(path: Path, record: TokenScores) -> StorageError | None:
    try:
        keep_record(path, record)
    except StorageError as error:
        return error
    return None
