"""Draws one row per trait: the current score, a bar around zero, the last tokens, the running mean."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from traitcli.views.cells import fit
from traitcli.views.palette import LIMIT, Palette
from traitcli.views.printable import one_line

QUIET = Style(dim=True)
_STRONG = Style(bold=True)
_LEVELS = "▁▂▃▄▅▆▇█"
_KEPT = 64
_FIGURE = 6
_WIDEST_NAME = 16
_NOT_CALIBRATED = "raw, not calibrated"


class TraitTrack:
    """What has been seen of one trait so far; raw projections when it has no calibrated scores."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.label = one_line(name)
        self.calibrated = True
        self.recent: deque[float] = deque(maxlen=_KEPT)
        self._sum = 0.0
        self._count = 0

    def add(self, score: float) -> None:
        """Take the score of one more token; one that is not a number stays out of the mean."""
        self.recent.append(score)
        if math.isfinite(score):
            self._sum += score
            self._count += 1

    @property
    def now(self) -> float | None:
        return self.recent[-1] if self.recent else None

    @property
    def mean(self) -> float | None:
        return self._sum / self._count if self._count else None


@dataclass(frozen=True, slots=True)
class Columns:
    """Widths in cells; 0 leaves a column out."""

    name: int
    bar: int
    spark: int
    mean: int


def fit_columns(names: Sequence[str], width: int) -> Columns:
    """Share `width` cells out; the sparkline goes first when they are few, then the bar, then the mean."""
    longest = max((cell_len(name) for name in names), default=0)
    name = max(5, min(longest, _WIDEST_NAME, width - _FIGURE - 4))
    free = width - 2 - name - 2 - _FIGURE
    mean = _FIGURE if free >= 2 + _FIGURE else 0
    free -= 2 + mean if mean else 0
    bar = 21 if free >= 35 else 13 if free >= 15 else 0
    free -= 2 + bar if bar else 0
    spark = min(32, free - 2) if free >= 10 else 0
    return Columns(name, bar, spark, mean)


def panel_lines(tracks: Sequence[TraitTrack], leader: str | None, palette: Palette, width: int) -> list[Text]:
    """A header and one line per trait, each at most `width` cells wide; the leader is marked."""
    columns = fit_columns([track.label for track in tracks], width)
    rows = [_row(track, track.name == leader, palette, columns) for track in tracks]
    return [_header(columns, palette), *rows]


def bar(score: float | None, palette: Palette, width: int) -> Text:
    """A line from zero in the middle to the score; dots stand at the class means."""
    half = width // 2
    steps = 0 if score is None or math.isnan(score) else round(min(abs(score), LIMIT) / LIMIT * half * 2)
    full, rest = divmod(steps, 2)
    empty = [" "] * half
    empty[half // 2 - 1] = "·"
    filled = "━" * full + "╸" * rest
    tail = "".join(empty[len(filled) :])
    line = Text()
    if score is not None and score < 0:
        line.append(tail[::-1], QUIET).append("╺" * rest + "━" * full, palette.ink(score))
        return line.append("│", QUIET).append("".join(empty), QUIET)
    line.append("".join(empty[::-1]), QUIET).append("│", QUIET)
    return line.append(filled, palette.ink(score)).append(tail, QUIET)


def sparkline(scores: Sequence[float], palette: Palette, width: int, *, calibrated: bool) -> Text:
    """One block per token, the newest at the right; from −2 to +2, or over their own range when not calibrated."""
    shown = list(scores)[-width:] if width else []
    finite = [score for score in shown if math.isfinite(score)]
    low, high = (-LIMIT, LIMIT) if calibrated else (min(finite, default=0.0), max(finite, default=0.0))
    line = Text(" " * (width - len(shown)))
    for score in shown:
        line.append(_level(score, low, high), palette.ink(score if calibrated else None))
    return line


def figure(score: float | None) -> str:
    """A score in at most six characters: `+1.32`, `−12.3`, `–` when there is none."""
    if score is None or math.isnan(score):
        return "–"
    size = abs(score)
    digits = ".2f" if size < 9.995 else ".1f" if size < 99.95 else ".0f" if size < 99999.5 else ".0e"
    return f"{score:+{digits}}".replace("-", "−")


def _row(track: TraitTrack, leads: bool, palette: Palette, columns: Columns) -> Text:
    scale = palette if track.calibrated else Palette("none")
    now, mean = track.now, track.mean
    row = Text(no_wrap=True, end="")
    row.append("▸ " if leads else "  ").append(fit(track.label, columns.name), _STRONG if leads else None)
    row.append("  ").append(fit(figure(now), _FIGURE, right=True), scale.ink(now))
    if columns.bar:
        note = Text(fit(_NOT_CALIBRATED, columns.bar), QUIET)
        row.append("  ").append_text(bar(now, palette, columns.bar) if track.calibrated else note)
    if columns.spark:
        row.append("  ").append_text(sparkline(track.recent, palette, columns.spark, calibrated=track.calibrated))
    if columns.mean:
        row.append("  ").append(fit(figure(mean), _FIGURE, right=True), scale.ink(mean))
    return row


def _header(columns: Columns, palette: Palette) -> Text:
    header = Text(no_wrap=True, end="")
    header.append(f"  {fit('trait', columns.name)}  {fit('now', _FIGURE, right=True)}", QUIET)
    if columns.bar:
        header.append("  ").append_text(_ruler(columns.bar, palette))
    if columns.spark:
        label = "last tokens" if columns.spark > 10 else "last"
        header.append("  ").append(fit(label, columns.spark, right=True), QUIET)
    if columns.mean:
        header.append("  ").append(fit("mean", _FIGURE, right=True), QUIET)
    return header


def _ruler(width: int, palette: Palette) -> Text:
    """The scale over the bars, which is the legend of the colours too."""
    half = width // 2
    below, above = ("−2  −1", "+1  +2") if half == 10 else ("−2", "+2")
    ruler = Text().append(fit(below, half), palette.ink(-LIMIT)).append("0", QUIET)
    return ruler.append(fit(above, half, right=True), palette.ink(LIMIT))


def _level(score: float, low: float, high: float) -> str:
    if math.isnan(score):
        return " "
    share = (min(max(score, low), high) - low) / (high - low) if high > low else 0.5
    return _LEVELS[round(share * (len(_LEVELS) - 1))]
