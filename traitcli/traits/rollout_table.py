"""Reads labelled responses from the rollout CSVs of persona-vectors."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from traitcli.records import POLARITIES, LabelledResponse
from traitcli.traits.drafts import Draft, FaultError, Faults, check_text, normalize_question

_COLUMNS = ("question", "prompt", "answer", "question_id")
_ID = re.compile(r"(.+)_([0-9]{1,9})_(pos|neg)_([0-9]{1,9})")
_NUMBER = re.compile(r"[0-9]{1,3}(\.[0-9]+)?(e-?[0-9]{1,3})?")
_MISSING = {"", "nan", "none", "null"}
"""How pandas and others write a missing number."""


def read_tables(texts: Mapping[Path, str], faults: Faults) -> Iterator[Draft]:
    """The responses of files that belong together: often one per polarity."""
    table = _Table(faults)
    for path, text in texts.items():
        yield from table.drafts(path, text)


class _Table:
    """Reads the CSV files of one trait."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._trait = ""
        self._uses: Counter[str] = Counter()

    def drafts(self, path: Path, text: str) -> Iterator[Draft]:
        """One response for each row of a file."""
        # newline="": a line break in a cell stays as it is. strict: a misplaced quote is a fault.
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        header: list[str] | None = None
        line = 1
        try:
            for cells in reader:
                if header is None:
                    header = [cell.strip() for cell in cells]
                    if missing := [name for name in _COLUMNS if name not in header]:
                        message = (
                            f"read as CSV (JSON starts with {{ or [), missing {', '.join(missing)}"
                        )
                        self._faults.add(path, line, message)
                        return
                elif cells:
                    try:
                        yield self._draft(path, line, header, cells)
                    except FaultError as fault:
                        self._faults.add(path, line, str(fault))
                # A cell may span lines: a row begins after the last line of the row before.
                line = reader.line_num + 1
        except csv.Error as error:
            self._faults.add(path, line, f"not CSV: {error}")

    def _draft(self, path: Path, line: int, header: Sequence[str], cells: Sequence[str]) -> Draft:
        if len(cells) != len(header):
            raise FaultError(f"{len(cells)} cells, the header has {len(header)}")
        row = dict(zip(header, cells, strict=True))

        parts = _ID.fullmatch(row["question_id"].strip())
        if parts is None:
            raise FaultError(
                f"question_id: expected a form like evil_0_pos_3, got {row['question_id'][:40]!r}"
            )
        trait, question, side, pair = parts.groups()
        self._trait = self._trait or trait
        if trait != self._trait:
            raise FaultError(
                f"question_id: trait {trait[:40]}, earlier rows have {self._trait[:40]}"
            )

        texts = {name: check_text(row[name], name) for name in ("question", "prompt", "answer")}
        if not texts["prompt"].strip():
            raise FaultError("prompt: empty")

        # Files with several samples repeat the id: the k-th use on either side makes a pair.
        self._uses[parts.group()] += 1
        response = LabelledResponse(
            polarity=POLARITIES[side == "neg"],
            # Numbered when all files are read: pairs and questions may continue in another file.
            pair=0,
            question=0,
            repeat=0,
            before=texts["prompt"],
            text=texts["answer"],
            form="raw",
            file=path.name,
            line=line,
            score=_score(row, trait),
            coherence=_score(row, "coherence"),
        )

        # An empty question is known by its number; "\0" keeps it apart from the texts of others.
        group = normalize_question(texts["question"]) or f"\0{question}"
        slot = (question, pair, self._uses[parts.group()])
        return Draft(response, texts["question"], group, slot)


def _score(row: Mapping[str, str], name: str) -> float | None:
    """A number from 0 to 100; None if the cell is empty or there is no such column."""
    cell = row.get(name, "").strip().casefold()
    if cell in _MISSING:
        return None
    # float() alone would also take "1_0", "+5", "inf" and Arabic digits.
    if not _NUMBER.fullmatch(cell) or float(cell) > 100:
        raise FaultError(f"{name}: expected a number from 0 to 100, got {cell[:40]!r}")
    return float(cell)
