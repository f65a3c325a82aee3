"""Shows a monitored response in a terminal: colored text above a small live panel."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from statistics import fmean

from rich.console import Console
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType
from rich.style import Style
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
from traitcli.views.closable import ClosableView
from traitcli.views.formatting import QUIET
from traitcli.views.interrupts import postponed_interrupts
from traitcli.views.monitor.echo import no_echo
from traitcli.views.monitor.heatmap import HeatMap
from traitcli.views.monitor.leader import Leader
from traitcli.views.monitor.notes import closing_lines, opening_lines, warning_lines
from traitcli.views.monitor.panel import TraitTrack, panel_lines
from traitcli.views.monitor.token_styles import TokenStyler
from traitcli.views.palette import palette_for
from traitcli.views.printable import one_line, printable
from traitcli.views.words import (
    MASSIVE_NOTE,
    alarm_text,
    brakes_of,
    brakes_text,
    loading_text,
    raw_note,
    reading_text,
    warning_text,
)

# Drawing happens in the thread that decodes, so each frame costs decoding time: 2 % at this rate.
_FRAME = 1 / 10
_MEASURE = 100
"""Longer lines are tiring to read, and a terminal that is made narrower wraps them again."""
_BRAKED = Style(underline=True)
"""Tokens at which a cap or a gate held."""
_WARNINGS_KEPT_LIVE = 2
"""Only the last ones, so that the panel keeps its place; at the end all are printed."""


class MonitorView(ClosableView):
    """Prints each finished line once, and redraws only the last line and the panel below it.

    color_by  trait whose scores color the tokens; None: the leader so far (see Leader)
    raw       show raw projections instead of calibrated scores
    by_layer  trait whose scores at every layer are drawn as a heat map
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
        self._noted_massive = False
        self._reset()
        self._warnings: list[str] = []
        self._status = ""
        self._live: Live | None = None
        self._echo = ExitStack()
        self._drawn_at = -_FRAME
        self._drawn_widths: list[int] = []
        self._reading_since = 0.0

    @postponed_interrupts()
    def show(self, event: Event) -> None:
        """Show one event of a monitored response; other events are ignored."""
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
                self._show_token(event)
            case TextsRead():
                self._show_reading(event)
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
        # One column stays free: some terminals wrap a line that fills the last one.
        return max(10, min(self._console.width - 1, _MEASURE))

    def _reset(self) -> None:
        """Forget the previous response."""
        self._styler = TokenStyler(self._palette)
        self._leader = Leader(self.color_by)
        self._tracks: dict[str, TraitTrack] = {}
        self._text = LineWrapper(self._width)
        self._map: HeatMap | None = None
        # Cap or gate -> at how many tokens it held so far.
        self._held: dict[str, int] = {}
        self._tokens = 0

    def _start(self, event: MonitorStarted) -> None:
        self._reset()
        self._answers += 1
        self._tracks = {
            name: TraitTrack(name, raw=self._raw, mark=event.marks.get(name))
            for name in event.traits
        }
        self._held = dict.fromkeys(brakes_of(event.steering), 0)
        if self._by_layer:
            self._map = HeatMap(self._by_layer, event.layers.get(self._by_layer))
        self._status = "waiting for the first token …"
        first = self._answers == 1
        self._draw(opening_lines(event, self._palette, self._width, first=first, echo=self.echo))

    def _show_prompt(self, event: PromptScored) -> None:
        """Print the prompt as the model reads it, colored like a response."""
        trait = self.color_by if self.color_by in event.calibrated else _strongest(event)
        scores = event.calibrated.get(trait or "", (None,) * len(event.tokens))
        massive = event.massive.get(trait or "", ())

        styler, text = TokenStyler(self._palette), LineWrapper(self._width)
        for index, (token, score) in enumerate(zip(event.tokens, scores, strict=True)):
            is_massive = index in massive
            for part, style in styler.style(token, None if is_massive else score):
                text.add(part, QUIET if is_massive else style)
        for part, style in styler.end():
            text.add(part, style)
        text.end_line()

        title = f"the prompt, {len(event.tokens):,} tokens, by {one_line(trait)}:" if trait else ""
        self._draw([Text(title, QUIET), *text.pop_finished(), Text("")])

    def _show_token(self, event: TokenScored) -> None:
        self._status = ""
        for brake in event.braked:
            self._held[brake] = self._held.get(brake, 0) + 1
        self._tokens = event.index + 1
        if event.skipped:
            self._text.add(printable(event.text), QUIET)
            if self._clock() - self._drawn_at >= _FRAME:
                self._draw()
            return
        for name, raw in event.raw.items():
            track = self._tracks.setdefault(name, TraitTrack(name, raw=self._raw))
            if name in event.massive:
                continue
            score = event.calibrated.get(name)
            # Only the first token: afterwards `track.calibrated` is False.
            if track.calibrated and score is None:
                self._warnings.append(warning_text(raw_note(name)))
            track.add(raw, score, event.text)
        if self._map and event.by_layer:
            self._map.add(event.by_layer)

        if event.massive and not self._noted_massive:
            self._noted_massive = True
            self._warnings.append(MASSIVE_NOTE)

        leader = self._leader.after(event.index, self._tracks)
        is_massive = leader in event.massive
        score = None if is_massive else event.calibrated.get(leader or "")
        for text, style in self._styler.style(event.text, score):
            shown = (QUIET if is_massive else style) or Style.null()
            self._text.add(text, shown + _BRAKED if event.braked else shown)

        # A fast model writes more tokens in a second than a terminal should draw.
        if self._clock() - self._drawn_at >= _FRAME:
            self._draw()

    def _show_reading(self, event: TextsRead) -> None:
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
        first, changes = self._answers == 1, self._leader.changes
        for line in closing_lines(event, changes, self._palette, self._width, first=first):
            self._console.print(line, soft_wrap=True, highlight=False)

    @postponed_interrupts()
    def close(self) -> None:
        """Draw the last frame and give the terminal back; another response may follow."""
        if self._live is None:
            return

        for text, style in self._styler.end():
            self._text.add(text, style)
        self._draw(final=True)
        self._live.stop()
        self._live = None
        self._echo.close()
        self._tracks, self._warnings, self._drawn_widths = {}, [], []

    def _draw(self, above: list[Text] | None = None, *, final: bool = False) -> None:
        live = self._started_live()
        # The context buffers all writes, so the terminal never shows half a frame.
        with self._console:
            self._undo_rewrapping()
            self._text.resize(self._width)
            finished = [*(above or []), *self._text.pop_finished()]
            region = self._region(final=final)

            # The region comes first. Printing draws it again, and the old one still holds the
            # lines that are now printed for good.
            live.update(Lines(region), refresh=True)
            if finished:
                # soft_wrap, because Rich reads the width twice: if the window is resized in
                # between, it would wrap at one width and crop at the other.
                lines = Text("\n", end="").join(finished)
                self._console.print(lines, highlight=False, soft_wrap=True)
        self._drawn_widths = [min(line.cell_len, self._console.width) for line in region]
        self._drawn_at = self._clock()

    def _region(self, *, final: bool) -> list[Text]:
        """The lines that are redrawn: the last line of text, the panel and the warnings."""
        width = self._width
        status = wrap(self._status, width, QUIET) if self._status else []
        warnings = self._warnings if final else self._warnings[-_WARNINGS_KEPT_LIVE:]
        notes = [line for warning in warnings for line in warning_lines(warning, width)]
        if not self._tracks:
            return [*status, *notes]

        growing = status or [self._text.line]
        brakes = wrap(brakes_text(self._held, self._tokens), width, QUIET) if self._held else []
        room = self._console.height - len(growing) - len(notes) - len(brakes) - 3

        # Nothing is redrawn after the last frame, so it may be taller than the screen. A heat map
        # takes the lines that the panel leaves, so then the panel must stay within the screen.
        panel = self._panel(len(self._tracks) if final and not self._map else room)
        heat = self._map.lines(self._palette, width, room - len(panel)) if self._map else []
        below = [*brakes, *([Text(""), *heat] if heat else []), *notes]
        return [*growing, Text(""), *panel, *below]

    def _panel(self, room: int) -> list[Text]:
        """As many rows as fit, always including the leader's."""
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
                # Rich's own thread would compete with the model for the interpreter and the cores.
                auto_refresh=False,
                # A stderr that is piped to a file must stay there.
                redirect_stderr=sys.stderr.isatty(),
                vertical_overflow="crop",
            )
            if self._console.file.isatty():
                self._echo.enter_context(no_echo())
            self._live.start()
        return self._live

    def _undo_rewrapping(self) -> None:
        """Erase the extra rows that appear when a narrower terminal wraps the drawn lines."""
        # Rich moves the cursor up by the number of lines it drew. It does not know that the
        # terminal has wrapped them into more rows.
        columns = max(self._console.width, 1)
        too_wide = [cells for cells in self._drawn_widths if cells > columns]
        extra = sum(-(-cells // columns) - 1 for cells in too_wide)
        if extra:
            erase = (ControlType.ERASE_IN_LINE, 2)
            self._console.control(Control(ControlType.CARRIAGE_RETURN, erase))
            self._console.control(Control(*[(ControlType.CURSOR_UP, 1), erase] * extra))


def _strongest(event: PromptScored) -> str:
    """The trait with the largest mean score in absolute value; empty if none is calibrated."""
    means = {}
    for name, scores in event.calibrated.items():
        massive = event.massive.get(name, ())
        counted = [score for index, score in enumerate(scores) if index not in massive]
        if counted:
            means[name] = abs(fmean(counted))
    return max(means, key=means.__getitem__, default="")
