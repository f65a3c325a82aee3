"""Writes the scores of texts as a table that other tools join by the id of the sample."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import Any

from traitcli.errors import UserError
from traitcli.files import write_atomic
from traitcli.record_json import FailedRecord
from traitcli.records import TokenScores

_PLACES = ("id", "epoch", "time", "file", "line", "turn")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet reads a cell that starts with one of these as a formula."""


class ScoreTable:
    """Collects one row a text: its place, its mean scores, or why it has none."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._traits: dict[str, None] = {}

    def add(self, record: TokenScores | FailedRecord) -> None:
        """Add the record of one text, or of one that failed."""
        row: dict[str, Any] = {key: record.about.get(key) for key in _PLACES}
        if isinstance(record, FailedRecord):
            self._rows.append(row | {"tokens": 0, "error": record.error})
            return
        row |= {"tokens": len(record.tokens), "error": None}
        for trait in record.raw:
            # A projection has another unit, and a column should say so.
            name = trait if trait in record.calibrated else f"raw:{trait}"
            self._traits[name] = None
            row[name] = record.mean(trait)
        self._rows.append(row)

    def write(self, path: Path) -> None:
        """Write the table; an old file is replaced in one step.

        Args:
            path: A .csv or a .parquet file. In CSV, text that a spreadsheet would read as a formula
                gets an apostrophe before it.

        Raises:
            StorageError: It cannot be written.
        """
        import pandas as pd

        columns = [*_PLACES, *self._traits, "tokens", "error"]
        ids = [row["id"] for row in self._rows]
        # Parquet has one type a column, and a log may have ids of both kinds, or none.
        if not all(type(one) is int for one in ids):
            ids = [None if one is None else str(one) for one in ids]
        frame = pd.DataFrame(self._rows, columns=columns)
        frame["id"] = pd.Series(ids, dtype=object)
        for name in ("epoch", "line", "turn", "tokens"):
            frame[name] = pd.to_numeric(frame[name], errors="coerce").astype("Int64")
        if path.suffix.lower() == ".parquet":
            file = io.BytesIO()
            frame.to_parquet(file, index=False)
            write_atomic(path, file.getvalue())
            return
        for name in ("id", "time", "file", "error"):
            frame[name] = frame[name].map(_inert)
        write_atomic(path, frame.to_csv(index=False, lineterminator="\n"))


def check_table(path: Path) -> None:
    """Raise UserError when the table that `path` names cannot be written in its format."""
    if path.suffix.lower() == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UserError(
            f"cannot write {path}",
            cause="Parquet files need pyarrow, which is not installed",
            fix=f"pip install pyarrow, or --out {path.with_suffix('.csv')}",
        )


def _inert(value: Any) -> Any:
    is_formula = isinstance(value, str) and value.startswith(_FORMULA)
    return f"'{value}" if is_formula else value
