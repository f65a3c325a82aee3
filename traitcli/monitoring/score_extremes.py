"""Finds the texts with the lowest and the highest scores."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from traitcli.record_json import counted


class ScoreExtremes:
    """Collects the mean score of each trait over many texts, and where the extremes are."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        """What could not be scored, and why."""
        self._means: dict[str, list[tuple[float, str]]] = {}

    def add(self, record: Mapping[str, Any]) -> None:
        """Add the JSON record of one text, or of one that failed."""
        about = record.get("about", {})
        # The keys that `read_exchanges` writes; texts that come from Python may have none.
        location = " ".join(f"{key} {about[key]}" for key in ("line", "turn") if key in about)
        if "error" in record:
            error = record["error"]
            self.failures.append(f"{location}: {error}" if location else error)
            return
        for trait, raw in record["trait_scores"].items():
            # A vector without class means has no calibrated scores; its own texts still compare.
            scores = counted(record, trait, record["calibrated_scores"].get(trait, raw))
            if not scores:
                self.failures.append(f"{location}: it is nothing but thinking".lstrip(": "))
                break
            self._means.setdefault(trait, []).append((fmean(scores), location))

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
