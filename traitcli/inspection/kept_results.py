"""Reads a vector with what was measured on it later and is kept beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from traitcli.errors import VectorError
from traitcli.events import Listener, Warned
from traitcli.inspection.threshold_rows import threshold_rows
from traitcli.inspection.vector_rows import read_position
from traitcli.monitoring.summaries import Summary
from traitcli.monitoring.thresholds import read_thresholds, thresholds_path
from traitcli.records import TraitVector
from traitcli.vectors.files import read_vector
from traitcli.vectors.labelled import tests_of
from traitcli.vectors.verdict import with_verdict


@dataclass(frozen=True, slots=True)
class KnownVector:
    """A vector, with the verdict that follows from its kept tests too.

    thresholds  rows of `threshold_rows` for the calibrated mean of an answer, the number that −1
                and +1 are the class means of; empty without any
    """

    vector: TraitVector
    thresholds: tuple[dict[str, Any], ...] = ()


def read_known(path: Path, beside: Path, on_event: Listener) -> KnownVector:
    """Read the vector at `path`, and the results that are kept there and beside `beside`.

    The verdict is worded again, as in `inspect vectors`. Thresholds that are damaged, or of
    another direction, are left out with a warning. Raises VectorError for a damaged vector, and
    for damaged tests: without these, the verdict could be better than it is.
    """
    vector = read_vector(path)
    fitting, _ = tests_of(vector, path, beside)
    vector = replace(vector, quality=with_verdict(vector.quality, fitting))
    try:
        return KnownVector(vector, _thresholds(vector, beside.parent))
    except VectorError as error:
        on_event(Warned(vector.trait, f"its thresholds are left out: {error.cause}"))
        return KnownVector(vector)


def _thresholds(vector: TraitVector, folder: Path) -> tuple[dict[str, Any], ...]:
    path = thresholds_path(folder, vector.trait)
    if not path.exists():
        return ()
    stored = read_thresholds(path, vector.trait)
    stored.check(vector, read_position(vector), vector.layer, path)
    rows = [row for row in threshold_rows(stored, vector) if row["calibrated"]]
    return tuple(row for row in rows if row["summary"] == Summary("mean").text)
