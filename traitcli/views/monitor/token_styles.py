"""Turns tokens and their scores into colored or marked text."""

from __future__ import annotations

from rich.style import Style

from traitcli.views.palette import CLASS_MEAN, Palette
from traitcli.views.printable import printable

StyledText = tuple[str, Style | None]


class TokenStyler:
    """Colors one token after another.

    Without colors, `⟨…⟩⁺` and `⟨…⟩⁻` enclose consecutive tokens beyond a class mean.
    """

    def __init__(self, palette: Palette) -> None:
        self._palette = palette
        self._previous: Style | None = None
        self._open_sign = ""

    def style(self, token: str, score: float | None) -> list[StyledText]:
        """The text to write for a token; empty while its character is incomplete."""
        text = printable(token)
        word = text.lstrip(" ")
        space = text[: len(text) - len(word)]
        if not text:
            return []
        if self._palette.depth == "none":
            return self._marked(space, word, score)

        # The space before a colored token has a color only if the previous token has one.
        style = self._palette.token(score)
        space_style = style if self._previous else None
        self._previous = style
        return [(space, space_style), (word, style)]

    def end(self) -> list[StyledText]:
        """The text to write after the last token."""
        closing, self._open_sign = self._closing, ""
        return [(closing, None)]

    @property
    def _closing(self) -> str:
        return f"⟩{self._open_sign}" if self._open_sign else ""

    def _marked(self, space: str, word: str, score: float | None) -> list[StyledText]:
        # White space keeps a bracket open, but a bracket never spans two lines.
        if word.strip():
            sign = _sign(score)
        elif "\n" in word:
            sign = ""
        else:
            sign = self._open_sign

        if sign == self._open_sign:
            return [(space + word, None)]
        closing, self._open_sign = self._closing, sign
        opening = "⟨" if sign else ""
        return [(f"{closing}{space}{opening}{word}", None)]


def _sign(score: float | None) -> str:
    # NaN compares false with everything, so `not (… >= …)` also excludes it.
    if score is None or not abs(score) >= CLASS_MEAN:
        return ""
    return "⁺" if score > 0 else "⁻"
