"""Reads files of ready responses: pairs of texts that show a trait and its opposite, and rollouts of others."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from traitcli.errors import DefinitionError
from traitcli.files import parse_json
from traitcli.records import POLARITIES, LabelledResponse

MAX_BYTES = 64 * 2**20
MAX_RESPONSES = 20_000
MAX_CHARACTERS = 100_000
"""Of a file, of all files, and of one text: more is a mistake, or another program's work."""
FOLDS = 5
"""As many as pairs are usual: each is left out once to see whether a vector separates the unseen."""
_KEYS = (("positive", "negative"), ("answer_matching_behavior", "answer_not_matching_behavior"))
_COLUMNS = ("question", "prompt", "answer", "question_id")
_ID = re.compile(r"(.+)_([0-9]{1,9})_(pos|neg)_([0-9]{1,9})")
_NUMBER = re.compile(r"[0-9]{1,3}(\.[0-9]+)?(e-?[0-9]{1,3})?")
_NO_NUMBER = {"", "nan", "none", "null"}
"""How pandas and others write that there is none."""
_FAULTS_TOLD = 10
_SEE = "see docs/traits.md for the formats of ready responses"


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """Ready responses, and the questions that they answer, "" where a question is not told."""

    questions: tuple[str, ...] = ()
    responses: tuple[LabelledResponse, ...] = ()


def read_responses(paths: Sequence[Path]) -> LabelledSet:
    """All responses of some files, which are one set; the form is known by the content.

    Raises DefinitionError, which names each fault with its line.
    """
    told = ", ".join(map(str, paths))
    texts = {path: _read(path) for path in paths}
    tables = [_is_table(text) for text in texts.values()]
    if any(tables) and not all(tables):
        raise DefinitionError(
            f"{told} do not go together", cause="some are CSV and some are JSON", fix=_SEE
        )
    faults = _Faults()
    if all(tables):
        table = _Table(faults)
        drafts = [draft for path, text in texts.items() for draft in table.rows(path, text)]
    else:
        drafts = list(
            _halves([pair for path, text in texts.items() for pair in _pairs(path, text, faults)])
        )
    faults.check(told)
    if any(all(draft.made.polarity != side for draft in drafts) for side in POLARITIES):
        found = "is empty" if not drafts else "has one polarity only"
        raise DefinitionError(
            f"{told} {found}", cause="a vector is a difference: both sides are needed", fix=_SEE
        )
    if len(drafts) > MAX_RESPONSES:
        cause = f"{len(drafts):,} responses, where {MAX_RESPONSES:,} are the most"
        raise DefinitionError(f"{told} holds too much", cause=cause, fix="take a part of it")
    return _placed(drafts)


@dataclass(frozen=True, slots=True)
class _Draft:
    """A response before it has its place: those of one `group` answer one question, those of one `slot` are a pair."""

    made: LabelledResponse
    question: str
    group: str
    slot: Hashable


@dataclass(frozen=True, slots=True)
class _Pair:
    """An entry of JSON."""

    path: Path
    line: int
    question: str
    positive: str
    negative: str


class _Faults:
    """What is wrong with files, line by line."""

    def __init__(self) -> None:
        self._told: list[str] = []

    def add(self, path: Path, line: int, told: str) -> None:
        self._told.append(f"{path.name} line {line}: {told}")

    def check(self, paths: str) -> None:
        """Raise DefinitionError if there are any."""
        if self._told:
            more = len(self._told) - _FAULTS_TOLD
            told = [*self._told[:_FAULTS_TOLD], *([f"and {more} more"] if more > 0 else [])]
            raise DefinitionError(
                f"{paths} cannot be read as responses", cause="\n".join(told), fix=_SEE
            )


class _FaultError(Exception):
    """A line is not what it should be."""


def _placed(drafts: Sequence[_Draft]) -> LabelledSet:
    """Number questions as they come first, and the pairs of each question; the same question is in one fold."""
    groups: dict[str, int] = {}
    questions: list[str] = []
    slots: dict[tuple[str, Hashable], int] = {}
    taken: Counter[str] = Counter()
    placed = []
    for draft in drafts:
        if draft.group not in groups:
            groups[draft.group] = len(groups)
            questions.append(draft.question)
        if (draft.group, draft.slot) not in slots:
            slots[draft.group, draft.slot] = taken[draft.group]
            taken[draft.group] += 1
        number = groups[draft.group]
        placed.append(
            replace(
                draft.made,
                pair=number % FOLDS,
                question=number,
                repeat=slots[draft.group, draft.slot],
            )
        )
    return LabelledSet(tuple(questions), tuple(placed))


