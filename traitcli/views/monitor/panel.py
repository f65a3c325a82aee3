"""Draws one row per trait: current score, bar, recent tokens, mean and maximum."""

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
from traitcli.views.formatting import QUIET, format_score
from traitcli.views.palette import LIMIT, Palette
from traitcli.views.printable import one_line

_STRONG = Style(bold=True)
_LEVELS = "▁▂▃▄▅▆▇"
"""No full block, so that the sparklines of two rows do not touch."""
_MIRRORED = str.maketrans("╸▸", "╺◂")
_KEPT_TOKENS = 64
"""At least as many as the widest sparkline shows."""
_SCORE = 6
"""Width of a number, in cells; see `format_score`."""
_WIDEST_NAME = 16
_TOKEN = 10
"""Width of the token with the maximum, in cells."""
_NOT_CALIBRATED = "raw, not calibrated"


class RunningStats:
    """Last value, mean and maximum of the values so far; NaN and infinity count only as last."""

    def __init__(self) -> None:
        self.last: float | None = None
        self.largest: float | None = None
        self._sum = 0.0
        self._count = 0

    def add(self, value: float) -> bool:
        """Add a value; True if it is the largest so far."""
        self.last = value
        if not math.isfinite(value):
            return False

        self._sum += value
        self._count += 1
        is_largest = self.largest is None or value > self.largest
        if is_largest:
            self.largest = value
        return is_largest

    @property
    def mean(self) -> float | None:
        return self._sum / self._count if self._count else None


class TraitTrack:
    """The scores of one trait so far.

    scores  calibrated scores, or raw projections if the vector has no calibration; bars and colors
            use these
    shown   the numbers in the row: `scores`, or raw projections if the user asked for them
    mark    the score where an alarm lies
    """

    def __init__(self, name: str, *, raw: bool = False, mark: float | None = None) -> None:
        self.name = name
        self.mark = mark
        self.label = one_line(name)
        self.raw = raw
        self.calibrated = True
        self.recent: deque[float] = deque(maxlen=_KEPT_TOKENS)
        self.scores = RunningStats()
        self.shown = RunningStats() if raw else self.scores
        self.highest_at = ""

    def add(self, raw: float, calibrated: float | None, token: str = "") -> None:
        """Add the scores of one token."""
        self.calibrated = calibrated is not None
        score = raw if calibrated is None else calibrated
        self.recent.append(score)

        is_largest = self.scores.add(score)
        # If both are the same object, the token is counted already.
        if self.shown is not self.scores:
            is_largest = self.shown.add(raw)
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
    """Divide `width` cells among the columns.

    A narrow terminal loses the sparkline first, then the maximum, the bar and the mean.
    """
    longest = max((cell_len(name) for name in names), default=0)
    name = max(5, min(longest, _WIDEST_NAME, width - _SCORE - 4))
    free = width - 2 - name - 2 - _SCORE

    # Each column is preceded by two cells of space.
    mean = _SCORE if free >= 2 + _SCORE else 0
    free -= 2 + mean if mean else 0

    # Odd widths, so that zero has a cell of its own in the middle.
    bar = 21 if free >= 54 else 13 if free >= 15 else 0
    free -= 2 + bar if bar else 0

    highest = _SCORE if free >= 2 + _SCORE + 1 + _TOKEN else 0
    token = _TOKEN if highest else 0
    free -= 2 + highest + 1 + token if highest else 0

    spark = min(32, free - 2) if free >= 10 else 0
    return Columns(name, bar, spark, mean, highest, token)


def panel_lines(
    tracks: Sequence[TraitTrack], leader: str | None, palette: Palette, width: int
) -> list[Text]:
    """A header and one line per trait, each at most `width` cells wide; the leader has a mark."""
    columns = fit_columns([track.label for track in tracks], width)
    rows = [_row(track, track.name == leader, palette, columns) for track in tracks]
    return [_header(columns, palette), *rows]


def bar(score: float | None, palette: Palette, width: int, mark: float | None = None) -> Text:
    """A bar from zero, in the middle, to the score.

    Dots mark the class means. An arrow ends a bar whose score is beyond ±LIMIT. A line marks where
    an alarm lies, a double arrow one that lies beyond ±LIMIT.
    """
    line = _plain_bar(score, palette, width)
    if mark is None or not math.isfinite(mark):
        return line
    half = width // 2
    cell = min(int(abs(mark) / LIMIT * half), half - 1)
    place, beyond = (half + 1 + cell, "»") if mark >= 0 else (half - 1 - cell, "«")
    drawn = Text(beyond if abs(mark) > LIMIT else "┆", _STRONG)
    return line[:place].append_text(drawn).append_text(line[place + 1 :])


