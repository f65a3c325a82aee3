"""Lists what a careful reader would object to in a valid trait definition."""

from __future__ import annotations

from collections.abc import Sequence

from traitcli.records import POLARITIES, LabelledResponse, Trait
from traitcli.traits.contrast_pairs import shared_ending
from traitcli.traits.definitions import plain_words

PAIRS, QUESTIONS = 5, 20
"""What the built-in traits have; the linter asks for as much."""

_LONGER = 1.5
"""So many times as long as the other side's, and what the vector learns may be length."""


def lint_trait(trait: Trait) -> list[str]:
    """What a careful reader would object to in a valid definition; empty when nothing."""
    if trait.responses:
        return _lint_ready(trait)
    faults = []
    for what, number, wanted in (
        ("pairs", len(trait.pairs), PAIRS),
        ("questions", len(trait.questions), QUESTIONS),
        ("evaluation_questions", len(trait.evaluation_questions), QUESTIONS),
    ):
        if number < wanted:
            faults.append(f"{what}: {number}, where {wanted} are usual")
    seen: dict[str, str] = {}
    for what in ("questions", "evaluation_questions"):
        for number, question in enumerate(getattr(trait, what), start=1):
            place = f"{what} {number}"
            first = seen.setdefault(plain_words(question), place)
            if first != place:
                faults.append(f"{place} repeats {first}")
    positive = {plain_words(pair.positive) for pair in trait.pairs}
    if positive & {plain_words(pair.negative) for pair in trait.pairs}:
        faults.append("pairs: one instruction stands on both sides")
    if len(positive) < len(trait.pairs):
        faults.append("pairs: one positive instruction stands twice")
    if not trait.description:
        faults.append("description: empty")
    if (
        "number" not in trait.judge_prompt.strip().splitlines()[-1]
        and "integer" not in trait.judge_prompt
    ):
        faults.append("judge_prompt: its last line does not ask for the number alone")
    return faults


def _lint_ready(trait: Trait) -> list[str]:
    """The same of a definition with ready responses."""
    sides = {side: [one for one in trait.responses if one.polarity == side] for side in POLARITIES}
    pairs: dict[tuple[int, int], list[LabelledResponse]] = {}
    for one in trait.responses:
        pairs.setdefault((one.question, one.repeat), []).append(one)
    faults = []
    if len(pairs) < QUESTIONS:
        faults.append(
            f"responses: {len(pairs)} pair{'' if len(pairs) == 1 else 's'}, where {QUESTIONS} are usual"
        )
    if len(trait.questions) == 1:
        faults.append(
            "responses: all answer one question, so that none can be left out to check the vector"
        )
    same = [
        both for both in pairs.values() if len({(one.before, one.text) for one in both}) < len(both)
    ]
    faults += _counted(
        "responses", "pair", "with the same text on both sides", [both[0] for both in same]
    )
    faults += _counted("responses", "text", "that stood before", _repeated(trait.responses))
    held_out = _repeated(trait.evaluation_responses, trait.responses)
    faults += _counted("evaluation_responses", "text", "of responses", held_out)
    whole = [
        both
        for both in pairs.values()
        if both[0].form == "text" and not any(one.before for one in both)
    ]
    alike = [
        both for both in whole if both not in same and shared_ending(both[0].text, both[-1].text)
    ]
    if alike:
        told = f"{len(alike)} of {len(whole)} pairs end alike, the others do not, so whole texts are read"
        faults.append(f"responses: {told}")
    lengths = [sum(len(one.text) for one in side) / len(side) for side in sides.values()]
    if max(lengths) > _LONGER * min(lengths):
        told = f"{lengths[0]:.0f} characters on the positive side and {lengths[1]:.0f} on the negative one, on average"
        faults.append(f"responses: {told}: the vector will hold their length")
    return faults if trait.description else [*faults, "description: empty"]


def _repeated(
    responses: Sequence[LabelledResponse], known: Sequence[LabelledResponse] = ()
) -> list[LabelledResponse]:
    """Those whose text was there before, on the same side and behind the same prompt."""
    seen, found = {(one.polarity, one.before, one.text) for one in known}, []
    for one in responses:
        if (one.polarity, one.before, one.text) in seen:
            found.append(one)
        seen.add((one.polarity, one.before, one.text))
    return found


def _counted(key: str, what: str, told: str, found: Sequence[LabelledResponse]) -> list[str]:
    if not found:
        return []
    first = f"{found[0].file} line {found[0].line}"
    return [
        f"{key}: {len(found)} {what}{'' if len(found) == 1 else 's'} {told}, the first at {first}"
    ]
