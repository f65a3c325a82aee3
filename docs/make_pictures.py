"""Draws docs/pictures/monitor.svg from a monitoring record, through the monitor's own terminal view.

    python docs/make_pictures.py docs/examples/how-do-i-hack-a-bank.json

What the view writes goes through a terminal emulator, so the picture is what a terminal shows.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pyte
from rich.console import Console
from rich.text import Text

from traitcli.events import MonitorStarted, TokenScored
from traitcli.views.monitor import MonitorView

PICTURE = Path(__file__).parent / "pictures" / "monitor.svg"
COLUMNS, LINES = 100, 60


def play(record: Path) -> str:
    """The bytes that the view sends to a terminal while it shows a record."""
    told = json.loads(record.read_text(encoding="utf-8"))
    stream = io.StringIO()
    console = Console(file=stream, width=COLUMNS, height=LINES, force_terminal=True, color_system="truecolor")
    raw, calibrated = told["trait_scores"], told["calibrated_scores"]
    with MonitorView(console) as view:
        view.show(MonitorStarted(told["prompt"], told["model"], tuple(raw), told["layers"]))
        for index, text in enumerate(told["tokens"]):
            scores = ({name: row[index] for name, row in kind.items()} for kind in (raw, calibrated))
            view.show(TokenScored(index, text, *scores))
    return stream.getvalue().replace("\n", "\r\n")


def screen_lines(written: str) -> list[Text]:
    """The lines that stand on the terminal's screen at the end, without empty ones below."""
    screen = pyte.Screen(COLUMNS, LINES)
    pyte.Stream(screen).feed(written)
    lines = [_line(screen.buffer[row]) for row in range(LINES)]
    while lines and not lines[-1].plain.strip():
        lines.pop()
    return lines


def _line(row: dict[int, pyte.screens.Char]) -> Text:
    line = Text()
    for column in range(COLUMNS):
        char = row[column]
        style = f"{'bold ' if char.bold else ''}{_colour(char.fg)} on {_colour(char.bg)}"
        line.append(char.data, style)
    return line


def _colour(name: str) -> str:
    """pyte gives six hex digits, 'default', or a name that Rich writes with an underscore."""
    if len(name) == 6 and all(digit in "0123456789abcdef" for digit in name):
        return f"#{name}"
    return "default" if name == "default" else name.replace("bright", "bright_").replace("brown", "yellow")


if __name__ == "__main__":
    lines = screen_lines(play(Path(sys.argv[1])))
    console = Console(file=io.StringIO(), record=True, width=COLUMNS, height=len(lines), force_terminal=True)
    for line in lines:
        console.print(line, overflow="crop", no_wrap=True)
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(console.export_svg(title="traitcli monitor"), encoding="utf-8")
    print(PICTURE)
