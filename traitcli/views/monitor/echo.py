"""Hides typed keys while a live view is drawn."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def no_echo() -> Iterator[None]:
    """Turn off the terminal's echo; typed keys stay in its input buffer.

    Does nothing if stdin is not a terminal, or if the system has no termios.
    """
    # An echoed key, such as the `^C` of an interrupt, would move the lines that are redrawn.
    try:
        import termios
    except ImportError:
        yield
        return
    if sys.stdin is None or not sys.stdin.isatty():
        yield
        return

    before = termios.tcgetattr(sys.stdin)
    silent = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        # The terminal may be closed by now.
        with suppress(termios.error):
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
