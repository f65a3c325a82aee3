"""Keeps monitoring records: one in a .json file, several as lines of a .jsonl file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from traitcli.errors import UserError
from traitcli.events import Listener, Warned
from traitcli.files import (
    append_lines,
    explain_unreadable,
    list_files,
    parse_json,
    read_text,
    write_atomic,
)
from traitcli.record_json import FailedRecord, from_json, to_json
from traitcli.records import TokenScores
from traitcli.report_records import NamedRecord
from traitcli.shipped import find_shipped


def keep_record(path: Path, record: TokenScores) -> None:
    """Append the record to a .jsonl file; replace any other file by the record."""
    if path.suffix == ".jsonl":
        append_records(path, [record])
    else:
        write_atomic(path, json.dumps(to_json(record), ensure_ascii=False) + "\n")


def append_records(path: Path, records: Sequence[TokenScores | FailedRecord]) -> None:
    """Append records to a .jsonl file, each on its line.

    A last line without a line end is kept when it is whole JSON, and removed when a kill left only
    a part of it.
    """
    if path.is_file() and path.stat().st_size:
        last = path.read_bytes().rpartition(b"\n")[2]
        # append_lines cuts every line that has no end, and an editor may have left a whole one.
        if last and _is_json(last):
            with path.open("ab") as file:
                file.write(b"\n")
    append_lines(path, map(to_json, records))


def save_chat(
    path: Path,
    system: str | None,
    history: Sequence[Mapping[str, str]],
    turns: Sequence[TokenScores],
) -> None:
    """Write a chat as messages, which `--input` reads, with the record of every turn.

    Replaces the file. `read_records` reads the turns.
    """
    system_messages = [{"role": "system", "content": system}] if system else []
    chat = {"messages": [*system_messages, *map(dict, history)], "turns": list(map(to_json, turns))}
    write_atomic(path, json.dumps(chat, ensure_ascii=False) + "\n")


def record_path(runs: Path, name: str, suffix: str = ".json") -> Path:
    """`runs/monitor/<time>-<first words>.json`: sorts by time, and is safe for any name."""
    words = re.sub(r"[^a-z0-9]+", "-", name.lower())[:40].strip("-") or "prompt"
    return runs / "monitor" / f"{datetime.now().strftime('%Y%m%d-%H%M%S-%f')}-{words}{suffix}"


def find_records(runs: Path, names: Sequence[str]) -> list[Path]:
    """The named files and those of named folders, or else all in `runs/monitor`.

    Those of a folder come with the latest first. Raises UserError for a folder without any.
    """
    if not names:
        return _files_of(runs / "monitor")
    found: list[Path] = []
    for path in map(Path, names):
        own = _files_of(path) if path.is_dir() else [path]
        if not own:
            raise UserError(f"{path} has no records", cause="no .json or .jsonl is in it", fix=_FIX)
        found += own
    return found


def _files_of(folder: Path) -> list[Path]:
    return sorted(list_files(folder, "*.json", "*.jsonl"), reverse=True)


def read_records(path: Path) -> list[TokenScores | FailedRecord]:
    """Read all records of a file; raises UserError when it holds none, or anything else."""
    try:
        text = read_text(path)
        data = _parse_lines(text) if path.suffix == ".jsonl" else parse_json(text)
    except (OSError, ValueError) as error:
        raise UserError(
            f"cannot read the record {path}", cause=explain_unreadable(error), fix=_FIX
        ) from None

    # One record, a list of them, or a chat.
    if isinstance(data, dict):
        data = data.get("turns", [data])  # save_chat writes `turns`
    entries = data if isinstance(data, list) else [data]
    if not entries:
        raise UserError(f"{path} is not a monitoring record", cause="it is empty", fix=_FIX)
    try:
        return [from_json(entry) for entry in entries]
    except ValueError as error:
        raise UserError(f"{path} is not a monitoring record", cause=str(error), fix=_FIX) from None


def collect_records(
    runs: Path, names: Sequence[str], on_event: Listener = lambda event: None
) -> list[NamedRecord]:
    """Read the named files and folders, or else `runs/monitor`, or else the shipped example.

    Leaves out failures. Raises UserError when a named file is not a monitoring record; one in
    a folder is left out with a warning.
    """
    paths = find_records(runs, names) or list_files(find_shipped("docs/examples"), "*.json")
    found = []
    for path in paths:
        try:
            found += _read_named(path)
        except UserError as error:
            if path in map(Path, names):
                raise
            on_event(Warned("", f"{path} is left out: {error.cause}"))
    return found


def _read_named(path: Path) -> list[NamedRecord]:
    """The records of a file, numbered when there are several; a failure keeps its number."""
    records = read_records(path)
    found = []
    for number, record in enumerate(records, start=1):
        name = f"{path.stem} {number}" if len(records) > 1 else path.stem
        if isinstance(record, TokenScores):
            found.append(NamedRecord(name, record))
    return found


def _parse_lines(text: str) -> list[Any]:
    """Parse each line; a last line that a kill cut short is skipped."""
    # Not splitlines: it also splits at U+2028, which may occur in an answer.
    *lines, last = text.split("\n")
    if _is_json(last):
        lines.append(last)
    return [_parse_line(number, line) for number, line in enumerate(lines, 1) if line.strip()]


def _parse_line(number: int, line: str) -> Any:
    try:
        return parse_json(line)
    except ValueError as error:
        raise ValueError(f"line {number}: {explain_unreadable(error, is_line=True)}") from None


def _is_json(text: str | bytes) -> bool:
    try:
        parse_json(text)
    except ValueError:
        return False
    return True


_FIX = "name a file that traitcli monitor wrote"
