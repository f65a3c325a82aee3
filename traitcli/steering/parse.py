"""Reads interventions as users type them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from traitcli.errors import UserError, suggest
from traitcli.interventions import Ablate, Cap, Condition, Gate, Intervention, Push
from traitcli.records import TraitVector

_TRAIT = r"[^=<>@\s]+"
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_IF = rf"\s+if\s+(?P<watched>{_TRAIT})\s*(?P<side>[<>])\s*(?P<score>{_NUMBER})"
_CONDITION = re.compile(_IF, re.ASCII)
_ADDED = re.compile(
    rf"(?P<trait>{_TRAIT})=(?P<coefficient>{_NUMBER})(?:@(?P<layer>\d+))?(?:{_IF})?", re.ASCII
)
_UNBOUND = re.compile(rf"\s+if\s+{_TRAIT}$", re.ASCII)
_ABLATED = re.compile(rf"(?P<trait>{_TRAIT})=ablate(?:@(?P<layer>\d+|all))?", re.ASCII)
_CAPPED = re.compile(
    rf"(?P<trait>{_TRAIT})\s*(?P<side>[<>])=\s*(?P<score>{_NUMBER})(?:@(?P<layer>\d+))?", re.ASCII
)
_NEXT = re.compile(r"\s+(?=[^\s<>=]+[<>]?=)")
"""What stands between two interventions; the condition of a gate has no equals sign."""


def parse_intervention(
    text: str, vectors: Mapping[str, TraitVector], option: str = "--steer"
) -> Intervention:
    """Read one intervention.

    Args:
        text: `evil=-2` (push), `evil=ablate`, `evil<=0.5` or `verbosity>=-1` (cap), or
            `refusal=1 if evil>1` (gate). `@14` behind the number or `ablate` names a layer instead
            of the vector's own; `evil=ablate@all` is at the output of every block.
        vectors: Trait -> vector.
        option: The option or command that an error names.

    Raises:
        UserError: the text has another form, or names a trait without a vector.
    """
    text = text.strip()
    if found := _ADDED.fullmatch(text):
        trait, layer = _trait_and_layer(found, vectors)
        coefficient = float(found["coefficient"])
        if not found["watched"]:
            return Push(trait, coefficient, layer)
        watched = _known(found["watched"], vectors)
        when = Condition(watched, found["side"] == ">", float(found["score"]))
        return Gate(trait, coefficient, layer, when)

    if found := _ABLATED.fullmatch(text):
        if found["layer"] == "all":
            return Ablate(_known(found["trait"], vectors), None)
        return Ablate(*_trait_and_layer(found, vectors))

    if found := _CAPPED.fullmatch(text):
        trait, layer = _trait_and_layer(found, vectors)
        return Cap(trait, float(found["score"]), found["side"] == "<", layer)

    if _UNBOUND.search(text):
        raise UserError(
            f"invalid {option} {text}",
            cause="the condition has no bound: it is TRAIT>SCORE or TRAIT<SCORE",
            fix=f"for example '{text}>1'",
        )
    raise UserError(
        f"invalid {option} {text}",
        cause="expected TRAIT=COEFFICIENT, TRAIT=ablate, TRAIT<=SCORE, TRAIT>=SCORE or "
        "TRAIT=COEFFICIENT if TRAIT>SCORE; a layer follows as @LAYER",
        fix="for example evil=-2, evil=4@14, 'evil<=0.5' or 'refusal=1 if evil>1'",
    )


def parse_interventions(
    text: str, vectors: Mapping[str, TraitVector], option: str = "--steer"
) -> tuple[Intervention, ...]:
    """Read several interventions, separated by spaces; see `parse_intervention`."""
    return tuple(parse_intervention(one, vectors, option) for one in _NEXT.split(text.strip()))


def watched_trait(text: str) -> str | None:
    """The trait that a gate looks at; none for any other text."""
    found = _CONDITION.search(text)
    return found["watched"] if found else None


def _trait_and_layer(found: re.Match[str], vectors: Mapping[str, TraitVector]) -> tuple[str, int]:
    trait = _known(found["trait"], vectors)
    return trait, vectors[trait].layer if found["layer"] is None else int(found["layer"])


def _known(trait: str, vectors: Mapping[str, TraitVector]) -> str:
    # Any trait with a vector can steer, also one that is not monitored.
    if trait in vectors:
        return trait
    raise UserError(
        f"cannot steer {trait}",
        cause=f"there are vectors of {', '.join(vectors)}",
        fix=suggest(trait, vectors) or "choose one of these",
    )
