"""Draws the rows of a running extraction: one per trait, and one more for a stage that runs beside another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.cells import cell_len
from rich.style import Style
from rich.text import Text

from traitcli.events import TraitFailed, VectorBuilt
from traitcli.views.cells import fit
from traitcli.views.formatting import clock_time
from traitcli.views.palette import BLUE
from traitcli.views.printable import one_line
from traitcli.views.progress.rates import Rate, Rates
from traitcli.views.progress.worker_rows import QUIET, WorkerRows, worker_lines
from traitcli.views.words import vector_text

GOOD = Style(color="green")
WARNING = Style(color="yellow")
BAD = Style(color="red")
_FILLED = Style(color=BLUE)

_STAGE = len("judgements")
_COUNT = 11
_RATE = 7
_TIME = 7
_WIDEST_NAME = 16
_WIDEST_BAR = 24
_NARROWEST_BAR = 6


@dataclass(slots=True)
class RunState:
    """All a drawing needs; collections are replaced, never changed, because a second thread draws from them."""

    began: float
    rates: Rates
    traits: tuple[str, ...] = ()
    vectors: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    failures: Mapping[str, TraitFailed] = field(default_factory=dict)
    loading: Mapping[str, str] = field(default_factory=dict)
    workers: WorkerRows = field(default_factory=WorkerRows)
    todo: int = 0
    builds: bool = True

    @property
    def worked(self) -> bool:
        return self.rates.worked or bool(self.vectors)

    def meet(self, trait: str) -> None:
        if trait not in self.traits:
            self.traits = (*self.traits, trait)

    def load(self, device: str, told: str) -> None:
        self.loading = {**self.loading, device: told}

    def loaded(self, device: str) -> None:
        self.loading = {other: told for other, told in self.loading.items() if other != device}

    def build(self, event: VectorBuilt) -> None:
        self.meet(event.trait)
        self.vectors = {**self.vectors, event.trait: event.summary}

    def fail(self, event: TraitFailed) -> None:
        self.meet(event.trait)
        self.failures = {**self.failures, event.trait: event}


@dataclass(frozen=True, slots=True)
class _Columns:
    name: int
    bar: int
    rate: int
    total: int


def run_lines(state: RunState, now: float, width: int, height: int) -> list[Text]:
    """Rows and a last line for the whole run, at most `width` cells wide; quiet rows go first when it is too tall."""
    columns = _columns(state.traits, width)
    busy: list[Text] = []
    rows: list[Text] = []
    for trait in state.traits:
        drawn = _trait_rows(state, trait, now, columns)
        rows += drawn
        busy += drawn if _is_busy(state, trait) else []
    loading = [Text(fit(f"  {told} …", width).rstrip(), QUIET) for told in state.loading.values()]
    if state.workers.has_several:
        loading = []  # its row says so
        workers = [
            *worker_lines(state.workers, state.rates, now, width, max(height - 5, 3)),
            Text(""),
        ]
        height -= len(workers)
    else:
        workers = []
    room = max(height - len(loading) - 4, 1)
    shown = rows if len(rows) <= room else busy[:room]
    header = [_header(columns)] if rows else []
    lines = [
        Text(""),
        *workers,
        *header,
        *shown,
        *loading,
        Text(fit(_summary(state, now), width).rstrip(), QUIET),
    ]
    for line in lines:
        line.truncate(width)
    return lines


def _columns(traits: tuple[str, ...], width: int) -> _Columns:
    longest = max((cell_len(one_line(trait)) for trait in traits), default=0)
    fixed = 2 + 2 + _STAGE + 2 + _COUNT + 1 + _TIME + 1 + _TIME
    name = max(5, min(longest, _WIDEST_NAME, width - fixed))
    free = width - fixed - name
    rate = _RATE if free >= 1 + _RATE else 0
    free -= 1 + rate if rate else 0
    bar = min(free - 2, _WIDEST_BAR) if free - 2 >= _NARROWEST_BAR else 0
    return _Columns(name, bar, rate, width)


def _header(columns: _Columns) -> Text:
    bar = " " * (columns.bar + 2 if columns.bar else 0)
    rate = " " + fit("tok/s", columns.rate, right=True) if columns.rate else ""
    figures = f"{fit('done', _COUNT, right=True)}{rate} {fit('elapsed', _TIME, right=True)} {fit('left', _TIME, right=True)}"
    return Text(f"  {fit('trait', columns.name)}  {fit('stage', _STAGE)}  {bar}{figures}", QUIET)


def _is_busy(state: RunState, trait: str) -> bool:
    return trait not in state.failures and any(rate.is_active for rate in state.rates.of(trait))


def _trait_rows(state: RunState, trait: str, now: float, columns: _Columns) -> list[Text]:
    name = fit(one_line(trait), columns.name)
    rates = state.rates.of(trait)
    if trait in state.failures:
        return [
            _told_row(
                "✗ ", name, f"failed at {one_line(state.failures[trait].stage)}", BAD, columns
            )
        ]
    active = [rate for rate in rates if rate.is_active]
    if active:
        names = [name] + [" " * columns.name] * (len(active) - 1)
        return [
            _rate_row("  ", label, rate, now, columns)
            for label, rate in zip(names, active, strict=True)
        ]
    if trait in state.vectors:
        summary = state.vectors[trait]
        style = {"weak": WARNING, "unusable": BAD}.get(str(summary.get("verdict")), GOOD)
        return [_told_row("✓ ", name, vector_text(summary) or "vector built", style, columns)]
    if rates:
        return [_rate_row("✓ ", name, rates[-1], now, columns)]
    return [Text(f"  {name}  waiting", QUIET)]


def _told_row(mark: str, name: str, told: str, style: Style, columns: _Columns) -> Text:
    row = Text(no_wrap=True, end="").append(mark, style).append(f"{name}  ")
    return row.append(fit(told, columns.total - 4 - columns.name).rstrip(), style)


def _rate_row(mark: str, name: str, rate: Rate, now: float, columns: _Columns) -> Text:
    row = (
        Text(no_wrap=True, end="")
        .append(mark, GOOD)
        .append(f"{name}  ")
        .append(fit(rate.stage, _STAGE), QUIET)
    )
    if columns.bar:
        row.append("  ").append_text(_bar(rate, columns.bar))
    row.append("  ").append(fit(f"{rate.done}/{rate.total}", _COUNT, right=True))
    if columns.rate:
        speed = rate.tokens_per_second
        row.append(" ").append(
            fit("–" if speed is None else f"{speed:,.0f}", columns.rate, right=True)
        )
    row.append(" ").append(fit(clock_time(rate.elapsed(now)), _TIME, right=True), QUIET)
    left = rate.left(now) if rate.is_active else 0.0
    return row.append(" ").append(fit(clock_time(left), _TIME, right=True))


def _bar(rate: Rate, width: int) -> Text:
    """What is done; the part that lay on disk before stands in the quiet colour."""
    halves = int(rate.share * width * 2)
    before = int(min(rate.resumed / rate.total, rate.share) * width) if rate.total else 0
    full, half = divmod(halves, 2)
    style = GOOD if not rate.is_active else _FILLED
    bar = Text("━" * min(before, full), Style.combine([style, QUIET]))
    bar.append("━" * (full - min(before, full)) + "╸" * half, style)
    return bar.append("─" * (width - full - half), QUIET)


def _summary(state: RunState, now: float) -> str:
    counted = (
        [f"{len(state.vectors)} of {len(state.traits)} vectors"]
        if state.traits and state.builds
        else []
    )
    parts = [*counted, clock_time(now - state.began)]
    rate = state.rates.tokens_per_second
    if rate:
        parts.insert(len(counted), f"{rate:,.0f} tokens/s")
    if left := state.rates.left(state.todo, now):
        parts.append(f"{clock_time(left)} left")
    if state.failures:
        parts.append(f"{len(state.failures)} failed")
    if state.rates.missing:
        parts.append(f"{state.rates.missing} scores missing")
    return "  " + " · ".join(parts)
