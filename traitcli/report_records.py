"""The records that a report is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from traitcli.records import TokenScores


@dataclass(frozen=True, slots=True)
class NamedRecord:
    """A monitoring record, and the name of its file, which a report shows."""

    name: str
    scores: TokenScores


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a report shows; sets and runs are JSON-able.

    records  monitoring records
    sets     trait vectors of one model and one run; see `inspection.report_data`
    runs     what was run, how long it took, what failed; see `inspection.report_data`
    made_at  when it was gathered, in ISO 8601
    """

    records: tuple[NamedRecord, ...] = ()
    sets: tuple[Mapping[str, Any], ...] = ()
    runs: tuple[Mapping[str, Any], ...] = ()
    made_at: str = ""
