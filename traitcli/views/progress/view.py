"""Shows a run in a terminal: one row per trait, redrawn in place, with what happened above it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.style import Style
from rich.text import Text

from traitcli.events import (
    Event,
    ModelLoaded,
    ModelLoading,
    Progressed,
    RunFinished,
    RunStarted,
    StageFinished,
    StageStarted,
    TraitFailed,
    VectorBuilt,
    Warned,
    WorkerSeen,
)
from traitcli.views import words
from traitcli.views.cells import hang
from traitcli.views.printable import printable
from traitcli.views.progress.rates import Rates
from traitcli.views.progress.trait_rows import BAD, GOOD, WARNING, RunState, run_lines
from traitcli.views.progress.worker_rows import QUIET
from traitcli.views.tables.runs import failures_table

_REDRAWS_PER_SECOND = 4


class ProgressView:
    """Follows a run. Events come from one thread; a second one redraws, so that the clock ticks between events."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._rates = Rates()
        self._state = RunState(began=clock(), rates=self._rates)
        self._failures: list[dict[str, str]] = []
        # The rows are for stderr; what others print to a stdout that is piped elsewhere must stay there.
        self._live = Live(
            console=console,
            get_renderable=self._render,
            refresh_per_second=_REDRAWS_PER_SECOND,
            redirect_stdout=sys.stdout.isatty(),
            vertical_overflow="crop",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def show(self, event: Event) -> None:
        """Take one event; those of a monitored generation are none of this view's business."""
        match event:
            case StageStarted() | Progressed() | StageFinished():
                self._rates.take(event, self._clock())
                self._state.meet(event.trait)
                self._live.start()
            case RunStarted():
                self._begin(event)
            case ModelLoading():
                self._state.load(event.device, words.loading_text(event))
                self._live.start()
            case ModelLoaded():
                self._state.loaded(event.device)
                self._say("", words.loaded_text(event), QUIET)
            case WorkerSeen():
                self._state.workers.take(event, self._clock())
            case VectorBuilt():
                self._state.build(event)
            case Warned():
                self._say("! ", words.warning_text(event), WARNING)
            case TraitFailed():
                self._fail(event)
            case RunFinished():
                self._end(event)
            case _:
                pass

    def _begin(self, event: RunStarted) -> None:
        self._say("", words.run_text(event), Style(bold=True))
        for note in event.notes:
            self._say("", printable(note), QUIET)
        self._state.todo, self._state.builds = event.todo, event.builds
        for trait in event.traits:
            self._state.meet(trait)
        self._live.start()

    def _fail(self, event: TraitFailed) -> None:
        self._state.fail(event)
        told = {"trait": event.trait, "stage": event.stage, "problem": event.problem}
        self._failures.append({**told, "cause": event.cause, "fix": event.fix})
        self._say("✗ ", words.failure_text(event), BAD)

    def _end(self, event: RunFinished) -> None:
        self._live.stop()
        self._console.line()
        if self._failures:
            failures_table(self._console, self._failures)
        if used := words.usage_text(event.used):
            self._say("", f"judge: {used}", QUIET)
        end = words.finished_text(event, len(self._state.vectors), worked=self._state.worked)
        good = not event.failures
        self._say("✓ " if good else "✗ ", end, GOOD if good else BAD)

    def _say(self, mark: str, message: str, style: Style) -> None:
        for line in hang(mark, message, self._console.width - 1, style):
            self._console.print(line, highlight=False)

    def _render(self) -> Text:
        lines = run_lines(self._state, self._clock(), self._console.width - 1, self._console.height)
        return Text("\n", no_wrap=True, end="").join(lines)
