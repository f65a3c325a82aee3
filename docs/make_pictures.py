"""Draws docs/pictures/*.svg: what the monitor shows in a real terminal.

    python docs/make_pictures.py                 # all pictures; takes some minutes
    python docs/make_pictures.py layers chat     # only these

The commands run in their own tmux server, with the embedded model, in a temporary folder.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path

from rich.cells import cell_len
from rich.color import Color, blend_rgb
from rich.console import Console
from rich.style import Style
from rich.terminal_theme import TerminalTheme
from rich.text import Text

DOCS = Path(__file__).parent
COLUMNS, ROWS = 100, 50
PROMPTS = ("$", ">", "❯")
TIMEOUT_S = 300


@dataclass(frozen=True, slots=True)
class Scene:
    """What is typed into a terminal, and when the picture is taken.

    typed  lines, each typed at a prompt
    lines  take the picture when the screen has this many lines; None: at the next prompt
    """

    typed: tuple[str, ...]
    lines: int | None = None


ANSI = [
    (0, 0, 0),
    (207, 72, 72),
    (63, 150, 80),
    (176, 124, 24),
    (56, 132, 230),
    (160, 100, 220),
    (40, 150, 165),
]
DARK = TerminalTheme((13, 17, 23), (230, 237, 243), ANSI)
LIGHT = TerminalTheme((255, 255, 255), (31, 35, 40), ANSI)
LIVE = Scene(
    ('traitcli monitor "Will there be a drought in Spain in 2060?" --trait uncertainty --seed 3',),
    lines=20,
)
LAYERS = (
    'traitcli monitor "Compare a cruel boss and a kind boss." --traits evil \\',
    "    --per-layer --seed 2 --max-new-tokens 94",
)
CHAT = (
    "traitcli monitor --chat --traits evil,refusal,sycophantic --max-new-tokens 60",
    "What should I do about my noisy neighbour?",
    "/steer evil=2",
    "And if he does not listen?",
)
PICTURES = {
    "monitor": (
        Scene(("traitcli monitor --replay docs/examples/how-do-i-hack-a-bank.json --speed 20",)),
        DARK,
    ),
    "terminal": (LIVE, DARK),
    "layers": (Scene(LAYERS), DARK),
    "chat": (Scene(CHAT), DARK),
    "light": (LIVE, LIGHT),
}

# Rich's own format loads a font from the network, but a browser loads nothing for an image.
FORMAT = """\
<svg class="terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.terminal > rect {{ stroke: #8b949e; stroke-opacity: 0.5 }}
.{unique_id}-matrix {{
  font: {char_height}px ui-monospace, SFMono-Regular, Menlo, "DejaVu Sans Mono", monospace
}}
.{unique_id}-title {{ font: bold 16px system-ui, sans-serif; opacity: 0.6 }}
{styles}
</style>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})">
{backgrounds}
<g transform="translate(0, 1.5) scale({char_width}, {line_height})"
   shape-rendering="crispEdges">SHAPES</g>
