"""Reads labelled responses from contrast pairs in JSON or JSON Lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from traitcli.files import explain_unreadable, parse_json, parse_lines
from traitcli.records import POLARITIES, LabelledResponse
from traitcli.traits.drafts import Draft, FaultError, Faults, check_text, normalize_question

# Our keys, those of Contrastive Activation Addition (CAA), and those of preference data.
_KEYS = (
    ("positive", "negative"),
    ("answer_matching_behavior", "answer_not_matching_behavior"),
    ("chosen", "rejected"),
)


@dataclass(frozen=True, slots=True)
class Pair:
    """A positive and a negative response, and what both answer; "" for texts without a question.

    path and line say where it was read from.
    """

    path: Path
    line: int
    question: str
    positive: str
    negative: str


def read_pairs(texts: Mapping[Path, str], faults: Faults) -> Iterator[Draft]:
    """Both responses of each pair.

    Texts without a question are split where the two become equal: what differs is the prompt, the
    shared ending is the response. They are split only if all of them can be.
    """
    pairs: list[Pair] = []
    for path, text in texts.items():
        pairs += _parse_pairs(path, text, faults)
    yield from draft_pairs(pairs)


def draft_pairs(pairs: Sequence[Pair]) -> Iterator[Draft]:
    """Both responses of each pair; texts without a question are split as in `read_pairs`."""
    endings = []
    for pair in pairs:
        asked = bool(pair.question.strip())
        endings.append(None if asked else shared_ending(pair.positive, pair.negative))

    # All or none: a direction from some whole texts and some responses would mix two measures.
    can_split = "" not in endings
    for slot, (pair, ending) in enumerate(zip(pairs, endings, strict=True)):
        if ending is None:
            yield from _answers(pair, slot)
        else:
            yield from _split_texts(pair, slot, ending if can_split else None)


def _answers(pair: Pair, slot: int) -> Iterator[Draft]:
    """Two answers to the pair's question."""
    for polarity, text in zip(POLARITIES, (pair.positive, pair.negative), strict=True):
        response = LabelledResponse(
            polarity, 0, 0, 0, pair.question, text, "answer", pair.path.name, pair.line
        )
        yield Draft(response, pair.question, normalize_question(pair.question), slot)


def _split_texts(pair: Pair, slot: int, ending: str | None) -> Iterator[Draft]:
    """Two texts without a question, split before the ending, or read whole if it is None."""
    # "\0" keeps the group apart from every question. Pairs with the same ending are one question.
    group = f"\0{(pair.positive, pair.negative) if ending is None else ending}"
    for polarity, text in zip(POLARITIES, (pair.positive, pair.negative), strict=True):
        before = "" if ending is None else text.removesuffix(ending)
        response = LabelledResponse(
            polarity, 0, 0, 0, before, text[len(before) :], "text", pair.path.name, pair.line
        )
        yield Draft(response, "", group, slot)


def _parse_pairs(path: Path, text: str, faults: Faults) -> Iterator[Pair]:
    entries = _list_items(text) if text.lstrip().startswith("[") else parse_lines(text)
    for line, entry in entries:
        try:
            yield _parse_pair(path, line, entry)
        except FaultError as fault:
            faults.add(path, line, str(fault))


def _list_items(text: str) -> Iterator[tuple[int, Any]]:
    """The line where each item of a JSON list begins, and its value; or the error in the list."""
    try:
        values = parse_json(text)
    except ValueError as error:
        yield getattr(error, "lineno", 1), error
        return
    # The json module keeps no line numbers, so each item is found a second time in the text.
    decoder = json.JSONDecoder()
    position = text.index("[")
    line = text.count("\n", 0, position) + 1
    for value in values:
        start = _ITEM_START.search(text, position + 1).start()  # type: ignore[union-attr]
        line += text.count("\n", position, start)
        yield line, value
        _, end = decoder.raw_decode(text, start)
        position = end - 1
        line += text.count("\n", start, position)


_ITEM_START = re.compile(r"[^\s,\[]|\[")
"""Start of an item, after the last character of the item before it or the list's bracket."""


def _parse_pair(path: Path, line: int, entry: Any) -> Pair:
    if isinstance(entry, Exception):
        raise FaultError(_explain(entry))
    if not isinstance(entry, Mapping):
        raise FaultError("not an object with positive and negative")
    keys = next((keys for keys in _KEYS if not entry.keys().isdisjoint(keys)), None)
    if keys is None:
        known = " or ".join(" and ".join(keys) for keys in _KEYS)
        raise FaultError(f"expected the keys {known}")
    texts = []
    for key in keys:
        text = check_text(_last_text(entry.get(key)), key)
        if not text.strip():
            raise FaultError(f"{key}: empty")
        texts.append(text)
    question = ""
    asked = next((entry[key] for key in _QUESTIONS if entry.get(key) is not None), None)
    if asked is None and isinstance(entry[keys[0]], list):
        asked = _asked_text(entry[keys[0]])
    if asked is not None:
        question = check_text(_last_text(asked), "question")
    return Pair(path, line, question, texts[0], texts[1])


_QUESTIONS = ("question", "prompt")


def _explain(error: Exception) -> str:
    found = explain_unreadable(error, is_line=True) if isinstance(error, ValueError) else str(error)
    return found if found.startswith("not JSON") else f"not JSON: {found}"


def _last_text(value: Any) -> Any:
    """The text of a list of one, as CAA has it, or of the last message of a chat."""
    if isinstance(value, list) and value:
        last = value[-1]
        if isinstance(last, Mapping) and "role" in last:
            return last.get("content")
        if len(value) == 1:
            return last
    return value


def _asked_text(messages: list[Any]) -> Any:
    """What the last user message of a chat asks; None for a list of another kind."""
    for message in reversed(messages):
        if isinstance(message, Mapping) and message.get("role") == "user":
            return message.get("content")
    return None


def shared_ending(one: str, other: str) -> str:
    """The longest ending of both that begins at a word boundary and contains a word, or "".

    Example:
        >>> shared_ending("I hate this. The sky is blue", "I love this. The sky is blue")
        ' this. The sky is blue'
    """
    length = 0
    for a, b in zip(reversed(one), reversed(other), strict=False):
        if a != b:
            break
        length += 1

    # From the longest on: an ending that begins inside a word is shortened to the next boundary.
    for start in range(length, 0, -1):
        ending = one[-start:]
        before = {text[-start - 1 : -start] for text in (one, other)}
        splits_word = _is_in_word(ending[0]) and any(map(_is_in_word, before))
        if not splits_word:
            return ending if any(map(str.isalnum, ending)) else ""
    return ""


def _is_in_word(character: str) -> bool:
    """Whether its neighbor may belong to the same word."""
    # From U+2E80 on (Han, kana, Hangul) texts have no spaces: every character may begin a word.
    return character.isalnum() and ord(character) < 0x2E80
