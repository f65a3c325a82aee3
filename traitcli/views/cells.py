"""Measures, fits and wraps text by terminal cells.

Rich wraps by cells too. This module exists because Rich measures some characters narrower than some
terminals draw them, and because wrapped lines must be final as soon as the next line starts.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

_TAB = 4
"""Cells between two tab stops."""
_NARROWEST = 10
"""Text is wrapped at this many cells at least, however narrow the terminal is."""
_SHORT = 12
"""Cells. The text beside a longer label is indented by two cells only."""
_SKIN_TONES = range(0x1F3FB, 0x1F400)
"""Emoji modifiers, which some terminals join to the emoji before them and others do not."""


class _Cell(NamedTuple):
    char: str
    size: int
    style: Style | None


class Lines:
    """A Rich renderable of lines that already fit.

    Rich would wrap them again, which took half of the drawing time.
    """

    def __init__(self, lines: Sequence[Text]) -> None:
        self._lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for number, line in enumerate(self._lines):
            if number:
                yield Segment.line()
            yield from line.render(console)


class LineWrapper:
    """Breaks growing text into lines no wider than `width` cells.

    Only the last line can still change. A finished line is final, so it can be printed at once.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self._cells: list[_Cell] = []
        self._used = 0
        self._skips_spaces = False
        self._finished: list[Text] = []

    @property
    def line(self) -> Text:
        """The last line, which still grows."""
        return _as_text(self._cells)

    def add(self, text: str, style: Style | None = None) -> None:
        """Append printable text. A newline ends the line; a tab moves to the next tab stop."""
        for char in text:
            if char == "\n":
                self.end_line()
            elif char == "\t":
                for _ in range(_TAB - self._used % _TAB):
                    self._put(_Cell(" ", 1, style))
            else:
                self._put(_Cell(char, char_cells(char), style))

    def end_line(self) -> None:
        """Finish the last line, even an empty one."""
        self._finish(self._cells, rest=[])
        self._skips_spaces = False

    def pop_finished(self) -> list[Text]:
        """Return the lines finished since the last call."""
        lines, self._finished = self._finished, []
        return lines

    def resize(self, width: int) -> None:
        """Change the width for the last line and the text that follows."""
        if width == self.width:
            return

        self.width = width
        cells, self._cells, self._used = self._cells, [], 0
        for cell in cells:
            self._put(cell)

    def _put(self, cell: _Cell) -> None:
        if self._skips_spaces and cell.char == " ":
            return
        self._skips_spaces = False

        # A character that is wider than an empty line is put there anyway.
        if self._used + cell.size > self.width and self._cells:
            self._wrap_before(cell)
            if self._skips_spaces:
                return

        self._cells.append(cell)
        self._used += cell.size

    def _wrap_before(self, cell: _Cell) -> None:
        cells = self._cells
        if cell.char == " ":
            # The space becomes the line break, and so do the spaces after it.
            self._finish(cells, rest=[])
            self._skips_spaces = True
            return

        space = max((i for i, c in enumerate(cells) if c.char == " "), default=0)
        has_words_before = any(c.char != " " for c in cells[:space])

        # Chinese and Japanese have no spaces between words: a line may break at any wide character.
        if cell.size == 2 or cells[-1].size == 2 or not has_words_before:
            self._finish(cells, rest=[])
        else:
            self._finish(cells[:space], rest=cells[space + 1 :])

    def _finish(self, cells: list[_Cell], rest: list[_Cell]) -> None:
        end = len(cells)
        while end and cells[end - 1].char == " ":
            end -= 1
        self._finished.append(_as_text(cells[:end]))
        self._cells = rest
        self._used = sum(cell.size for cell in rest)


def wrap(text: str, width: int, style: Style | None = None) -> list[Text]:
    """Wrap a printable text."""
    wrapper = LineWrapper(width)
    wrapper.add(text, style)
    wrapper.end_line()
    return wrapper.pop_finished()


def wrap_labelled(label: str, text: str, width: int, style: Style | None = None) -> list[Text]:
    """Wrap a printable text after a label, with a hanging indent.

    The indent is as wide as the label, or two cells if the label is long.
    """
    indent = cell_len(label) if cell_len(label) <= _SHORT else 2
    wrapper = LineWrapper(max(width, _NARROWEST))
    lines: list[Text] = []
    for char in f"{label}{text}\n":
        wrapper.add(char, style)
        if finished := wrapper.pop_finished():
            # Only the first line has the label; the others have less room by the indent.
            lines += finished
            wrapper.resize(max(width - indent, _NARROWEST))
    return [lines[0], *(Text(" " * indent, end="").append_text(line) for line in lines[1:])]


def fit(text: str, width: int, *, right: bool = False) -> str:
    """Pad a one-line text to exactly `width` cells, or cut it with an ellipsis."""
    if cell_len(text) > width:
        return set_cell_size(text, width - 1) + "…" if width > 0 else ""
    space = " " * (width - cell_len(text))
    return space + text if right else text + space


def char_cells(char: str) -> int:
    """The most cells that any common terminal gives a character."""
    # Terminals disagree about these. A line that is measured too wide only wraps early, but a line
    # that is measured too narrow breaks the drawing.
    if ord(char) in _SKIN_TONES:
        return 2
    is_spacing_mark = unicodedata.category(char) == "Mc"
    return max(cell_len(char), int(is_spacing_mark))


def _as_text(cells: list[_Cell]) -> Text:
    text = Text(no_wrap=True, end="")
    for style, run in _runs(cells):
        text.append(run, style)
    return text


def _runs(cells: list[_Cell]) -> Iterator[tuple[Style | None, str]]:
    for style, group in groupby(cells, key=lambda cell: cell.style):
        yield style, "".join(cell.char for cell in group)
