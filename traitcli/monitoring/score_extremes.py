"""Finds the texts with the lowest and the highest scores."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from traitcli.record_json import FailedRecord
from traitcli.records import TokenScores


class ScoreExtremes:
    """Collects the mean score of each trait over many texts, and where the extremes are."""

    def __init__(self, *, with_file: bool = False) -> None:
        """`with_file`: the texts are from several files, so a line alone does not say where."""
        self._keys = ("file", "line", "turn") if with_file else ("line", "turn")
        self.failures: list[str] = []
        """What could not be scored, and why."""
        self._means: dict[str, list[tuple[float, str]]] = {}

    def add(self, record: TokenScores | FailedRecord) -> None:
        """Add the record of one text, or of one that failed."""
        about = record.about
        # The keys that `read_exchanges` writes; texts that come from Python may have none.
        location = " ".join(f"{key} {about[key]}" for key in self._keys if key in about)
        if isinstance(record, FailedRecord):
            self.failures.append(f"{location}: {record.error}" if location else record.error)
            return
        for trait in record.raw:
            # A vector without class means has no calibrated scores; its own texts still compare.
            mean = record.mean(trait)
            if mean is None:
                self.failures.append(f"{location}: it is nothing but thinking".lstrip(": "))
                break
            self._means.setdefault(trait, []).append((mean, location))

    def rows(self) -> list[dict[str, Any]]:
        """One row per trait: number of texts, their mean, and (mean, location) of the extremes."""
        rows = []
        for trait, means in self._means.items():
            rows.append(
                {
                    "trait": trait,
                    "texts": len(means),
                    "mean": fmean(mean for mean, _ in means),
                    "low": min(means),
                    "high": max(means),
                }
            )
        return rows
