"""Turns tokens and their scores into the coloured or marked pieces of a text."""

from __future__ import annotations

from rich.style import Style

from traitcli.views.palette import CLASS_MEAN, Palette
from traitcli.views.printable import printable

Piece = tuple[str, Style | None]


class TokenInk:
    """Colours one token after another; where there are no colours, `⟨…⟩⁺` holds a run that reaches a class mean."""

    def __init__(self, palette: Palette) -> None:
        self._palette = palette
        self._previous: Style | None = None
        self._run = ""

    def pieces(self, token: str, score: float | None) -> list[Piece]:
        """What to write for a token; nothing for one whose character is still incomplete."""
        text = printable(token)
        word = text.lstrip(" ")
        space = text[: len(text) - len(word)]
        if not text:
            return []
        if self._palette.depth == "none":
            return self._marked(space, word, score)
        style = self._palette.token(score)
        # A colour that begins here begins at the word; within a run it joins the words.
        before = style if self._previous else None
        self._previous = style
        return [(space, before), (word, style)]

    def end(self) -> list[Piece]:
        """What to write after the last token."""
        closing, self._run = self._closing, ""
        return [(closing, None)]

    @property
    def _closing(self) -> str:
        return f"⟩{self._run}" if self._run else ""

    def _marked(self, space: str, word: str, score: float | None) -> list[Piece]:
        run = _sign(score) if word.strip() else "" if "\n" in word else self._run
        if run == self._run:
            return [(space + word, None)]
        closing, self._run = self._closing, run
        return [(f"{closing}{space}{'⟨' if run else ''}{word}", None)]


def _sign(score: float | None) -> str:
    if score is None or not abs(score) >= CLASS_MEAN:
        return ""
    return "⁺" if score > 0 else "⁻"
