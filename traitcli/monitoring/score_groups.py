"""Averages the scores of texts by file, by day or by any other key."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from traitcli.monitoring.log_facts import short
from traitcli.record_json import FailedRecord
from traitcli.records import TokenScores

NO_VALUE = ""
"""The group of the texts that do not have the key."""


@dataclass(slots=True)
class _Group:
    """Sums over the texts of one group."""

    texts: int = 0
    failed: int = 0
    problem: str = ""
    means: dict[str, list[float]] = field(default_factory=dict)


class ScoreGroups:
    """Collects the mean score of each text by group."""

    def __init__(self, key: str) -> None:
        self.key = key
        self._groups: dict[str, _Group] = {}

    def add(self, record: TokenScores | FailedRecord) -> None:
        """Add the record of one text, or of one that failed."""
        group = self._groups.setdefault(group_of(record.about, self.key), _Group())
        if isinstance(record, FailedRecord):
            group.failed += 1
            group.problem = group.problem or record.error
            return
        group.texts += 1
        for trait in record.raw:
            mean = record.mean(trait)
            if mean is not None and math.isfinite(mean):
                group.means.setdefault(trait, []).append(mean)

    def rows(self) -> list[dict[str, Any]]:
        """One row a group: {group, texts, failed, problem, means}.

        `means` is trait -> mean over the texts of the mean of their tokens, in the unit that
        `TokenScores.shown` has. Days are sorted; other groups keep the order of the input. The
        texts without the key come last.
        """
        names = list(self._groups)
        if self.key == "day":
            names.sort()
        names.sort(key=lambda name: name == NO_VALUE)
        return [_row(name, self._groups[name]) for name in names]


def group_of(about: Mapping[str, Any], key: str) -> str:
    """The group that a text is in; NO_VALUE if it has no such key.

    `day` is the date of its time in UTC.
    """
    if key == "day":
        return str(about.get("time") or NO_VALUE)[:10]
    kept = about.get("keys")
    # What the file says comes before what traitcli says of the text.
    for place in (kept if isinstance(kept, Mapping) else {}, about):
        if place.get(key) is not None:
            return str(short(place[key]))
    return NO_VALUE


def _row(name: str, group: _Group) -> dict[str, Any]:
    return {
        "group": name,
        "texts": group.texts,
        "failed": group.failed,
        "problem": group.problem,
        "means": {trait: math.fsum(means) / len(means) for trait, means in group.means.items()},
    }
