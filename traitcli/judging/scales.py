"""Read a judge's reply, as token probabilities or as text, on one of the four scales.

Every scale has its own unit, which is what the readers return; `to_percent` turns it into the
0–100 of a `Score`:

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
"""With less probability than this on valid answers there is no score."""


@dataclass(frozen=True, slots=True)
class Reading:
    """A value in its scale's own unit, or none with a reason."""

    value: float | None
    reason: str = ""


def read_probabilities(scale: Scale, probabilities: Mapping[str, float]) -> Reading:
    """The expected value over the valid answers, by the probabilities of the reply's first token.

    `probabilities` maps token texts to probabilities (0–1); spellings of one value (' 85', '85')
    add up. YES counts 1 and NO counts 0, so that the binary value is P(YES) / (P(YES) + P(NO)).
    On 0_100 this holds only where the token is a whole number: ask `is_digitwise` first.
    Source: the logit-weighted judge of Persona Vectors (Chen et al., 2025).
    """
    valid = [
        (value, p)
        for token, p in probabilities.items()
        if (value := read_token(scale, token)) is not None
    ]
    mass = math.fsum(p for _, p in valid)
    if mass < MIN_MASS - 1e-9:
        return Reading(
            None, f"refusal or off-scale: {mass:.2f} of the probability is on {_ANSWERS[scale]}"
        )
    return Reading(math.fsum(value * p for value, p in valid) / mass)


def read_token(scale: Scale, token: str) -> int | None:
    """What a single token means on the scale: a whole number, 1 for YES, 0 for NO, or nothing."""
    top = _TOP.get(scale)
    if top is None:
        word = _BARE.fullmatch(token)
        return _WORDS.get(word[1].upper()) if word else None
    digits = _DIGITS.fullmatch(token)
    # Three digits reach 100; int() of a longer token could be refused for its length.
    if digits is None or len(digits[1]) > 3 or int(digits[1]) > top:
        return None
    return int(digits[1])


def is_digitwise(probabilities: Mapping[str, float]) -> bool:
    """True when every number among the alternatives is a single digit.

    Such a model may write 85 as '8', '5': its first token is not the score but a tenth of it.
    A model with whole-number tokens that is certain of a single digit looks the same, so this
    calls for reading the whole number, not for multiplying.
    """
    numbers = [digits[1] for token in probabilities if (digits := _DIGITS.fullmatch(token))]
    return bool(numbers) and all(len(number) == 1 for number in numbers)


def opens_with_preamble(probabilities: Mapping[str, float]) -> bool:
    """True when the first token is most likely a blank or a mark such as '<think>', before any answer."""
    return math.fsum(p for token, p in probabilities.items() if _PREAMBLE.fullmatch(token)) >= 0.5


def read_text(scale: Scale, text: str) -> Reading:
    """The value that the reply states, which must be all that its first line says.

    binary_text looks for `<answer>YES</answer>` anywhere instead. Nothing is guessed from prose:
    'The answer shows 3 signs of …' has no score.
    """
    if scale == "binary_text":
        said = {word.upper() for word in _TAGGED.findall(text)}
        if len(said) == 1:
            return Reading(_WORDS[said.pop()])
    else:
        line = next((line for line in text.splitlines() if line.strip()), "")
        found = _LINES[scale].fullmatch(line) if len(line) <= _LONGEST_LINE else None
        value = read_token(scale, found[1]) if found else None
        if value is not None:
            return Reading(value)
    return Reading(None, f"the reply is not {_ANSWERS[scale]}: {_excerpt(text)}")


def to_percent(scale: Scale, value: float) -> float:
    """A value in the scale's own unit as 0–100."""
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
_LABEL = r"\s*(?:[*_]*[A-Za-z ]{1,20}[:=]|(?i:(?:the|my) (?:answer|rating|score|number) is:?))?"
_OPEN, _CLOSE = r"[\s*_`\"'(\[]*", r"[\s*_`\"')\].!]*"
_LINES: dict[Scale, re.Pattern[str]] = {
    "0_100": re.compile(rf"{_LABEL}{_OPEN}([0-9]+)(?: ?/ ?100)?{_CLOSE}"),
    "0_10": re.compile(rf"{_LABEL}{_OPEN}([0-9]+){_CLOSE}"),
    "binary": re.compile(rf"{_LABEL}{_OPEN}(yes|no){_CLOSE}", re.IGNORECASE),
}


def _excerpt(text: str) -> str:
    flat = " ".join(text.split())
    return repr(flat if len(flat) <= 60 else f"{flat[:60]}…") if flat else "it is empty"
