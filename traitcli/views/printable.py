"""Makes text written by a model harmless on a terminal."""

from __future__ import annotations

import re
import unicodedata

_MOST_MARKS = 4
"""Combining marks in a row that any living script needs; more are there to climb over the lines above."""

_EMOJI_PRESENTATION = "\ufe0f"
_EMOJI = range(0x1F000, 0x1FC00)
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0e\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff]"
)


def printable(text: str) -> str:
    r"""Replace whatever a terminal would obey or hide by an escape that can be read, such as `\x1b` or `\u202e`.

    Control characters, bidi overrides, zero-width and other invisible characters, private use, lone surrogates and
    piled-up combining marks are escaped. Newline and tab stay: the caller lays them out. The selector that asks for an
    emoji's colourful form is dropped, because terminals disagree about the width it makes.
    """
    if text.isascii() and text.isprintable():
        return text
    shown = []
    marks = 0
    for char in text:
        marks = marks + 1 if unicodedata.category(char) in {"Mn", "Me"} else 0
        if char != _EMOJI_PRESENTATION:
            shown.append(escaped(char) if is_hostile(char) or marks > _MOST_MARKS else char)
    return "".join(shown)


def one_line(text: str) -> str:
    """Make text printable within one line: every run of white space becomes one space."""
    return printable(" ".join(text.split()))


def is_hostile(char: str) -> bool:
    """Whether a character acts on the terminal, or is there without being seen."""
    if char in "\n\t":
        return False
    category = unicodedata.category(char)
    if category == "Cn":
        return ord(char) not in _EMOJI
    return category in {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"} or _UNSEEN.match(char) is not None


def escaped(char: str) -> str:
    r"""Name a character the way Python does: `\x1b`, `\u202e`, `\U000e0041`."""
    return char.encode("unicode_escape").decode("ascii")
