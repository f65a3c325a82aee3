"""Shows a run in a terminal: messages scroll by above a table that is redrawn in place."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from rich.console import Console, RenderableType
from rich.live import Live
from rich.style import Style

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
from traitcli.views.cells import wrap_labelled
from traitcli.views.closable import ClosableView
from traitcli.views.formatting import QUIET
from traitcli.views.interrupts import postponed_interrupts
from traitcli.views.printable import printable
from traitcli.views.progress.rates import Rates
from traitcli.views.progress.table import BAD, GOOD, WARNING
from traitcli.views.progress.trait_rows import RunState, draw_run
from traitcli.views.tables.runs import failures_table

# Times are shown in seconds, so more redraws would show little new. A redraw takes up to 6 ms with
# eight traits, and a model that generates in this process has to wait for it.
_REDRAWS_PER_SECOND = 2


class ProgressView(ClosableView):
    """Follows a run.

    Events come from one thread. A second thread redraws, so that times count between events.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._rates = Rates()
        self._state = RunState(began=clock(), rates=self._rates)
        self._failures: list[dict[str, str]] = []
        # The table is on stderr. Rich must not redirect a stdout that is piped to another program.
        self._live = Live(
            console=console,
            get_renderable=self._render,
            refresh_per_second=_REDRAWS_PER_SECOND,
            redirect_stdout=sys.stdout.isatty(),
            # The default would replace the last line by an ellipsis.
            vertical_overflow="crop",
        )

    @postponed_interrupts()
    def close(self) -> None:
        """Stop redrawing; the last table stays on the screen."""
        self._live.stop()

    @postponed_interrupts()
    def show(self, event: Event) -> None:
        """Show one event of a run; other events are ignored."""
        # Several events start the display, because a command may begin with any of them. Starting
        # it twice does nothing.
        match event:
            case StageStarted() | Progressed() | StageFinished():
                self._rates.update(event, self._clock())
                self._state.add_trait(event.trait)
                self._live.start()
            case RunStarted():
                self._begin(event)
            case ModelLoading():
                self._state.start_loading(event.device, words.loading_text(event))
                self._live.start()
            case ModelLoaded():
                self._state.finish_loading(event.device)
                self._say("", words.loaded_text(event), QUIET)
            case WorkerSeen():
                self._state.workers.update(event, self._clock())
            case VectorBuilt():
                self._state.add_vector(event)
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
            self._state.add_trait(trait)
        self._live.start()

    def _fail(self, event: TraitFailed) -> None:
        self._state.add_failure(event)
        failure = {"trait": event.trait, "stage": event.stage, "problem": event.problem}
        self._failures.append({**failure, "cause": event.cause, "fix": event.fix})
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
        for line in wrap_labelled(mark, message, self._console.width - 1, style):
            self._console.print(line, highlight=False)

    def _render(self) -> RenderableType:
        # One column stays free: a full last column makes some terminals wrap.
        width = self._console.width - 1
        return draw_run(self._state, self._clock(), width, self._console.height)
