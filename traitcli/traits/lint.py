"""Lists weaknesses of valid trait definitions, such as too few questions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from traitcli.records import LabelledResponse, Trait
from traitcli.traits.contrast_pairs import shared_ending
from traitcli.traits.definitions import normalize

PAIRS, QUESTIONS = 5, 20
"""Numbers of pairs and questions in the shipped traits, and the minimum that is expected."""
_MAX_LENGTH_RATIO = 1.5
"""Above this ratio of the two polarities' mean lengths, the vector may learn length."""


def lint_trait(trait: Trait) -> list[str]:
    """Objections to a valid definition, one line each; empty if there are none.

    Example:
        >>> lint_trait(load_trait(Path("traits/mine.yaml")))
        ['questions: 12, expected at least 20', 'description: empty']
    """
    return _lint_labelled(trait) if trait.responses else _lint_generated(trait)


def _lint_generated(trait: Trait) -> list[str]:
    """Objections to a trait whose rollouts are generated."""
    faults = []
    for key, number, expected in (
        ("pairs", len(trait.pairs), PAIRS),
        ("questions", len(trait.questions), QUESTIONS),
        ("evaluation_questions", len(trait.evaluation_questions), QUESTIONS),
    ):
        if number < expected:
            faults.append(f"{key}: {number}, expected at least {expected}")
    faults += _repeated_questions(trait)

    # Pairs are the folds of the held-out check: a repeated one would be tested on itself.
    positive = {normalize(pair.positive) for pair in trait.pairs}
    negative = {normalize(pair.negative) for pair in trait.pairs}
    if positive & negative:
        faults.append("pairs: the same instruction is positive and negative")
    if len(positive) < len(trait.pairs):
        faults.append("pairs: the same positive instruction appears twice")
    if not trait.description:
        faults.append("description: empty")
    # A judge that may write a sentence first spends its only token on a word.
    last_line = trait.judge_prompt.strip().splitlines()[-1]
    if "number" not in last_line and "integer" not in trait.judge_prompt:
        faults.append("judge_prompt: the last line does not ask for the number alone")
    return faults


def _repeated_questions(trait: Trait) -> list[str]:
    """Questions that occur twice. One in both lists would leak extraction into evaluation."""
    faults = []
    first_use: dict[str, str] = {}
    for key in ("questions", "evaluation_questions"):
        for number, question in enumerate(getattr(trait, key), start=1):
            position = f"{key} {number}"
            first = first_use.setdefault(normalize(question), position)
            if first != position:
                faults.append(f"{position} repeats {first}")
    return faults


def _lint_labelled(trait: Trait) -> list[str]:
    """Objections to a trait with labelled responses."""
    pairs: dict[tuple[int, int], list[LabelledResponse]] = defaultdict(list)
    for response in trait.responses:
        pairs[response.question, response.repeat].append(response)
    faults = []
    if len(pairs) < QUESTIONS:
        noun = "pair" if len(pairs) == 1 else "pairs"
        faults.append(f"responses: {len(pairs)} {noun}, expected at least {QUESTIONS}")
    if len(trait.questions) == 1:
        faults.append(
            "responses: all answer one question, so no question can be held out to test the vector"
        )

    equal = [pair for pair in pairs.values() if _has_equal_texts(pair)]
    first_of_equal = [pair[0] for pair in equal]
    faults += _count("responses", "pair", "with the same text on both sides", first_of_equal)
    faults += _count("responses", "text", "repeated", _repeated(trait.responses))

    leaked = _repeated(trait.evaluation_responses, trait.responses)
    faults += _count("evaluation_responses", "text", "already in responses", leaked)
    faults += _lint_endings(pairs.values()) + _lint_lengths(trait)
    return faults if trait.description else [*faults, "description: empty"]


def _has_equal_texts(pair: Sequence[LabelledResponse]) -> bool:
    return len({(response.before, response.text) for response in pair}) < len(pair)


def _lint_endings(pairs: Iterable[Sequence[LabelledResponse]]) -> list[str]:
    """Whole texts of which only some pairs end alike: nothing could be cut off as the response."""
    total = alike = 0
    for pair in pairs:
        if pair[0].form != "text" or any(response.before for response in pair):
            continue
        total += 1
        if not _has_equal_texts(pair) and shared_ending(pair[0].text, pair[-1].text):
            alike += 1
    if not alike:
        return []
    return [f"responses: {alike} of {total} pairs share an ending, so the whole texts are read"]


def _lint_lengths(trait: Trait) -> list[str]:
    """Responses of one polarity that are much longer than those of the other."""
    # Characters and not tokens: to check a definition needs no model.
    lengths: dict[str, list[int]] = {"positive": [], "negative": []}
    for response in trait.responses:
        lengths[response.polarity].append(len(response.text))
    positive, negative = (sum(counts) / len(counts) for counts in lengths.values())
    if max(positive, negative) <= _MAX_LENGTH_RATIO * min(positive, negative):
        return []
    return [
        f"responses: mean length {positive:.0f} characters positive, {negative:.0f} negative: "
        "the vector will partly measure length"
    ]


def _repeated(
    responses: Sequence[LabelledResponse], known: Sequence[LabelledResponse] = ()
) -> list[LabelledResponse]:
    """Responses whose polarity, prompt and text occurred before, or are among `known`."""
    seen = {(one.polarity, one.before, one.text) for one in known}
    repeated = []
    for response in responses:
        key = (response.polarity, response.before, response.text)
        if key in seen:
            repeated.append(response)
        seen.add(key)
    return repeated


def _count(key: str, noun: str, fault: str, found: Sequence[LabelledResponse]) -> list[str]:
    """A line such as "responses: 3 texts repeated, first at pairs.jsonl line 7"; none if empty."""
    if not found:
        return []
    plural = noun if len(found) == 1 else f"{noun}s"
    first = f"{found[0].file} line {found[0].line}"
    return [f"{key}: {len(found)} {plural} {fault}, first at {first}"]
