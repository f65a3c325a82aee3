"""Draws a running extraction: the outcome of each finished trait, and a row per active stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.constrain import Constrain
from rich.style import Style
from rich.table import Table
from rich.text import Text

from traitcli.events import Stage, TraitFailed, VectorBuilt
from traitcli.vector_quality import VectorQuality
from traitcli.views.cells import fit
from traitcli.views.formatting import QUIET, clock_time
from traitcli.views.printable import one_line
from traitcli.views.progress.rates import Rate, Rates
from traitcli.views.progress.table import (
    BAD,
    BAR,
    GOOD,
    WARNING,
    Column,
    Row,
    progress_bar,
    progress_table,
)
from traitcli.views.progress.worker_rows import WorkerRows, draw_workers
from traitcli.views.words import vector_text

_TRAIT = "  trait"
_MARK = 2
_WIDEST_NAME = 16
_VERDICT_STYLES = {"reads its instruction": WARNING, "not shown": BAD}


@dataclass(slots=True)
class RunState:
    """Everything a drawing needs.

    Collections are replaced, never changed, because a second thread draws from them.
    """

    began: float
    rates: Rates
    traits: tuple[str, ...] = ()
    vectors: Mapping[str, VectorQuality] = field(default_factory=dict)
    failures: Mapping[str, TraitFailed] = field(default_factory=dict)
    loading: Mapping[str, str] = field(default_factory=dict)
    workers: WorkerRows = field(default_factory=WorkerRows)
    todo: Mapping[Stage, int] = field(default_factory=dict)
    builds: bool = True

    @property
    def worked(self) -> bool:
        return self.rates.worked or bool(self.vectors)

    def add_trait(self, trait: str) -> None:
        if trait not in self.traits:
            self.traits = (*self.traits, trait)

    def start_loading(self, device: str, message: str) -> None:
        self.loading = {**self.loading, device: message}

    def finish_loading(self, device: str) -> None:
        self.loading = {other: text for other, text in self.loading.items() if other != device}

    def add_vector(self, event: VectorBuilt) -> None:
        self.add_trait(event.trait)
        self.vectors = {**self.vectors, event.trait: event.quality}

    def add_failure(self, event: TraitFailed) -> None:
        self.add_trait(event.trait)
        self.failures = {**self.failures, event.trait: event}


def draw_run(state: RunState, now: float, width: int, height: int) -> RenderableType:
    """Workers, traits and a summary of the run, at most `width` cells wide.

    When `height` is too small for every line, only the active stages of traits stay.
    """
    parts: list[RenderableType] = [Text("")]
    loading = [Text(fit(f"  {text} …", width).rstrip(), QUIET) for text in state.loading.values()]
    if state.workers.has_several:
        loading = []  # the row of a worker says that it is loading
        parts += [
            *draw_workers(state.workers, state.rates, now, width, max(height - 5, 3)),
            Text(""),
        ]

    name = _name_width(state.traits)
    outcomes = _outcome_lines(state, name, width)
    active, quiet = _stage_rows(state, now)
    # Three lines more: the header of the table, the summary, and the line of the cursor.
    room = max(height - _height(parts) - len(loading) - 3, 1)
    if len(outcomes) + len(active) + len(quiet) > room:
        outcomes, active, quiet = [], active[:room], []

    parts += outcomes
    if active or quiet:
        parts.append(progress_table(_columns(name), [*active, *quiet], width))
    parts += [*loading, Text(fit(_summary(state, now), width).rstrip(), QUIET)]
    return Constrain(Group(*parts), width)


def _height(parts: Sequence[RenderableType]) -> int:
    return sum(part.row_count + 1 if isinstance(part, Table) else 1 for part in parts)


def _name_width(traits: Sequence[str]) -> int:
    longest = max((cell_len(one_line(trait)) for trait in traits), default=0)
    return max(len("trait"), min(longest, _WIDEST_NAME))


def _columns(name: int) -> list[Column]:
    return [
        # Fixed widths: columns that follow the numbers would jump at every redraw.
        Column(_TRAIT, _MARK + name, right=False),
        Column("stage", len("judgements"), right=False),
        BAR,
        Column("done", 11),
        Column("tok/s", 6, optional=True),
        Column("elapsed", 7, optional=True),
        Column("left", 7),
    ]


def _outcome_lines(state: RunState, name: int, width: int) -> list[Text]:
    """A line for each trait that has failed or has its vector."""
    lines = []
    for trait in state.traits:
        if trait in state.failures:
            mark, style = "✗ ", BAD
            outcome = f"failed at {one_line(state.failures[trait].stage)}"
        elif trait in state.vectors and not _active_rates(state, trait):
            mark, quality = "✓ ", state.vectors[trait]
            style = _VERDICT_STYLES.get(str(quality.verdict), GOOD)
            outcome = vector_text(quality) or "vector built"
        else:
            continue
        line = Text(no_wrap=True).append(mark, style).append(f"{fit(one_line(trait), name)}  ")
        lines.append(line.append(fit(outcome, width - _MARK - name - 2).rstrip(), style))
    return lines


def _stage_rows(state: RunState, now: float) -> tuple[list[Row], list[Row]]:
    """The rows of active stages, and of traits that wait or have finished a stage."""
    active_rows, quiet_rows = [], []
    for trait in state.traits:
        rates = state.rates.of(trait)
        active = _active_rates(state, trait)
        # Generating and judging overlap: the second row of a trait does not repeat its name.
        active_rows += [
            _stage_row("  ", "" if number else trait, rate, now)
            for number, rate in enumerate(active)
        ]
        # These have a row above, or a line with their outcome.
        if active or trait in state.failures or trait in state.vectors:
            continue

        if rates:
            quiet_rows.append(_stage_row("✓ ", trait, rates[-1], now))
        else:
            waiting = {_TRAIT: Text(f"  {one_line(trait)}"), "stage": Text("waiting", QUIET)}
            quiet_rows.append(waiting)
    return active_rows, quiet_rows


def _active_rates(state: RunState, trait: str) -> list[Rate]:
    if trait in state.failures:
        return []
    return [rate for rate in state.rates.of(trait) if rate.is_active]


def _stage_row(mark: str, trait: str, rate: Rate, now: float) -> Row:
    speed = rate.tokens_per_second
    left = rate.left(now) if rate.is_active else 0.0
    return {
        _TRAIT: Text(mark, GOOD).append(one_line(trait), Style.null()),
        "stage": Text(rate.stage, QUIET),
        BAR.title: progress_bar(rate.done, rate.total, active=rate.is_active),
        "done": Text(f"{rate.done}/{rate.total}"),
        "tok/s": Text("–" if speed is None else f"{speed:,.0f}"),
        "elapsed": Text(clock_time(rate.elapsed(now)), QUIET),
        "left": Text(clock_time(left)),
    }


def _summary(state: RunState, now: float) -> str:
    rates = state.rates
    # `inspect steering` reads rollouts and builds no vectors.
    has_count = state.traits and state.builds
    speed, left = rates.tokens_per_second, rates.left(state.todo, now)
    parts = [
        f"{len(state.vectors)} of {len(state.traits)} vectors" if has_count else "",
        f"{speed:,.0f} tokens/s" if speed else "",
        clock_time(now - state.began),
        f"{clock_time(left)} left" if left else "",
        f"{len(state.failures)} failed" if state.failures else "",
        f"{rates.missing} scores missing" if rates.missing else "",
    ]
    return "  " + " · ".join(part for part in parts if part)
