"""Reads files of existing responses; their content says what they are, not their name."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from yaml import YAMLError

from traitcli.errors import UserError
from traitcli.files import decode_text, explain_unreadable, parse_json, parse_lines
from traitcli.monitoring.eval_archives import is_archive
from traitcli.monitoring.inspect_logs import (
    InspectSample,
    is_log,
    read_sample,
    samples_in,
    samples_of,
)
from traitcli.monitoring.log_facts import read_facts
from traitcli.monitoring.log_shapes import (
    FORMS,
    PROMPTS,
    RESPONSES,
    Entry,
    Exchange,
    ShapeError,
    is_chat,
    read_entry,
)
from traitcli.yaml_files import parse_yaml

__all__ = ["Exchange", "Transcript", "read_exchanges", "read_transcript"]

STDIN = Path("-")
_INSPECT = "an Inspect log"
_JSON_NAMES = {".jsonl", ".json", ".ndjson"}
_YAML_NAMES = {".yaml", ".yml"}
_TABLE_NAMES = {".csv", ".tsv"}
_LINE_NAMES = {".jsonl", ".ndjson"}
_AT_ONCE = 2**26
"""Bytes of a file of JSON lines that are read in one piece; a larger one is read line by line."""
_LARGEST = 2**30
"""Bytes of a file in another form, and of a line."""
_SAMPLE = 4096
"""Characters that show whether a file is a table."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """The responses of a file, and in words what it was read as."""

    exchanges: list[Exchange]
    description: str


def read_exchanges(path: Path, prompt: str = "") -> list[Exchange]:
    """The responses of a file; see `read_transcript`."""
    return read_transcript(path, prompt).exchanges


def read_transcript(
    path: Path,
    prompt: str = "",
    keys: Sequence[str] = (),
    group_by: str = "",
    name: str = "",
) -> Transcript:
    """Read all responses of a file, or of stdin if the path is "-".

    JSON, JSON lines, CSV and YAML are recognized; any other text is one response to `prompt`, as is
    a response without a prompt in the file. In a chat, each message of the assistant is a response.
    An entry that cannot be read becomes an exchange with a problem, so that one bad line does not
    stop the rest. Of `keys`, those that an entry has are kept with its last response.

    Args:
        path: The file, or "-" for stdin.
        prompt: What a response without a prompt answers.
        keys: Keys to keep with the last response of an entry.
        group_by: A key to keep under `about` of each response.
        name: What `about` calls the file (default: its name).

    Raises UserError when there is no response at all.
    """
    name = name or ("stdin" if path == STDIN else shown_name(path.name))
    form, entries, text = _open(path)
    if entries is None:
        exchange = Exchange(prompt, text, about={"file": name, **read_facts(None, name)})
        if not text.strip():
            raise UserError(f"nothing to read in {path}", cause="it is empty", fix=FORMS)
        return Transcript([exchange], f"read {name} as plain text, one response")

    found: list[Exchange] = []
    shapes: Counter[str] = Counter()
    left_out: set[str] = set()
    for number, value in entries:
        about = {"file": name, "line": number}
        try:
            if isinstance(value, ValueError):
                raise ShapeError(explain_unreadable(value, is_line=True))
            entry = _read(value, about, name, [group_by] if group_by else [])
        except ShapeError as error:
            found.append(Exchange("", "", about=about, problem=str(error)))
            continue
        *others, last = entry.exchanges
        found += [*others, replace(last, keys=_values(value, keys))]
        shapes[entry.shape] += 1
        left_out |= entry.left_out

    if not any(one.response and not one.problem for one in found):
        raise UserError(f"nothing to read in {path}", cause=_first_problem(found), fix=FORMS)
    found = [one if one.prompt or one.history else replace(one, prompt=prompt) for one in found]
    without = sum(not (one.prompt or one.history or one.problem) for one in found)
    return Transcript(found, _describe(name, form, shapes, left_out, without))


def _read(value: Any, about: dict[str, Any], name: str, keys: Sequence[str]) -> Entry:
    """Take an entry apart; raises ShapeError if it has none of the shapes."""
    if isinstance(value, InspectSample):
        return read_sample(value, about, name, keys)
    return read_entry(value, about | read_facts(value, name, keys))


def shown_name(name: str) -> str:
    """A file's name as text that a record can hold; bytes that are not UTF-8 become escapes."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _open(path: Path) -> tuple[str, Iterator[tuple[int, Any]] | None, str]:
    """The form of a file, its numbered entries (None for plain text), and its text if it is read.

    Raises UserError if the file cannot be read.
    """
    if path != STDIN and is_archive(path):
        return _INSPECT, samples_of(path), ""
    if _is_streamed(path):
        return "JSON lines", _stream_lines(path), ""
    text = _read_text(path)
    return *_split(path, text), text


def _values(entry: Any, keys: Sequence[str]) -> dict[str, Any]:
    """The values of some keys of an entry; the columns of a table are in lower case."""
    if not isinstance(entry, Mapping):
        return {}
    spelled = {key: key if key in entry else key.lower() for key in keys}
    return {key: entry[own] for key, own in spelled.items() if own in entry}


