"""Lets Ctrl-C wait until a frame is drawn."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def postponed_interrupts() -> Iterator[None]:
    """Handle Ctrl-C and SIGTERM when the block ends; a second one is handled at once.

    An exception inside Rich would leave a frame in its buffer that is on the screen already, and
    the next frame would show it again. Other threads than the main one get no signals, so there
    this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    # A handler that was not set from Python is None, and cannot be set again.
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not None]
    before = {number: signal.getsignal(number) for number in numbers}
    waiting: list[int] = []

    def postpone(number: int, frame: FrameType | None) -> None:
        # The terminal may be stuck, so a second signal must get through.
        if waiting:
            restore()
            signal.raise_signal(number)
        waiting.append(number)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, postpone)
    try:
        yield
    finally:
        restore()
        if waiting:
            signal.raise_signal(waiting[0])
