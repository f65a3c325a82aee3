"""The stored thresholds as bounds of alarm rules, in the unit of the scores that are compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from traitcli.api.vector_source import VectorSource
from traitcli.errors import VectorError
from traitcli.records import TraitVector

if TYPE_CHECKING:
    from traitcli.monitoring.alarms import BoundOf, OperatingPoint
    from traitcli.monitoring.summaries import Summary


def operating_points(
    source: VectorSource, vectors: Mapping[str, TraitVector], *, raw: bool
) -> OperatingPoint:
    """A function that finds the stored bounds of a trait, a way to sum up and a rate.

    `raw`: the bounds are projections, not calibrated scores. The function raises VectorError when
    there is no such threshold, or when it is of another vector.
    """

    def find(trait: str, summary: Summary, rate: float) -> BoundOf:
        from traitcli.monitoring.thresholds import read_thresholds, thresholds_path

        vector = vectors[trait]
        path = thresholds_path(source.folder, trait)
        stored = read_thresholds(path, trait)
        stored.check(vector, source.config.vector.position, source.layer_of(vector), path)
        bound = stored.bound(summary, rate)
        return bound if raw else _calibrated(bound, source, vector)

    return find


def _calibrated(bound: BoundOf, source: VectorSource, vector: TraitVector) -> BoundOf:
    from traitcli.vectors.methods import calibrate

    stats, layer = vector.stats.get(source.config.vector.position), source.layer_of(vector)
    # Without class means the rule itself is refused, with the way out.
    if stats is None:
        return bound
    if not stats.positive_mean[layer] > stats.negative_mean[layer]:
        raise VectorError(
            f"thresholds of {vector.trait} do not apply to its calibrated scores",
            cause="its positive rollouts do not score higher than its negative ones",
            fix="add --raw, or rebuild the vector",
        )
    return lambda tokens: float(calibrate(bound(tokens), stats, layer))
