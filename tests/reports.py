"""Makes reports from records that tests write as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from traitcli.record_json import from_json
from traitcli.records import TokenScores
from traitcli.report_records import NamedRecord, Report

_SMALLEST = {"prompt": "", "tokens": ["a"], "trait_scores": {"evil": [0.0]}}
Row = Mapping[str, Any]


def report_of(
    records: Iterable[Row | NamedRecord] = (),
    sets: Iterable[Row] = (),
    runs: Iterable[Row] = (),
    made_at: str = "",
) -> Report:
    return Report(tuple(map(named_record, records)), tuple(sets), tuple(runs), made_at)


def named_record(row: Row | NamedRecord) -> NamedRecord:
    """A record with the keys of `row`; without tokens, the required keys are added."""
    if isinstance(row, NamedRecord):
        return row
    scores = from_json({"prompt": ""} | (dict(row) if "tokens" in row else _SMALLEST | dict(row)))
    assert isinstance(scores, TokenScores)
    return NamedRecord(str(row.get("name", "")), scores)
