"""What a person sees while work goes on; chosen by where it is shown."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Protocol, TextIO

from traitcli.events import Event

if TYPE_CHECKING:
    from traitcli.views.monitor.view import MonitorView
    from traitcli.views.plain import PlainMonitorView


class View(Protocol):
    """Listens to a stage and shows what it says."""

    def show(self, event: Event) -> None: ...


def open_view() -> AbstractContextManager[View]:
    """A view of a run on stderr: live on a terminal, line by line elsewhere."""
    if can_redraw(sys.stderr):
        from rich.console import Console

        from traitcli.views.progress.view import ProgressView

        return ProgressView(Console(stderr=True))
    from traitcli.views.plain import PlainView

    return PlainView(sys.stderr)


def open_monitor_view(
    color_by: str | None = None,
    *,
    raw: bool = False,
    by_layer: str | None = None,
    as_json: bool = False,
) -> MonitorView | PlainMonitorView:
    """A view of a watched generation on stdout: coloured text on a terminal, a line per token elsewhere."""
    if can_redraw(sys.stdout) and not as_json:
        from rich.console import Console

        from traitcli.views.monitor.view import MonitorView

        return MonitorView(Console(), color_by, raw=raw, by_layer=by_layer)
    from traitcli.views.plain import JsonMonitorView, PlainMonitorView

    kind = JsonMonitorView if as_json else PlainMonitorView
    return kind(sys.stdout, sys.stderr, raw=raw)


def can_redraw(stream: TextIO) -> bool:
    """Whether a stream is a terminal that moves its cursor and takes more than ASCII."""
    moves = os.environ.get("TERM", "").lower() not in {"dumb", "unknown"}
    return stream.isatty() and moves and stream.encoding.lower().startswith("utf")
