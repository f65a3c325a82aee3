"""Lets one answer at a time be written by a model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from traitcli.errors import UserError


class Turns:
    """Other threads wait for their turn; the main thread, which would wait for itself, fails."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_with_main = False

    @contextmanager
    def take(self) -> Iterator[None]:
        """Hold the model; raises UserError where the main thread holds it already."""
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and self._is_with_main and self._lock.locked():
            raise UserError(
                "the model is writing another answer",
                cause="a stream has not come to its end",
                fix="read the stream to its end, or call its close()",
            )
        with self._lock:
            self._is_with_main = is_main
            yield