def _read_text(path: Path) -> str:
    try:
        data = sys.stdin.buffer.read() if path == STDIN else path.read_bytes()
        # A log of Inspect is an archive, which is read from its end.
        if path == STDIN and data.startswith(b"PK\x03\x04"):
            raise UserError(
                "cannot read stdin",
                cause="it is a zip archive, such as a .eval log of Inspect, not text",
                fix="name the file: traitcli monitor --input LOG.eval",
            )
        text = decode_text(data).replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError) as error:
        is_missing = isinstance(error, FileNotFoundError)
        fix = "check the path" if is_missing else "name a text file in UTF-8"
        raise UserError(f"cannot read {path}", cause=explain_unreadable(error), fix=fix) from None
    # Parquet and office files may be valid UTF-8 by chance.
    if "\0" in text:
        raise UserError(
            f"cannot read {path}", cause="it is not text", fix="name a text file in UTF-8"
        )
    return text


def _is_streamed(path: Path) -> bool:
    """Whether a file is too large to be read at once, and is lines.

    Raises UserError for a file of that size which is not lines.
    """
    try:
        size = 0 if path == STDIN else path.stat().st_size
    except OSError:
        return False  # reading it says why
    if size > _AT_ONCE and path.suffix.lower() in _LINE_NAMES:
        return True
    if size > _LARGEST:
        cause = f"it has {size / 2**30:.1f} GiB, and only JSON lines are read in parts"
        raise UserError(f"cannot read {path}", cause=cause, fix="store it as .jsonl, or split it")
    return False


def _stream_lines(path: Path) -> Iterator[tuple[int, Any]]:
    """Number and value of each line that is not blank; the ValueError for other lines.

    Raises UserError if the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(_LARGEST):
                number += 1
                if line.isspace():
                    continue
                try:
                    yield number, parse_json(decode_text(line))
                except ValueError as error:
                    yield number, error
    except OSError as error:
        cause = explain_unreadable(error)
        raise UserError(f"cannot read {path}", cause=cause, fix="check the path") from None


def _describe(
    name: str, form: str, shapes: Mapping[str, int], left_out: set[str], without: int
) -> str:
    listed = ", ".join(f"{count} × {shape}" for shape, count in shapes.items())
    note = f"; not read: {', '.join(sorted(left_out))}" if left_out else ""
    # What a response answers changes its states.
    bare = f"; {without} without a prompt" if without else ""
    return f"read {name} as {form}: {listed}{note}{bare}"


def _split(path: Path, text: str) -> tuple[str, Iterator[tuple[int, Any]] | None]:
    """The form of a file, and the number and value of each entry; None for plain text."""
    suffix = path.suffix.lower()
    start = text.lstrip()[:1]
    if start in {"{", "["}:
        try:
            value = parse_json(text)
        except ValueError:
            value = None
        if value is not None:
            return (_INSPECT, samples_in(value)) if is_log(value) else ("JSON", _entries(value))
        lines = list(parse_lines(text))
        # One line that is JSON is enough: the others are damaged.
        if suffix in _JSON_NAMES or any(not isinstance(one, ValueError) for _, one in lines):
            return "JSON lines", iter(lines)
    elif suffix in _JSON_NAMES and text.strip():
        return "JSON lines", parse_lines(text)
    if suffix in _YAML_NAMES:
        return "YAML", _entries(_read_yaml(path, text))
    if suffix in _TABLE_NAMES or _is_table(text):
        return "CSV", _rows(path, text)
    return "plain text", None


def _entries(value: Any) -> Iterator[tuple[int, Any]]:
    """The entries of a list with their numbers; a bare list of messages is one entry."""
    is_list = isinstance(value, list) and not is_chat(value)
    return enumerate(value if is_list else [value], start=1)


def _read_yaml(path: Path, text: str) -> Any:
    try:
        return parse_yaml(text)
    except YAMLError as error:
        cause = " ".join(str(error).split())
        raise UserError(f"{path} is not YAML", cause=cause, fix="correct it") from None


def _dialect(text: str) -> str:
    """The character between cells: the one that the first line has most of."""
    first = text.lstrip().split("\n", 1)[0]
    return max(",;\t", key=first.count)


def _columns(text: str) -> list[str]:
    first = next(csv.reader(io.StringIO(text[:_SAMPLE]), delimiter=_dialect(text)), [])
    return [cell.strip().lower() for cell in first]


def _is_table(text: str) -> bool:
    """Whether the first line names a column of responses and one of prompts."""
    try:
        columns = set(_columns(text))
    except csv.Error:
        return False
    return not columns.isdisjoint(RESPONSES) and not columns.isdisjoint(PROMPTS)


def _rows(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """The line and the cells of each row, by column."""
    columns = _columns(text)
    if set(columns).isdisjoint(RESPONSES):
        raise UserError(
            f"{path} has no column of responses",
            cause=f"its columns are {', '.join(columns)}",
            fix=f"name one of them {RESPONSES[0]}; {', '.join(RESPONSES[1:4])} are read too",
        )
    # A cell may be long: csv's own limit is 128 KiB.
    csv.field_size_limit(2**27)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_dialect(text))
    line = 1
    try:
        for number, cells in enumerate(reader):
            if number and cells:
                yield line, dict(zip(columns, cells, strict=False))
            line = reader.line_num + 1
    except csv.Error as error:
        yield line, ValueError(f"not CSV: {error}")


def _first_problem(found: Sequence[Exchange]) -> str:
    """Why the first entry cannot be read, and where it is if there are several."""
    if not found or not found[0].problem:
        return "it is empty"
    if len(found) == 1:
        return found[0].problem
    return found[0].located_problem
