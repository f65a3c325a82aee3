"""Draws one row per trait: the current score, a bar around zero, the last tokens, the running mean, the highest."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from traitcli.views.cells import fit
from traitcli.views.formatting import QUIET, figure
from traitcli.views.palette import LIMIT, Palette
from traitcli.views.printable import one_line

_STRONG = Style(bold=True)
_LEVELS = "▁▂▃▄▅▆▇"
"""Without the full block, so that rows under one another stay apart."""
_MIRRORED = str.maketrans("╸▸", "╺◂")
_KEPT = 64
_FIGURE = 6
_WIDEST_NAME = 16
_TOKEN = 10
_NOT_CALIBRATED = "raw, not calibrated"


class Tally:
    """The last of some numbers, their mean and the largest; what is not a number counts for nothing."""

    def __init__(self) -> None:
        self.last: float | None = None
        self.largest: float | None = None
        self._sum = 0.0
        self._count = 0

    def add(self, number: float) -> bool:
        """Take one more; whether it is the largest so far."""
        self.last = number
        if not math.isfinite(number):
            return False
        self._sum += number
        self._count += 1
        is_largest = self.largest is None or number > self.largest
        if is_largest:
            self.largest = number
        return is_largest

    @property
    def mean(self) -> float | None:
        return self._sum / self._count if self._count else None


class TraitTrack:
    """What has been seen of one trait so far.

    Its figures are calibrated scores, or raw projections if those are asked for or there are no others;
    bars and colours are made of calibrated scores alone.
    """

    def __init__(self, name: str, *, raw: bool = False) -> None:
        self.name = name
        self.label = one_line(name)
        self.raw = raw
        self.calibrated = True
        self.recent: deque[float] = deque(maxlen=_KEPT)
        self.scores = Tally()
        self.figures = self.scores
        self.highest_at = ""
        if raw:
            self.figures = Tally()

    def add(self, raw: float, calibrated: float | None, token: str = "") -> None:
        """Take the scores of one more token."""
        self.calibrated = calibrated is not None
        score = raw if calibrated is None else calibrated
        self.recent.append(score)
        is_largest = self.scores.add(score)
        if self.figures is not self.scores:
            is_largest = self.figures.add(raw)
        if is_largest:
            self.highest_at = token


@dataclass(frozen=True, slots=True)
class Columns:
    """Widths in cells; 0 leaves a column out."""

    name: int
    bar: int
    spark: int
    mean: int
    highest: int
    token: int


def fit_columns(names: Sequence[str], width: int) -> Columns:
    """Share `width` cells out; the sparkline goes first when they are few, then the highest, the bar, the mean."""
    longest = max((cell_len(name) for name in names), default=0)
    name = max(5, min(longest, _WIDEST_NAME, width - _FIGURE - 4))
    free = width - 2 - name - 2 - _FIGURE
    mean = _FIGURE if free >= 2 + _FIGURE else 0
    free -= 2 + mean if mean else 0
    bar = 21 if free >= 54 else 13 if free >= 15 else 0
    free -= 2 + bar if bar else 0
    highest = _FIGURE if free >= 2 + _FIGURE + 1 + _TOKEN else 0
    token = _TOKEN if highest else 0
    free -= 2 + highest + 1 + token if highest else 0
    spark = min(32, free - 2) if free >= 10 else 0
    return Columns(name, bar, spark, mean, highest, token)


def panel_lines(
    tracks: Sequence[TraitTrack], leader: str | None, palette: Palette, width: int
) -> list[Text]:
    """A header and one line per trait, each at most `width` cells wide; the leader is marked."""
    columns = fit_columns([track.label for track in tracks], width)
    rows = [_row(track, track.name == leader, palette, columns) for track in tracks]
    return [_header(columns, palette), *rows]


def bar(score: float | None, palette: Palette, width: int) -> Text:
    """A line from zero in the middle to the score, with a point where that lies beyond; dots at the class means."""
    half = width // 2
    steps = (
        0
        if score is None or math.isnan(score)
        else round(min(abs(score), LIMIT) / LIMIT * half * 2)
    )
    full, rest = divmod(steps, 2)
    beyond = score is not None and abs(score) > LIMIT
    empty = [" "] * half
    empty[half // 2 - 1] = "·"
    filled = "━" * (full - beyond) + ("▸" if beyond else "╸" * rest)
    tail = "".join(empty[len(filled) :])
    line = Text()
    if score is not None and score < 0:
        line.append(tail[::-1], QUIET).append(filled[::-1].translate(_MIRRORED), palette.ink(score))
        return line.append("│", QUIET).append("".join(empty), QUIET)
    line.append("".join(empty[::-1]), QUIET).append("│", QUIET)
    return line.append(filled, palette.ink(score)).append(tail, QUIET)


def sparkline(scores: Sequence[float], palette: Palette, width: int, *, calibrated: bool) -> Text:
    """One block per token, the newest at the right; from −2 to +2, or over their own range when not calibrated."""
    shown = list(scores)[-width:] if width else []
    finite = [score for score in shown if math.isfinite(score)]
    low, high = (
        (-LIMIT, LIMIT) if calibrated else (min(finite, default=0.0), max(finite, default=0.0))
    )
    line = Text(" " * (width - len(shown)))
    for ink, run in groupby(shown, key=lambda score: palette.ink(score if calibrated else None)):
        line.append("".join(_level(score, low, high) for score in run), ink)
    return line


def _row(track: TraitTrack, leads: bool, palette: Palette, columns: Columns) -> Text:
    scale, now, figures = (
        palette if track.calibrated else Palette("none"),
        track.scores.last,
        track.figures,
    )
    row = Text(no_wrap=True, end="")
    row.append("▸ " if leads else "  ").append(
        fit(track.label, columns.name), _STRONG if leads else None
    )
    row.append("  ").append(fit(figure(figures.last), _FIGURE, right=True), scale.ink(now))
    if columns.bar:
        note = Text(fit(_NOT_CALIBRATED, columns.bar), QUIET)
        row.append("  ").append_text(bar(now, palette, columns.bar) if track.calibrated else note)
    if columns.spark:
        row.append("  ").append_text(
            sparkline(track.recent, palette, columns.spark, calibrated=track.calibrated)
        )
    if columns.mean:
        row.append("  ").append(
            fit(figure(figures.mean), _FIGURE, right=True), scale.ink(track.scores.mean)
        )
    if columns.highest:
        row.append("  ").append(
            fit(figure(figures.largest), _FIGURE, right=True), scale.ink(track.scores.largest)
        )
        row.append(" ").append(fit(one_line(track.highest_at) or "–", columns.token), QUIET)
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
    if columns.highest:
        header.append("  ").append(fit("max", _FIGURE, right=True), QUIET)
        header.append(" ").append(fit("at", columns.token), QUIET)
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
