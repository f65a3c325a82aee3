"""What of a report travels: the keys that a page, a file or a picture may show, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from traitcli.record_json import to_json
from traitcli.records import NamedRecord, Report
from traitcli.vector_quality import VectorQuality

SET_KEYS = ("name", "model", "vectors", "cosines")
VECTOR_KEYS = (
    *("trait", "model", "method"),
    *(each.name for each in fields(VectorQuality)),
    *("histogram", "dropped", "examples", "note", "versions"),
)
RUN_KEYS = ("name", "model", "settings", "traits", "usage", "commands")

_LARGEST_EXACT_IN_JS = 2**53 - 1
_PLACES = {"file", "path"}


def contents(report: Report) -> dict[str, Any]:
    """The report as {made_at, records, sets, runs}: JSON-able at full precision, with allow-listed keys alone.

    Records of one name, and sets of one name, get a number behind it, so that a name tells one from the other.
    """
    sets = [{**each, "vectors": only(VECTOR_KEYS, each.get("vectors", ()))} for each in report.sets]
    return {
        "made_at": report.made_at,
        "records": _named_apart([_record_row(record) for record in report.records]),
        "sets": _named_apart(only(SET_KEYS, sets)),
        "runs": only(RUN_KEYS, report.runs),
    }


def only(keys: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows with these keys alone, in this order, made plain."""
    return [{key: plain(row[key]) for key in keys if key in row} for row in rows]


def plain(value: Any) -> Any:
    """What strict JSON can say and JavaScript reads back as it was: no NaN, no integer beyond a double."""
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
    """Unit (raw, calibrated) -> trait -> n scores, None where there is no number."""
    rows = {
        "raw": record.get("trait_scores") or {},
        "calibrated": record.get("calibrated_scores") or {},
    }
    return {
        unit: {trait: list(map(_number, row)) for trait, row in told.items()}
        for unit, told in rows.items()
    }


def distinct(names: Iterable[str], form: str = "{} ({})") -> list[str]:
    """The names, those that were there before with a number behind."""
    found: dict[str, None] = {}
    for name in names:
        free, number = name, 1
        while free in found:
            number += 1
            free = form.format(name, number)
        found[free] = None
    return list(found)


def _named_apart(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    names = distinct(str(row.get("name", "")) for row in rows)
    return [
        row | {"name": name} if "name" in row else row
        for row, name in zip(rows, names, strict=True)
    ]


def _record_row(record: NamedRecord) -> dict[str, Any]:
    """A record's JSON at full precision, without the folders of the file that it comes from."""
    row: dict[str, Any] = plain({"name": record.name} | to_json(record.scores, decimals=None))
    return row | {"about": _placeless("", row["about"])} if "about" in row else row


def _placeless(key: str, value: Any) -> Any:
    """A value with the name alone of a file that it tells of."""
    if isinstance(value, dict):
        return {name: _placeless(name, item) for name, item in value.items()}
    if isinstance(value, list):
        return [_placeless(key, item) for item in value]
    if isinstance(value, str) and (key in _PLACES or _is_absolute(value)):
        return PureWindowsPath(value).name
    return value


def _is_absolute(text: str) -> bool:
    return (
        text.startswith("~")
        or PurePosixPath(text).is_absolute()
        or PureWindowsPath(text).is_absolute()
    )


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and math.isfinite(value) else None
