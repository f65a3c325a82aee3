"""Shows the progress of commands, as fits the terminal or pipe they write to."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol, TextIO

from traitcli.events import Event

if TYPE_CHECKING:
    from traitcli.views.monitor.view import MonitorView
    from traitcli.views.plain import PlainMonitorView


class View(Protocol):
    """Shows the events of a command."""

    def show(self, event: Event) -> None: ...


def open_view() -> AbstractContextManager[View]:
    """A view of a run: a live table on a terminal or in a notebook, lines on stderr elsewhere."""
    is_notebook = in_notebook()
    if is_notebook or can_redraw(sys.stderr):
        from rich.console import Console

        from traitcli.views.progress.view import ProgressView

        return ProgressView(Console(stderr=not is_notebook))
    from traitcli.views.plain import PlainView

    return PlainView(sys.stderr)


def open_monitor_view(
    color_by: str | None = None,
    *,
    raw: bool = False,
    by_layer: str | None = None,
    as_json: bool = False,
) -> MonitorView | PlainMonitorView:
    """A view of a monitored response on stdout: colored text on a terminal, lines elsewhere.

    color_by  trait whose scores color the tokens; None: the strongest so far
    raw       show raw projections instead of calibrated scores
    by_layer  trait whose scores at every layer are drawn as a heat map
    as_json   write one JSON object per token, also on a terminal
    """
    if can_redraw(sys.stdout) and not as_json:
        from rich.console import Console

        from traitcli.views.monitor.view import MonitorView

        return MonitorView(Console(), color_by, raw=raw, by_layer=by_layer)
    from traitcli.views.plain import JsonMonitorView, PlainMonitorView

    kind = JsonMonitorView if as_json else PlainMonitorView
    return kind(sys.stdout, sys.stderr, raw=raw)


def in_notebook() -> bool:
    """Whether this is a notebook in which rich can redraw: it needs ipywidgets for that."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return type(shell).__name__ == "ZMQInteractiveShell" and find_spec("ipywidgets") is not None


def can_redraw(stream: TextIO) -> bool:
    """Whether a stream is a terminal that can move its cursor and show Unicode."""
    # Editors such as Emacs run commands in a terminal that calls itself dumb.
    moves = os.environ.get("TERM", "").lower() not in {"dumb", "unknown"}
    return stream.isatty() and moves and stream.encoding.lower().startswith("utf")
