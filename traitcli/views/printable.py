"""Makes text written by a model harmless on a terminal."""

from __future__ import annotations

import re
import unicodedata

_MOST_MARKS = 4
"""Combining marks in a row that a living script needs. More of them would cover the lines above."""

_EMOJI_PRESENTATION = "\ufe0f"
_EMOJI = range(0x1F000, 0x1FC00)
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164"
    "\ufe00-\ufe0e\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff]"
)


def printable(text: str) -> str:
    r"""Replace characters that a terminal obeys or hides by a visible escape such as `\x1b`.

    Escaped are control characters, bidi overrides, invisible and private-use characters, lone
    surrogates, and combining marks beyond the fourth in a row. Newline and tab stay, because the
    caller lays them out.
    """
    # Most tokens are plain ASCII, and a live view calls this for each of them.
    if text.isascii() and text.isprintable():
        return text
    shown = []
    marks = 0
    for char in text:
        marks = marks + 1 if unicodedata.category(char) in {"Mn", "Me"} else 0

        # Terminals disagree about the width of an emoji followed by this selector. Without it they
        # agree.
        if char == _EMOJI_PRESENTATION:
            continue
        shown.append(escaped(char) if is_hostile(char) or marks > _MOST_MARKS else char)
    return "".join(shown)


def one_line(text: str) -> str:
    """Make text printable on one line: each run of white space becomes one space."""
    return printable(" ".join(text.split()))


def is_hostile(char: str) -> bool:
    """Whether a terminal would obey this character or not show it."""
    if char in "\n\t":
        return False

    category = unicodedata.category(char)
    if category == "Cn":
        # Unassigned. Emoji newer than this Python's Unicode tables are harmless.
        return ord(char) not in _EMOJI
    return category in {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"} or _UNSEEN.match(char) is not None


def escaped(char: str) -> str:
    r"""Write a character as a Python escape: `\x1b`, `\u202e`, `\U000e0041`."""
    return char.encode("unicode_escape").decode("ascii")
