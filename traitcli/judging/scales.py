"""Read a judge's reply on one of the four scales, from token probabilities or from text.

The functions return values in the scale's own unit. `to_percent` turns them into the 0–100 of a
`Score`:

    scale        own unit                     times
    0_100        0–100, expected value            1
    0_10         0–9, expected value        100 / 9
    binary       P(YES) / (P(YES) + P(NO))      100
    binary_text  1 for YES, 0 for NO            100
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Scale = Literal["0_100", "0_10", "binary", "binary_text"]

MIN_MASS = 0.25
"""The least probability on valid answers that gives a score."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A value in the scale's own unit, or None and a reason."""

    value: float | None
    reason: str = ""


def read_probabilities(scale: Scale, probabilities: Mapping[str, float]) -> Reading:
    """Return the expected value over the valid answers to a question.

    Args:
        scale: which answers are valid. YES counts 1 and NO counts 0, so a binary value is
            P(YES) / (P(YES) + P(NO)).
        probabilities: token text -> probability (0–1), for the reply's first token. Spellings of
            one value (' 85', '85') add up.

    On 0_100 the result is right only if the first token is the whole number: call
    `is_digit_by_digit` first.

    Source: the logit-weighted judge of Persona Vectors (Chen et al., 2025).
    """
    values, weights = [], []
    for token, probability in probabilities.items():
        value = read_token(scale, token)
        if value is not None:
            values.append(value)
            weights.append(probability)

    mass = math.fsum(weights)
    # The tolerance lets .25 through if it is the sum of rounded probabilities.
    if mass < MIN_MASS - 1e-9:
        reason = f"refusal or off-scale: {mass:.2f} of the probability is on {_ANSWERS[scale]}"
        return Reading(None, reason)
    total = math.fsum(value * p for value, p in zip(values, weights, strict=True))
    return Reading(total / mass)


def read_token(scale: Scale, token: str) -> int | None:
    """Return what a token means on the scale: a whole number, 1 for YES, 0 for NO, or None."""
    top = _TOP.get(scale)
    if top is None:
        word = _BARE.fullmatch(token)
        return _WORDS.get(word[1].upper()) if word else None
    digits = _DIGITS.fullmatch(token)
    # Three digits reach 100. Python refuses to convert numbers of thousands of digits.
    if digits is None or len(digits[1]) > 3 or int(digits[1]) > top:
        return None
    return int(digits[1])


def is_digit_by_digit(probabilities: Mapping[str, float]) -> bool:
    """True if every number among the alternatives has a single digit.

    Such a model may write 85 as '8', '5', so its first token is a tenth of the score. A model with
    whole-number tokens that is certain of a single digit looks the same. So the caller has to read
    the whole number; it must not multiply by ten.
    """
    matches = [_DIGITS.fullmatch(token) for token in probabilities]
    lengths = {len(match[1]) for match in matches if match}
    return lengths == {1}


def opens_with_word(alternatives: Mapping[str, float]) -> bool:
    """True if the first token is almost certainly the beginning of a sentence."""
    words = sum(p for token, p in alternatives.items() if token.strip().isalpha())
    return words >= _ALMOST_CERTAIN * sum(alternatives.values()) > 0


_ALMOST_CERTAIN = 0.99


def opens_with_preamble(probabilities: Mapping[str, float]) -> bool:
    """True if the first token is most likely whitespace or a tag such as '<think>'."""
    preamble = [p for token, p in probabilities.items() if _PREAMBLE.fullmatch(token)]
    return math.fsum(preamble) >= 0.5


def read_text(scale: Scale, text: str) -> Reading:
    """Return the value that a reply states.

    The value must be everything that the reply's first line says: 'The answer shows 3 signs of …'
    has no score. On binary_text, `<answer>YES</answer>` may be anywhere.
    """
    if scale == "binary_text":
        words = {word.upper() for word in _TAGGED.findall(text)}
        if len(words) == 1:
            return Reading(_WORDS[words.pop()])
    else:
        line = next((line for line in text.splitlines() if line.strip()), "")
        # A longer line is prose, not a number with a label.
        match = _LINES[scale].fullmatch(line) if len(line) <= _LONGEST_LINE else None
        value = read_token(scale, match[1]) if match else None
        if value is not None:
            return Reading(value)
    return Reading(None, f"the reply is not {_ANSWERS[scale]}: {_excerpt(text)}")


def to_percent(scale: Scale, value: float) -> float:
    """Convert a value in the scale's own unit to 0–100."""
    return min(100.0, max(0.0, value * 100 / _TOP.get(scale, 1)))


_TOP: dict[Scale, int] = {"0_100": 100, "0_10": 9}
_WORDS = {"YES": 1, "NO": 0}
_ANSWERS: dict[Scale, str] = {
    "0_100": "a whole number from 0 to 100",
    "0_10": "a digit from 0 to 9",
    "binary": "YES or NO",
    "binary_text": "<answer>YES</answer> or <answer>NO</answer>",
}

# Some servers return the tokenizer's own spelling of a leading space (▁, Ġ).
_DIGITS = re.compile(r"[\s▁Ġ]*([0-9]+)\s*")
_BARE = re.compile(r"[\s▁Ġ]*(yes|no)\s*", re.IGNORECASE)
_PREAMBLE = re.compile(r"[\s▁ĠĊ]*(<.*)?", re.DOTALL)
_TAGGED = re.compile(r"<answer>\s*(yes|no)\s*</answer>", re.IGNORECASE)

_LONGEST_LINE = 80
"""Characters."""
_LABEL = r"\s*(?:[*_]*[A-Za-z ]{1,20}[:=]|(?i:(?:the|my) (?:answer|rating|score|number) is:?))?"
_OPEN, _CLOSE = r"[\s*_`\"'(\[]*", r"[\s*_`\"')\].!]*"
_LINES: dict[Scale, re.Pattern[str]] = {
    "0_100": re.compile(rf"{_LABEL}{_OPEN}([0-9]+)(?: ?/ ?100)?{_CLOSE}"),
    "0_10": re.compile(rf"{_LABEL}{_OPEN}([0-9]+){_CLOSE}"),
    "binary": re.compile(rf"{_LABEL}{_OPEN}(yes|no){_CLOSE}", re.IGNORECASE),
}


def _excerpt(text: str) -> str:
    line = " ".join(text.split())
    if not line:
        return "it is empty"
    return repr(line if len(line) <= 60 else f"{line[:60]}…")
