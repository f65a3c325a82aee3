"""Reads alarm rules for vectors; stored thresholds are bounds in the unit of the scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from traitcli.api.vector_source import VectorSource
from traitcli.errors import UserError, VectorError
from traitcli.records import TraitVector

if TYPE_CHECKING:
    from traitcli.monitoring.alarms import Action, BoundOf, OperatingPoint, Rule
    from traitcli.monitoring.summaries import Summary


def read_rules(
    texts: Iterable[str],
    action: Action,
    source: VectorSource,
    vectors: Mapping[str, TraitVector],
    *,
    raw: bool = False,
    option: str = "",
) -> tuple[Rule, ...]:
    """The rules of a command or of a call, for the vectors that are scored.

    Args:
        texts: Rules, such as `evil>1.5` or `evil@fpr=1%`.
        action: What they do when they are met.
        source: Where the vectors come from; their thresholds lie beside them.
        vectors: Trait -> vector that has scores.
        raw: The rules are about projections, not about calibrated scores.
        option: What an error calls a rule of a request (default: the option of the action).

    Raises:
        UserError: A rule cannot be parsed, or is about calibrated scores of a vector without class
            means.
        VectorError: There is no threshold for a false-positive rate.
    """
    from traitcli.monitoring.alarms import parse_rule

    point = _operating_points(source, vectors, raw=raw)
    rules = tuple(parse_rule(text, action, vectors, point, option) for text in texts)
    for rule in rules:
        # Such a rule is never met, so a check with --fail-on would always pass.
        if not raw and source.config.vector.position not in vectors[rule.trait].stats:
            raise UserError(
                f"cannot set an alarm on calibrated scores of {rule.trait}",
                cause="its vector has no class means, so its scores cannot be calibrated",
                fix="choose another trait, or monitor with --raw and a bound for projections",
            )
    return rules


def _operating_points(
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
            fix="rebuild the vector, or monitor with --raw",
        )
    return lambda tokens: float(calibrate(bound(tokens), stats, layer))