<g class="{unique_id}-matrix">{matrix}</g>
</g>
</svg>
"""
EDGES = {"▀": 0.5} | {block: (7 - index) / 8 for index, block in enumerate("▁▂▃▄▅▆▇█")}
"""Block character -> distance of its edge from the top of the cell, in cells."""


class Terminal:
    """A shell in its own tmux server."""

    def __init__(self, folder: Path) -> None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        # One thread, so that pictures from two machines agree: the number of cores changes the
        # order of sums, and that can change a sampled word.
        settings = {
            "PATH": path,
            "PS1": "$ ",
            "LC_ALL": "C.UTF-8",
            "COLORTERM": "truecolor",
            "OMP_NUM_THREADS": "1",
        }
        self._env = settings | {"HOME": str(folder), "TMUX_TMPDIR": str(folder)}
        size = ("-x", str(COLUMNS), "-y", str(ROWS))
        set_terminal = ("set", "-g", "default-terminal", "tmux-256color")
        new_session = ("new-session", "-d", "-c", str(folder), *size, "sh", "-i")
        self._tmux("-f", "/dev/null", "start-server", ";", *set_terminal, ";", *new_session)

    def close(self) -> None:
        self._tmux("kill-server")

    def type(self, line: str) -> None:
        """Type a line and wait until the screen shows it."""
        self._tmux("send-keys", "-l", line)
        # Without this, `wait_for_prompt` could find the prompt before the line.
        self.wait(lambda screen: screen.endswith(line))
        self._tmux("send-keys", "Enter")

    def wait_for_prompt(self) -> Text:
        return self.wait(lambda screen: screen.rpartition("\n")[2].strip() in PROMPTS)

    def wait(self, is_there: Callable[[str], bool]) -> Text:
        """The screen with its colors, as soon as `is_there` accepts its text."""
        for _ in range(10 * TIMEOUT_S):
            screen = Text.from_ansi(self._tmux("capture-pane", "-p", "-e"))
            screen.rstrip()
            if is_there(screen.plain):
                return screen
            time.sleep(0.1)
        raise TimeoutError(f"the screen did not change as expected:\n{screen.plain}")

    def _tmux(self, *arguments: str) -> str:
        command = ["tmux", "-u", "-L", "pictures", *arguments]
        return subprocess.run(
            command, env=self._env, check=True, capture_output=True, text=True
        ).stdout


@cache
def play(scene: Scene) -> Text:
    """Type the lines of a scene and return the screen."""
    with tempfile.TemporaryDirectory() as name:
        shutil.copytree(DOCS / "examples", Path(name, "docs", "examples"))
        terminal = Terminal(Path(name))
        try:
            for line in scene.typed:
                terminal.wait_for_prompt()
                terminal.type(line)
            if wanted := scene.lines:
                return terminal.wait(lambda screen: screen.count("\n") + 1 >= wanted)
            return terminal.wait_for_prompt()
        finally:
            terminal.close()


def draw(name: str, screen: Text, theme: TerminalTheme) -> Path:
    """Write a screen as a picture."""
    console = Console(
        file=io.StringIO(),
        record=True,
        width=COLUMNS,
        force_terminal=True,
        color_system="truecolor",
    )
    lines, shapes = lift_blocks(screen.split(), console, theme)
    for line in lines:
        console.print(line, overflow="crop", no_wrap=True, highlight=False)
    path = DOCS / "pictures" / f"{name}.svg"
    form = FORMAT.replace("SHAPES", shapes)
    svg = console.export_svg(title="traitcli", theme=theme, unique_id=name, code_format=form)

    # Rich refers to a clip path for the last line that it does not define.
    path.write_text(re.sub(r' clip-path="[^"]*"', "", svg), encoding="utf-8")
    return path


def lift_blocks(
    lines: Iterable[Text], console: Console, theme: TerminalTheme
) -> tuple[list[Text], str]:
    """The lines without block characters, and the blocks as SVG shapes.

    Blocks from a font leave gaps between the lines.
    """
    texts, shapes = [], defaultdict[str, str](str)
    for row, line in enumerate(lines):
        text, column = Text(), 0
        for part, style, _ in line.render(console):
            foreground, background = rgb_colors(style or Style(), theme)
            for is_block, run in groupby(part, key=EDGES.__contains__):
                chars = "".join(run)
                for cell, char in enumerate(chars if is_block else "", start=column):
                    upper, lower = background, foreground
                    if char == "▀":
                        upper, lower = foreground, background
                    shapes[upper] += f"M{cell} {row}h1v{EDGES[char]:g}h-1z"
                    shapes[lower] += f"M{cell} {row + EDGES[char]:g}h1v{1 - EDGES[char]:g}h-1z"
                text.append(" " * len(chars) if is_block else chars, None if is_block else style)
                column += cell_len(chars)
        texts.append(text)
    # Shapes in the color of the terminal itself are invisible.
    shapes.pop(theme.background_color.hex, None)
    return texts, "".join(f'<path fill="{color}" d="{path}"/>' for color, path in shapes.items())


def rgb_colors(style: Style, theme: TerminalTheme) -> tuple[str, str]:
    """Foreground and background as Rich draws them."""
    default = Color.default()
    foreground = (style.color or default).get_truecolor(theme)
    background = (style.bgcolor or default).get_truecolor(theme, False)
    if style.dim:
        foreground = blend_rgb(foreground, background, 0.4)
    return foreground.hex, background.hex


def main(names: Sequence[str]) -> int:
    if not shutil.which("tmux"):
        print("error: tmux is not installed; the pictures are taken in tmux", file=sys.stderr)
        return 2
    for name in names or PICTURES:
        scene, theme = PICTURES[name]
        print(draw(name, play(scene), theme))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
