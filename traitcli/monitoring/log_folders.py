"""Reads all logs in a folder, one file after the other."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from traitcli.errors import UserError
from traitcli.files import is_left_over
from traitcli.monitoring.log_shapes import Exchange
from traitcli.monitoring.transcripts import read_transcript, shown_name

LOG_NAMES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".yaml", ".yml", ".txt", ".eval")
"""Endings of the files that are read. Any other file in a folder may not be a log."""
_AT_ONCE = 256
"""Texts that are handed over together: the model reads many at once, and files may be small."""


@dataclass(frozen=True, slots=True)
class LogFolder:
    """The logs of a folder, and how many other files it has by ending."""

    path: Path
    files: tuple[Path, ...]
    others: Counter[str]

    @property
    def description(self) -> str:
        """What is read and what is not, as one line."""
        count = f"{len(self.files)} file{'s' if len(self.files) > 1 else ''}"
        line = f"reading {count} in {shown_name(str(self.path))}"
        if not self.others:
            return line
        kinds = ", ".join(f"{number} × {ending}" for ending, number in self.others.most_common(5))
        return f"{line}; not read: {kinds}{', …' if len(self.others) > 5 else ''}"


def find_logs(folder: Path, without: Path | None = None) -> LogFolder:
    """The logs in a folder and in the folders below it, sorted by name.

    Args:
        folder: Where to look. Hidden files and folders, and links to folders, are passed over.
        without: A file that is not a log, such as the output.

    Returns:
        The files, which are not opened.

    Raises:
        UserError: There is no log.
    """
    files: list[Path] = []
    others: Counter[str] = Counter()
    output = without.resolve() if without else None
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not is_left_over(name))
        for name in names:
            path = Path(place, name)
            # A pipe or a device would wait or never end.
            if is_left_over(name) or not path.is_file() or path.resolve() == output:
                continue
            if path.suffix.lower() in LOG_NAMES:
                files.append(path)
            else:
                others[shown_name(path.suffix.lower()) or "without an ending"] += 1
    if not files:
        raise UserError(
            f"there is nothing to read in {folder}",
            cause=f"it has no file that ends in {', '.join(LOG_NAMES)}",
            fix="name another folder, or a file: a single file may have any name",
        )
    return LogFolder(folder, tuple(sorted(files)), others)


def read_logs(
    logs: LogFolder, prompt: str = "", group_by: str = ""
) -> Iterator[Sequence[Exchange]]:
    """Read the files one by one, so that no more than one of them is in memory.

    Args:
        logs: What `find_logs` found.
        prompt: What a response without a prompt answers.
        group_by: A key to keep under `about` of each response.

    Yields:
        The responses of one file, or of several small ones. A file that cannot be read is an
        exchange with a problem.
    """
    waiting: list[Exchange] = []
    for path in logs.files:
        name = shown_name(path.relative_to(logs.path).as_posix())
        try:
            waiting += read_transcript(path, prompt, group_by=group_by, name=name).exchanges
        except UserError as error:
            waiting.append(Exchange("", "", about={"file": name}, problem=error.cause))
        if len(waiting) >= _AT_ONCE:
            yield waiting
            waiting = []
    if waiting:
        yield waiting
