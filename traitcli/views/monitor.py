"""Shows a watched generation in a terminal: the text as it grows, coloured, above a small live panel."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType
from rich.text import Text

from traitcli.events import (
    Event,
    ModelLoaded,
    ModelLoading,
    MonitorFinished,
    MonitorStarted,
    TokenScored,
    Warned,
)
from traitcli.views.cells import LineWrapper, wrap
from traitcli.views.leader import Leader
from traitcli.views.monitor_notes import closing_lines, opening_lines, warning_lines
from traitcli.views.palette import palette_for
from traitcli.views.panel import QUIET, TraitTrack, panel_lines
from traitcli.views.token_ink import TokenInk
from traitcli.views.words import loading_told, raw_note

_FRAME = 1 / 12
_MEASURE = 100
"""Lines longer than this are tiring to read, and a terminal made narrower re-wraps them."""
_WARNINGS_KEPT_LIVE = 2


class MonitorView:
    """Prints each finished line for good and redraws only the growing line with the panel under it.

    A token has the colour of one trait: `colour_by`, or else the trait that leads so far (see Leader).
    """

    def __init__(
        self, console: Console, colour_by: str | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._clock = clock
        self._palette = palette_for(console.color_system, no_color=console.no_color)
        self._ink = TokenInk(self._palette)
        self._leader = Leader(colour_by)
        self._tracks: dict[str, TraitTrack] = {}
        self._text = LineWrapper(self._width)
        self._warnings: list[Warned] = []
        self._status = ""
        self._live: Live | None = None
        self._drawn_at = -_FRAME
        self._drawn: list[int] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def show(self, event: Event) -> None:
        """Take one event; those of an extraction are none of this view's business."""
        match event:
            case ModelLoading():
                self._status = f"{loading_told(event)} …"
                self._draw()
            case ModelLoaded():
                self._status = ""
            case MonitorStarted():
                self._start(event)
            case TokenScored():
                self._take(event)
            case Warned():
                self._warnings.append(event)
                self._draw()
            case MonitorFinished():
                self._finish(event)
            case _:
                pass

    @property
    def _width(self) -> int:
        return max(10, min(self._console.width - 1, _MEASURE))

    def _start(self, event: MonitorStarted) -> None:
        self._tracks = {name: TraitTrack(name) for name in event.traits}
        self._status = "waiting for the first token …"
        self._draw(opening_lines(event, self._palette, self._width))

    def _take(self, event: TokenScored) -> None:
        self._status = ""
        for name, raw in event.raw.items():
            track = self._tracks.setdefault(name, TraitTrack(name))
            if track.calibrated and name not in event.calibrated:
                track.calibrated = False
                self._warnings.append(raw_note(name))
            track.add(event.calibrated.get(name, raw))
        leader = self._leader.after(event.index, self._tracks)
        for text, style in self._ink.pieces(event.text, event.calibrated.get(leader or "")):
            self._text.add(text, style)
        if self._clock() - self._drawn_at >= _FRAME:
            self._draw()

    def _finish(self, event: MonitorFinished) -> None:
        self._status = ""
        self._close()
        for line in closing_lines(event, self._leader.turns, self._palette, self._width):
            self._console.print(line, soft_wrap=True, highlight=False)

    def _close(self) -> None:
        if self._live is not None:
            for text, style in self._ink.end():
                self._text.add(text, style)
            self._draw(final=True)
            self._live.stop()
            self._live = None
            self._tracks, self._warnings, self._drawn = {}, [], []

    def _draw(self, above: list[Text] | None = None, *, final: bool = False) -> None:
        live = self._started_live()
        with self._console:
            self._undo_rewrapping()
            self._text.resize(self._width)
            done = [*(above or []), *self._text.take_finished()]
            region = self._region(final=final)
            live.update(Text("\n", no_wrap=True, end="").join(region), refresh=True)
            if done:
                self._console.print(Text("\n", end="").join(done), highlight=False)
        self._drawn = [min(line.cell_len, self._console.width) for line in region]
        self._drawn_at = self._clock()

    def _region(self, *, final: bool) -> list[Text]:
        width = self._width
        status = wrap(self._status, width, QUIET) if self._status else []
        warnings = self._warnings if final else self._warnings[-_WARNINGS_KEPT_LIVE:]
        notes = [line for warning in warnings for line in warning_lines(warning, width)]
        if not self._tracks:
            return [*status, *notes]
        growing = status or [self._text.line]
        room = len(self._tracks) if final else self._console.height - len(growing) - len(notes) - 3
        return [*growing, Text(""), *self._panel(room), *notes]

    def _panel(self, room: int) -> list[Text]:
        """The rows that there is room for, always with the one that gives the colours."""
        tracks, leader = list(self._tracks.values()), self._leader.current
        shown = tracks if len(tracks) <= room else tracks[: max(room - 1, 0)]
        hidden = len(tracks) - len(shown)
        if shown and leader in self._tracks and all(track.name != leader for track in shown):
            shown = [*shown[:-1], self._tracks[leader]]
        lines = panel_lines(shown, leader, self._palette, self._width) if shown else []
        return [*lines, Text(f"  … {hidden} more", QUIET)] if lines and hidden else lines

    def _started_live(self) -> Live:
        if self._live is None:
            self._live = Live(
                console=self._console,
                auto_refresh=False,
                redirect_stderr=sys.stderr.isatty(),
                vertical_overflow="crop",
            )
            self._live.start()
        return self._live

    def _undo_rewrapping(self) -> None:
        """Clear the rows that a narrower terminal made of the drawn lines; Rich counts only the lines."""
        columns = max(self._console.width, 1)
        extra = sum(-(-cells // columns) - 1 for cells in self._drawn if cells > columns)
        if extra:
            erase = (ControlType.ERASE_IN_LINE, 2)
            self._console.control(Control(ControlType.CARRIAGE_RETURN, erase))
            self._console.control(Control(*[(ControlType.CURSOR_UP, 1), erase] * extra))