def _plain_bar(score: float | None, palette: Palette, width: int) -> Text:
    half = width // 2
    size = 0.0 if score is None or math.isnan(score) else abs(score)
    # Counted in half cells: `╸` fills the left half of its cell.
    full, rest = divmod(round(min(size, LIMIT) / LIMIT * half * 2), 2)
    beyond = size > LIMIT

    # The dot is at half of LIMIT, which is the class mean.
    empty = [" "] * half
    empty[half // 2 - 1] = "·"
    filled = "━" * (full - beyond) + ("▸" if beyond else "╸" * rest)
    tail = "".join(empty[len(filled) :])

    line = Text()
    # A negative bar is the positive one in a mirror.
    if score is not None and score < 0:
        line.append(tail[::-1], QUIET)
        line.append(filled[::-1].translate(_MIRRORED), palette.foreground(score))
        return line.append("│", QUIET).append("".join(empty), QUIET)
    line.append("".join(empty[::-1]), QUIET).append("│", QUIET)
    return line.append(filled, palette.foreground(score)).append(tail, QUIET)


def sparkline(scores: Sequence[float], palette: Palette, width: int, *, calibrated: bool) -> Text:
    """One block per token, the newest at the right.

    Calibrated scores are drawn from −2 to +2, raw projections from their own minimum to maximum.
    """
    shown = list(scores)[-width:] if width else []
    # On one scale traits can be compared. Raw projections of different vectors have none.
    low, high = -LIMIT, LIMIT
    if not calibrated:
        finite = [score for score in shown if math.isfinite(score)]
        low, high = min(finite, default=0.0), max(finite, default=0.0)

    line = Text(" " * (width - len(shown)))
    colored = groupby(shown, key=lambda score: palette.foreground(score if calibrated else None))
    for style, run in colored:
        line.append("".join(_level(score, low, high) for score in run), style)
    return line


def _row(track: TraitTrack, leads: bool, palette: Palette, columns: Columns) -> Text:
    # The colors are made for calibrated scores; they would mean nothing for raw projections.
    colors = palette if track.calibrated else Palette("none")
    scores, shown = track.scores, track.shown

    row = Text(no_wrap=True, end="")
    row.append("▸ " if leads else "  ")
    row.append(fit(track.label, columns.name), _STRONG if leads else None)
    row.append("  ").append_text(_score(shown.last, colors.foreground(scores.last)))
    if columns.bar:
        drawn = bar(scores.last, palette, columns.bar, track.mark)
        note = Text(fit(_NOT_CALIBRATED, columns.bar), QUIET)
        row.append("  ").append_text(drawn if track.calibrated else note)
    if columns.spark:
        spark = sparkline(track.recent, palette, columns.spark, calibrated=track.calibrated)
        row.append("  ").append_text(spark)
    if columns.mean:
        row.append("  ").append_text(_score(shown.mean, colors.foreground(scores.mean)))
    if columns.highest:
        row.append("  ").append_text(_score(shown.largest, colors.foreground(scores.largest)))
        row.append(" ").append(fit(one_line(track.highest_at) or "–", columns.token), QUIET)
    return row


def _score(value: float | None, style: Style) -> Text:
    return Text(fit(format_score(value), _SCORE, right=True), style)


def _header(columns: Columns, palette: Palette) -> Text:
    header = Text(no_wrap=True, end="")
    header.append(f"  {fit('trait', columns.name)}  {fit('now', _SCORE, right=True)}", QUIET)
    if columns.bar:
        header.append("  ").append_text(_ruler(columns.bar, palette))
    if columns.spark:
        label = "last tokens" if columns.spark > 10 else "last"
        header.append("  ").append(fit(label, columns.spark, right=True), QUIET)
    if columns.mean:
        header.append("  ").append(fit("mean", _SCORE, right=True), QUIET)
    if columns.highest:
        header.append("  ").append(fit("max", _SCORE, right=True), QUIET)
        header.append(" ").append(fit("at", columns.token), QUIET)
    return header


def _ruler(width: int, palette: Palette) -> Text:
    """The scale above the bars; its colors are also the legend."""
    half = width // 2
    below, above = ("−2  −1", "+1  +2") if half == 10 else ("−2", "+2")
    ruler = Text().append(fit(below, half), palette.foreground(-LIMIT)).append("0", QUIET)
    return ruler.append(fit(above, half, right=True), palette.foreground(LIMIT))


def _level(score: float, low: float, high: float) -> str:
    if math.isnan(score):
        return " "
    # A flat line of equal scores is drawn in the middle.
    share = (min(max(score, low), high) - low) / (high - low) if high > low else 0.5
    return _LEVELS[round(share * (len(_LEVELS) - 1))]
