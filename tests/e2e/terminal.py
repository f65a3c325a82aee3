"""Runs a command in a pseudo-terminal, types into it and reads its screen."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from typing import Any

import pyte
import pytest
from pyte.screens import Char, StaticDefaultDict

TIMEOUT = 120
"""The longest time to wait for a change of the screen or for the end, in seconds."""
CTRL_C, CTRL_D, CTRL_U, UP = "\x03", "\x04", "\x15", "\x1b[A"
PROMPT = "❯"
"""Starts the line on which a chat asks for the next message."""
_IN_TERMINAL = 'exec "$@" <"$0" >"$0" 2>&1'
"""Opens the terminal by name: only the first terminal that a session opens can send it Ctrl-C."""

Row = StaticDefaultDict
"""Column -> character."""

_BETWEEN_FRAMES = 0.02
"""A pause in the output of this many seconds separates two frames."""
_LONGEST_PAUSE = 0.5
"""Seconds without output after which no frame is expected."""


class Terminal:
    """A command in a terminal. An empty environment variable is removed.

    fresh  start it in a new interpreter, so that the real start-up and real workers are tested too
    """

    def __init__(
        self,
        workspace: Any,
        *arguments: str,
        size: tuple[int, int] = (100, 40),
        fresh: bool = False,
        **env: str,
    ) -> None:
        self._controller, self._terminal = pty.openpty()
        self.screen = ReflowingScreen(*size, history=10_000)
        self.sent = b""
        self._stream = pyte.ByteStream(self.screen)
        self._send_size()
        variables = (
            workspace._env
            | {"TERM": "xterm-256color", "COLUMNS": "", "LINES": "", "NO_COLOR": ""}
            | env
        )
        variables = {name: value for name, value in variables.items() if value}
        line, folder = [*arguments, "--config", "tiny.yaml"], workspace.folder
        if not fresh:
            self.process = workspace._server.start_in_terminal(
                line, folder, variables, self._terminal
            )
            return
        command = [sys.executable, "-m", "traitcli", *line]
        self.process = subprocess.Popen(
            ["sh", "-c", _IN_TERMINAL, os.ttyname(self._terminal), *command],
            cwd=folder,
            env=variables,
            start_new_session=True,
        )

    @property
    def written(self) -> list[str]:
        """All lines, also those that have scrolled off the screen."""
        return "\n".join(map(self.screen.text, self.screen.rows)).rstrip().split("\n")

    @property
    def shows_cursor(self) -> bool:
        return not self.screen.cursor.hidden

    @property
    def is_colored(self) -> bool:
        """Whether any color was sent; bold and dim are not colors."""
        codes = [
            code
            for codes in re.findall(rb"\x1b\[([\d;]*)m", self.sent)
            for code in codes.split(b";")
        ]
        return any(int(code or 0) >= 30 for code in codes)

    def read_screen(self, seconds: float = 0.05) -> str:
        """The text on the screen, after reading output for some seconds."""
        until = time.monotonic() + seconds
        while select.select([self._controller], [], [], max(until - time.monotonic(), 0))[0]:
            received = os.read(self._controller, 65536)
            self.sent += received
            self._stream.feed(received)
        return "\n".join(line.rstrip() for line in self.screen.display)

    def wait_until(self, reached: Callable[[str], bool]) -> str:
        """Return the screen as soon as `reached` accepts it; fail if the command ends before."""
        deadline = time.monotonic() + TIMEOUT
        while not reached(screen := self.read_screen()):
            assert self.process.poll() is None, (
                f"the command ended too early:\n{self.read_screen()}"
            )
            assert time.monotonic() < deadline, f"the screen did not change in time:\n{screen}"
        return screen

    def type(self, text: str) -> None:
        os.write(self._controller, text.encode())

    def ask(self, line: str) -> list[str]:
        """Type a line and return the lines printed before the next prompt."""
        prompts = self._prompts()
        self.type(f"{line}\r")
        self.wait_for_prompt(prompts + 1)
        lines = self.written[:-1]
        start = max(index for index, line in enumerate(lines) if line.startswith(PROMPT))
        return [line for line in lines[start + 1 :] if line]

    def wait_for_prompt(self, number: int) -> None:
        """Wait until the prompt with this number is shown and empty."""
        self.wait_until(
            lambda screen: self._prompts() >= number and screen.rstrip().endswith(f"\n{PROMPT}")
        )

    def interrupt(self, line: str) -> None:
        """Type a line, and Ctrl-C after a few frames of the response."""
        prompts = self._prompts()
        self.type(f"{line}\r")
        self.wait_for_frames()
        self.type(CTRL_C)
        self.wait_for_prompt(prompts + 1)

    def wait_for_frames(self) -> None:
        """Wait for a few more frames of the panel."""
        drawn = self.sent.count(b"mean")
        self.wait_until(lambda screen: self.sent.count(b"mean") >= drawn + 4)

    def resize(self, columns: int, lines: int) -> None:
        """Resize the window: its text is wrapped again, and the command gets SIGWINCH.

        The command is paused between two frames meanwhile. This screen wraps so slowly that the
        command could draw many frames at the old width, which no real terminal allows.
        """
        while True:
            # Just after a frame: later, the next one may be half drawn for the old width.
            select.select([self._controller], [], [], _LONGEST_PAUSE)
            while select.select([self._controller], [], [], _BETWEEN_FRAMES)[0]:
                self.read_screen(0)
            self.process.send_signal(signal.SIGSTOP)
            if not select.select([self._controller], [], [], _BETWEEN_FRAMES)[0]:
                break
            self.process.send_signal(signal.SIGCONT)
        self.screen.resize(lines, columns)
        self._send_size()
        self.process.send_signal(signal.SIGCONT)

    def end(self) -> int:
        """Wait until the command ends by itself, and return its exit code."""
        deadline = time.monotonic() + TIMEOUT
        while self.process.poll() is None:
            if time.monotonic() > deadline:
                self.process.kill()
                pytest.fail(f"the command did not end:\n{self.read_screen()}")
            self.read_screen()
        self.read_screen(0)
        return self.process.returncode

    def close(self) -> None:
        """Kill the command if it still runs, and close the terminal."""
        self.process.kill()
        self.process.wait()
        os.close(self._controller)
        os.close(self._terminal)

    def _prompts(self) -> int:
        return sum(line.startswith(PROMPT) for line in self.written)

    def _send_size(self) -> None:
        size = struct.pack("HHHH", self.screen.lines, self.screen.columns, 0, 0)
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, size)


class ReflowingScreen(pyte.HistoryScreen):
    """A screen with scrollback that wraps its lines again when resized, as most terminals do."""

    @property
    def rows(self) -> list[Row]:
        """All rows, from the oldest in the scrollback to the last on the screen."""
        return [*self.history.top, *(self.buffer[y] for y in range(self.lines))]

    def text(self, row: Row) -> str:
        return "".join(char.data for char in _cells(row)).rstrip()

    def erase_in_line(self, how: int = 0, private: bool = False) -> None:
        """Erase to empty cells. Spaces would be wrapped when the screen is resized."""
        if how == 2:
            self.buffer[self.cursor.y] = Row(self.default_char)
            return
        super().erase_in_line(how, private)
        if how == 0:
            row = self.buffer[self.cursor.y]
            for x in [x for x in row if x >= self.cursor.x]:
                row.pop(x)

    def resize(self, lines: int, columns: int) -> None:
        whole: list[list[Char]] = []
        rows, at = self.rows, len(self.history.top) + self.cursor.y
        for index, row in enumerate(rows):
            if not isinstance(row, _Continued):
                whole.append([])
            if index == at:
                cursor = len(whole) - 1, len(whole[-1]) + self.cursor.x
            whole[-1] += _cells(row)
        while len(whole) > cursor[0] + 1 and not whole[-1]:
            whole.pop()
        super().resize(lines, columns)

        wrapped: list[Row] = []
        for index, cells in enumerate(whole):
            if index == cursor[0]:
                down, x = divmod(cursor[1], columns)
                self.cursor.x, at = x, len(wrapped) + down
            wrapped += self._wrapped_rows(cells, columns)
        above = max(len(wrapped) - lines, 0)
        self.history.top.clear()
        self.history.top.extend(wrapped[:above])
        self.buffer.clear()
        self.buffer.update(enumerate(wrapped[above:]))
        self.cursor.y = at - above

    def _wrapped_rows(self, cells: list[Char], columns: int) -> Iterator[Row]:
        for start in range(0, max(len(cells), 1), columns):
            row = _Continued(self.default_char) if start else Row(self.default_char)
            row.update(enumerate(cells[start : start + columns]))
            yield row


class _Continued(Row):
    """A row that continues the line above."""


def _cells(row: Row) -> list[Char]:
    return [row[x] for x in range(max(row, default=-1) + 1)]
