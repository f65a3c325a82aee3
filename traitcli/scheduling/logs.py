"""Writes a log for each worker of a run."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path


def log_path(folder: Path, worker: int) -> Path:
    return folder / f"worker-{worker}.log"


class WorkerLogs:
    """The logs of the workers in a folder; without a folder, nothing is written."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def note(self, worker: int, text: str) -> None:
        """Write a line with the time of day."""
        self.write(worker, f"{time.strftime('%H:%M:%S')} worker {worker} {text}\n")

    def write(self, worker: int, text: str) -> None:
        """Append text as it is."""
        if self._folder is None:
            return
        # A full disk must not end the run because of a log.
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            # Opened for each text: a local worker process appends to the same file.
            with log_path(self._folder, worker).open("a", encoding="utf-8") as file:
                file.write(text)