def _read(path: Path) -> str:
    """The text of a file; raises DefinitionError, also for one that is too large."""
    if path.exists() and not path.is_file():
        raise DefinitionError(f"cannot read {path}", cause="it is not a file")
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DefinitionError(f"cannot read {path}", cause=error.strerror or str(error)) from None
    if len(data) > MAX_BYTES:
        cause = f"it is larger than {MAX_BYTES // 2**20} MiB"
        raise DefinitionError(f"cannot read {path}", cause=cause, fix="take a part of it")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DefinitionError(
            f"cannot read {path}", cause=f"line {line} is not UTF-8", fix="save it as UTF-8"
        ) from None


def _is_table(text: str) -> bool:
    """Whether a text is CSV: JSON begins with a bracket or a brace."""
    return not text.lstrip().startswith(("[", "{")) and bool(text.strip())


# JSON


def _pairs(path: Path, text: str, faults: _Faults) -> Iterator[_Pair]:
    for line, entry in _items(text) if text.lstrip().startswith("[") else _lines(text):
        try:
            yield _pair(path, line, entry)
        except _FaultError as fault:
            faults.add(path, line, str(fault))


def _lines(text: str) -> Iterator[tuple[int, Any]]:
    """Number and value of each line, or the error in it."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, parse_json(line)
            except ValueError as error:
                yield number, error


def _items(text: str) -> Iterator[tuple[int, Any]]:
    """The line where each item of a JSON list begins, and its value; or the error in the list."""
    try:
        values = parse_json(text)
    except ValueError as error:
        yield getattr(error, "lineno", 1), error
        return
    decoder, at = json.JSONDecoder(), text.index("[")
    line = text.count("\n", 0, at) + 1
    for value in values:
        start = _ITEM.search(text, at + 1).start()  # type: ignore[union-attr]  # the list is whole, so it is there
        line += text.count("\n", at, start)
        at = start
        yield line, value
        _, end = decoder.raw_decode(text, start)
        line += text.count("\n", at, end - 1)
        at = end - 1


_ITEM = re.compile(r"[^\s,\[]|\[")
"""Where an item begins, behind the last sign of the one before it or the list's bracket."""


def _pair(path: Path, line: int, entry: Any) -> _Pair:
    if isinstance(entry, Exception):
        raise _FaultError(f"not JSON: {getattr(entry, 'msg', None) or entry}")
    if not isinstance(entry, Mapping):
        raise _FaultError("not an object with positive and negative")
    sides = next((keys for keys in _KEYS if any(key in entry for key in keys)), None)
    if sides is None:
        raise _FaultError(f"has neither {' nor '.join(' and '.join(keys) for keys in _KEYS)}")
    for key in sides:
        if not _text(entry.get(key), key).strip():
            raise _FaultError(f"{key}: empty")
    question = _text(entry["question"], "question") if entry.get("question") is not None else ""
    return _Pair(path, line, question, entry[sides[0]], entry[sides[1]])


def _text(value: Any, name: str) -> str:
    """A text that can be written to a file; raises _FaultError."""
    if value is None:
        raise _FaultError(f"{name}: not given")
    if not isinstance(value, str):
        raise _FaultError(f"{name}: not a text")
    if len(value) > MAX_CHARACTERS:
        raise _FaultError(
            f"{name}: {len(value):,} characters, where {MAX_CHARACTERS:,} are the most"
        )
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _FaultError(f"{name}: half a character is in it (a lone surrogate)") from None
    return value


