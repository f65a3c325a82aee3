"""Selects what a report may contain: only allow-listed keys, and no local paths."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from traitcli.record_json import to_json
from traitcli.report_records import NamedRecord, Report
from traitcli.vector_quality import VectorQuality
from traitcli.views.findings import findings
from traitcli.views.report.drift import drift_rows

# Keys are allowed one by one: a new key of a vector or a run must not leak into reports unseen.
SET_KEYS = ("name", "model", "vectors", "cosines")
VECTOR_KEYS = (
    "trait",
    "model",
    "method",
    *(each.name for each in fields(VectorQuality)),
    "histogram",
    "dropped",
    "examples",
    "note",
    "versions",
)
RUN_KEYS = ("name", "model", "settings", "traits", "usage", "commands")

_LARGEST_EXACT_IN_JS = 2**53 - 1
"""JavaScript's numbers are float64, so larger integers would change."""
_PATH_KEYS = {"file", "path"}


def contents(report: Report) -> dict[str, Any]:
    """The report as JSON-able {made_at, findings, records, drift, sets, runs}, at full precision.

    A number is added to a name that occurs twice, such as `chat (2)`.
    """
    sets = [{**each, "vectors": only(VECTOR_KEYS, each.get("vectors", ()))} for each in report.sets]
    return {
        "made_at": report.made_at,
        "findings": list(findings(report)),
        "records": _with_distinct_names([_record_row(record) for record in report.records]),
        "drift": plain(drift_rows(report.records)),
        "sets": _with_distinct_names(only(SET_KEYS, sets)),
        "runs": only(RUN_KEYS, report.runs),
    }


def only(keys: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows with only these keys, in this order, as plain JSON values."""
    return [_select(keys, row) for row in rows]


def _select(keys: Sequence[str], row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: plain(row[key]) for key in keys if key in row}


def plain(value: Any) -> Any:
    """A value that strict JSON can hold and JavaScript reads back unchanged.

    NaN and infinity become None. Integers beyond 2^53 become strings.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, int) and abs(value) > _LARGEST_EXACT_IN_JS:
        return str(value)
    return value


def scores_of(record: Mapping[str, Any]) -> dict[str, dict[str, list[float | None]]]:
    """Unit (raw, calibrated) -> trait -> n scores.

    A score is None if it is not a number, or if its token is massive.
    """
    scores = {
        "raw": _numbers(record.get("trait_scores")),
        "calibrated": _numbers(record.get("calibrated_scores")),
    }
    for trait, indices in (record.get("massive_tokens") or {}).items():
        for table in scores.values():
            for index in indices if trait in table else ():
                table[trait][index] = None
    return scores


def _numbers(table: Mapping[str, Sequence[Any]] | None) -> dict[str, list[float | None]]:
    return {trait: list(map(_number, scores)) for trait, scores in (table or {}).items()}


def distinct(names: Iterable[str], form: str = "{} ({})") -> list[str]:
    """The names in order; a repeated name gets a number by `form`."""
    found: dict[str, None] = {}
    for name in names:
        free, number = name, 1
        while free in found:
            number += 1
            free = form.format(name, number)
        found[free] = None
    return list(found)


def _with_distinct_names(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    names = distinct(str(row.get("name", "")) for row in rows)
    return [
        row | {"name": name} if row.get("name") else row
        for row, name in zip(rows, names, strict=True)
    ]


def _record_row(record: NamedRecord) -> dict[str, Any]:
    """A record as JSON at full precision, without the folders of its source file."""
    row: dict[str, Any] = plain({"name": record.name} | to_json(record.scores, decimals=None))
    return row | {"about": _without_folders("", row["about"])} if "about" in row else row


def _without_folders(key: str, value: Any) -> Any:
    """The value, with each path in it shortened to a file name."""
    if isinstance(value, dict):
        return {name: _without_folders(name, item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_folders(key, item) for item in value]
    if isinstance(value, str) and (key in _PATH_KEYS or _is_absolute(value)):
        # PureWindowsPath splits at both kinds of slash, wherever the record was made.
        return PureWindowsPath(value).name
    return value


def _is_absolute(text: str) -> bool:
    return (
        # `~` is the home folder of the person who made the record.
        text.startswith("~")
        or PurePosixPath(text).is_absolute()
        or PureWindowsPath(text).is_absolute()
    )


def _number(value: Any) -> float | None:
    return value if is_number(value) and math.isfinite(value) else None


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a number."""
    # A bool is an int in Python, but not in JSON.
    return isinstance(value, int | float) and not isinstance(value, bool)
