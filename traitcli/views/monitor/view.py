"""Shows a watched generation in a terminal: the text as it grows, coloured, above a small live panel."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from statistics import fmean
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType
from rich.text import Text

from traitcli.events import (
    AlarmRaised,
    Event,
    ModelLoaded,
    ModelLoading,
    MonitorFinished,
    MonitorStarted,
    PromptScored,
    TextsRead,
    TokenScored,
    Warned,
)
from traitcli.views.cells import Lines, LineWrapper, wrap
from traitcli.views.formatting import QUIET
from traitcli.views.monitor.echo import no_echo
from traitcli.views.monitor.heatmap import HeatMap
from traitcli.views.monitor.leader import Leader
from traitcli.views.monitor.notes import closing_lines, opening_lines, warning_lines
from traitcli.views.monitor.panel import TraitTrack, panel_lines
from traitcli.views.monitor.token_ink import TokenInk
from traitcli.views.palette import palette_for
from traitcli.views.printable import one_line
from traitcli.views.words import alarm_text, loading_text, raw_note, reading_text, warning_text

_FRAME = 1 / 10
_MEASURE = 100
"""Lines longer than this are tiring to read, and a terminal made narrower re-wraps them."""
_WARNINGS_KEPT_LIVE = 2


class MonitorView:
    """Prints each finished line for good and redraws only the growing line with the panel under it.

    A token has the colour of one trait: `color_by`, or else the trait that leads so far (see Leader).
    Figures are raw projections if `raw`. The scores of `by_layer` at every row stand in a heat map.
    """

    def __init__(
        self,
        console: Console,
        color_by: str | None = None,
        *,
        raw: bool = False,
        by_layer: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._clock = clock
        self._palette = palette_for(console.color_system, no_color=console.no_color)
        self.color_by = color_by
        self.echo = True
        self._raw = raw
        self._by_layer = by_layer
        self._answers = 0
        self._begin()
        self._warnings: list[str] = []
        self._status = ""
        self._live: Live | None = None
        self._echo = ExitStack()
        self._drawn_at = -_FRAME
        self._drawn: list[int] = []
        self._reading_since = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def show(self, event: Event) -> None:
        """Take one event; those of an extraction are none of this view's business."""
        match event:
            case ModelLoading():
                self._status = f"{loading_text(event)} …"
                self._draw()
            case ModelLoaded():
                self._status = ""
            case MonitorStarted():
                self._start(event)
            case PromptScored():
                self._show_prompt(event)
            case TokenScored():
                self._take(event)
            case TextsRead():
                self._follow(event)
            case Warned():
                self._warn(warning_text(event))
            case AlarmRaised():
                self._warn(alarm_text(event))
            case MonitorFinished():
                self._finish(event)
            case _:
                pass

    @property
    def _width(self) -> int:
        return max(10, min(self._console.width - 1, _MEASURE))

    def _begin(self) -> None:
        """Forget the answer before."""
        self._ink = TokenInk(self._palette)
        self._leader = Leader(self.color_by)
        self._tracks: dict[str, TraitTrack] = {}
        self._text = LineWrapper(self._width)
        self._map: HeatMap | None = None

    def _start(self, event: MonitorStarted) -> None:
        self._begin()
        self._answers += 1
        self._tracks = {name: TraitTrack(name, raw=self._raw) for name in event.traits}
        if self._by_layer:
            self._map = HeatMap(self._by_layer, event.layers.get(self._by_layer))
        self._status = "waiting for the first token …"
        self._draw(
            opening_lines(
                event, self._palette, self._width, first=self._answers == 1, echo=self.echo
            )
        )

    def _show_prompt(self, event: PromptScored) -> None:
        """Print the prompt as the model reads it, coloured like an answer."""
        means = {name: abs(fmean(scores)) for name, scores in event.calibrated.items() if scores}
        trait = (
            self.color_by
            if self.color_by in event.calibrated
            else max(means, key=means.__getitem__, default="")
        )
        scores = event.calibrated.get(trait or "", (None,) * len(event.tokens))
        ink, text = TokenInk(self._palette), LineWrapper(self._width)
        for token, score in zip(event.tokens, scores, strict=True):
            for piece, style in ink.pieces(token, score):
                text.add(piece, style)
        for piece, style in ink.end():
            text.add(piece, style)
        text.end_line()
        title = Text(
            f"the prompt, {len(event.tokens):,} tokens, by {one_line(trait)}:" if trait else "",
            QUIET,
        )
        self._draw([title, *text.take_finished(), Text("")])

    def _take(self, event: TokenScored) -> None:
        self._status = ""
        for name, raw in event.raw.items():
            track = self._tracks.setdefault(name, TraitTrack(name, raw=self._raw))
            score = event.calibrated.get(name)
            if track.calibrated and score is None:
                self._warnings.append(warning_text(raw_note(name)))
            track.add(raw, score, event.text)
        if self._map and event.by_layer:
            self._map.add(event.by_layer)
        leader = self._leader.after(event.index, self._tracks)
        for text, style in self._ink.pieces(event.text, event.calibrated.get(leader or "")):
            self._text.add(text, style)
        if self._clock() - self._drawn_at >= _FRAME:
            self._draw()

    def _follow(self, event: TextsRead) -> None:
        if not event.done:
            self._reading_since = self._clock()
        self._status = reading_text(event, self._clock() - self._reading_since)
        if event.done == event.total or self._clock() - self._drawn_at >= _FRAME:
            self._draw()

    def _warn(self, message: str) -> None:
        self._warnings.append(message)
        self._draw()

    def _finish(self, event: MonitorFinished) -> None:
        self._status = ""
        self.close()
        first, turns = self._answers == 1, self._leader.turns
        for line in closing_lines(event, turns, self._palette, self._width, first=first):
            self._console.print(line, soft_wrap=True, highlight=False)

    def close(self) -> None:
        """Leave what stands there for good; another answer may follow."""
        if self._live is not None:
            for text, style in self._ink.end():
                self._text.add(text, style)
            self._draw(final=True)
            self._live.stop()
            self._live = None
            self._echo.close()
            self._tracks, self._warnings, self._drawn = {}, [], []

    def _draw(self, above: list[Text] | None = None, *, final: bool = False) -> None:
        live = self._started_live()
        with self._console:
            self._undo_rewrapping()
            self._text.resize(self._width)
            done = [*(above or []), *self._text.take_finished()]
            region = self._region(final=final)
            live.update(Lines(region), refresh=True)
            if done:
                # Soft: Rich would wrap at one width and crop at another, if the window is resized in between.
                self._console.print(Text("\n", end="").join(done), highlight=False, soft_wrap=True)
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
        room = self._console.height - len(growing) - len(notes) - 3
        panel = self._panel(len(self._tracks) if final and not self._map else room)
        heat = self._map.lines(self._palette, width, room - len(panel)) if self._map else []
        return [*growing, Text(""), *panel, *([Text(""), *heat] if heat else []), *notes]

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
            if self._console.file.isatty():
                self._echo.enter_context(no_echo())
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
