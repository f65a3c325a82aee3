"""Reads the alarm rules of a command or a request, with the stored thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from traitcli.api.operating_points import operating_points
from traitcli.api.vector_source import VectorSource
from traitcli.errors import UserError
from traitcli.monitoring.alarms import Action, Rule, parse_rule
from traitcli.records import TraitVector


def parse_rules(
    texts: Sequence[tuple[Action, str]],
    source: VectorSource,
    monitored: Mapping[str, TraitVector],
    *,
    raw: bool = False,
    option: str = "",
) -> tuple[Rule, ...]:
    """Read alarm rules.

    Args:
        texts: What each rule does, and its text.
        source: Where the vectors come from, and so their thresholds.
        monitored: Trait -> vector.
        raw: The rules are about raw projections, not calibrated scores.
        option: What an error calls the rule (default: --stop-on and --fail-on).

    Returns:
        The rules, in the order given.

    Raises:
        UserError: A rule cannot be parsed, or is about calibrated scores of a vector without class
            means.
        VectorError: A false-positive rate has no threshold.
    """
    point = operating_points(source, monitored, raw=raw)
    rules = tuple(parse_rule(text, action, monitored, point, option) for action, text in texts)
    for rule in rules:
        has_class_means = source.config.vector.position in monitored[rule.trait].stats
        # Such a rule is never met, so a check with --fail-on would always pass.
        if not raw and not has_class_means:
            raise UserError(
                f"cannot set an alarm on calibrated scores of {rule.trait}",
                cause="its vector has no class means, so its scores cannot be calibrated",
                fix="choose another trait"
                if option
                else "add --raw, and set the bound for raw projections",
            )
    return rules