def _halves(pairs: Sequence[_Pair]) -> Iterator[_Draft]:
    """Both sides of each pair; texts without a question are cut where they become the same, if all of them do."""
    endings = [
        None if pair.question.strip() else shared_ending(pair.positive, pair.negative)
        for pair in pairs
    ]
    cut = "" not in endings
    for slot, (pair, ending) in enumerate(zip(pairs, endings, strict=True)):
        for side, text in zip(POLARITIES, (pair.positive, pair.negative), strict=True):
            made = LabelledResponse(
                side, 0, 0, 0, pair.question, text, "answer", pair.path.name, pair.line
            )
            if ending is None:
                yield _Draft(made, pair.question, _same(pair.question), slot)
                continue
            before = text.removesuffix(ending) if cut else ""
            made = replace(made, before=before, text=text[len(before) :], form="text")
            yield _Draft(made, "", f"\0{ending if cut else (pair.positive, pair.negative)}", slot)


def _same(question: str) -> str:
    """Case and spacing gone: what two ways to write one question have in common."""
    return " ".join(question.casefold().split())


def shared_ending(one: str, other: str) -> str:
    """The longest ending of both that begins at the border of a word and has a word in it, or ""."""
    length = 0
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if a != b:
            break
        length += 1
    for start in range(length, 0, -1):
        ending = one[-start:]
        before = {text[-start - 1 : -start] for text in (one, other)}
        if not (_is_of_word(ending[0]) and any(map(_is_of_word, before))):
            return ending if any(map(str.isalnum, ending)) else ""
    return ""


def _is_of_word(character: str) -> bool:
    """Whether a neighbour may belong to the same word; scripts from Han on are written without spaces."""
    return character.isalnum() and ord(character) < 0x2E80


# CSV of the persona-vectors work


class _Table:
    """Reads CSV files that belong together: usually one of positive rollouts, and one of negative ones."""

    def __init__(self, faults: _Faults) -> None:
        self._faults = faults
        self._trait = ""
        self._counts: Counter[str] = Counter()

    def rows(self, path: Path, text: str) -> Iterator[_Draft]:
        """A response for each row of a file."""
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        header: list[str] | None = None
        line = 1
        try:
            for cells in reader:
                if header is None:
                    header = [cell.strip() for cell in cells]
                    if missing := [name for name in _COLUMNS if name not in header]:
                        told = f"no column {', '.join(missing)}; what begins with no brace or bracket is read as CSV"
                        self._faults.add(path, line, told)
                        return
                elif cells:
                    try:
                        yield self._row(path, line, header, cells)
                    except _FaultError as fault:
                        self._faults.add(path, line, str(fault))
                line = reader.line_num + 1
        except csv.Error as error:
            self._faults.add(path, line, f"not CSV: {error}")

    def _row(self, path: Path, line: int, header: Sequence[str], cells: Sequence[str]) -> _Draft:
        if len(cells) != len(header):
            raise _FaultError(f"{len(cells)} cells, where the header has {len(header)}")
        row = dict(zip(header, cells, strict=True))
        known = _ID.fullmatch(row["question_id"].strip())
        if known is None:
            raise _FaultError(f"question_id: {row['question_id'][:40]!r} is not like evil_0_pos_3")
        trait, question, side, pair = known.groups()
        self._trait = self._trait or trait
        if trait != self._trait:
            raise _FaultError(
                f"question_id: of {trait[:40]}, where those before it are of {self._trait[:40]}"
            )
        texts = {name: _text(row[name], name) for name in ("question", "prompt", "answer")}
        if not texts["prompt"].strip():
            raise _FaultError("prompt: empty")
        self._counts[known.group()] += 1
        polarity = POLARITIES[side == "neg"]
        made = LabelledResponse(
            polarity, 0, 0, 0, texts["prompt"], texts["answer"], "raw", path.name, line
        )
        made = replace(made, score=_score(row, trait), coherence=_score(row, "coherence"))
        group = _same(texts["question"]) or f"\0{question}"
        return _Draft(made, texts["question"], group, (question, pair, self._counts[known.group()]))


def _score(row: Mapping[str, str], name: str) -> float | None:
    """A number from 0 to 100, or none where the cell is empty or there is no such column."""
    cell = row.get(name, "").strip().casefold()
    if cell in _NO_NUMBER:
        return None
    if not _NUMBER.fullmatch(cell) or float(cell) > 100:
        raise _FaultError(f"{name}: {cell[:40]!r} is not a number from 0 to 100")
    return float(cell)
