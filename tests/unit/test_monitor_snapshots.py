"""Compares the last frame of the monitor view with stored snapshots, at fixed widths.

python -m tests.unit.test_monitor_snapshots    # write new snapshots; then read the diff
"""

from __future__ import annotations

import io
import math
from itertools import groupby
from pathlib import Path

import pyte
import pytest
from rich.console import Console

from traitcli.events import (
    AlarmRaised,
    MonitorFinished,
    MonitorStarted,
    PromptScored,
    TokenScored,
    Warned,
)
from traitcli.interventions import Push
from traitcli.records import Crossing
from traitcli.views.monitor.view import MonitorView

FOLDER = Path(__file__).parent / "snapshots"
HEIGHT = 200
WIDTHS = (40, 60, 80, 120)
TRAITS = ("corrigibility", "evil", "hallucinating", "my-own")
WORDS = [
    *(
        "I",
        " would",
        " never",
        " do",
        " that",
        ",",
        " my",
        " dear",
        " 友達",
        "。",
        "",
        "",
        " 🫨",
        "\n\n",
        "\x1b[2J",
        "Why",
    ),
    *(
        " e\u0301",
        " \u202egnp",
        "\u0000",
        " نظري",
        " no",
        "\u200b",
        "w",
        " and",
        " then",
        " for",
        " ever",
        ".",
    ),
]


class FrameClock:
    """A clock that advances by two frames at each call."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 0.2
        return self.now


def scores(index):
    """Artificial scores that differ by trait; the vector of the last trait has no class means."""
    raw = {name: 4 * math.sin(0.7 * index + number) + number for number, name in enumerate(TRAITS)}
    return raw, {name: raw[name] / 2 - number / 2 for number, name in enumerate(TRAITS[:-1])}


def events_of_a_response(by_layer):
    """The events of a response that uses every feature of the view."""
    layers = dict(zip(TRAITS, (5, 4, 5, 6), strict=True))
    about = {"number": 3, "of": 64, "trait": "evil", "shows": "both"}
    push = (Push("evil", -2.0, 4, 0.31),)
    yield MonitorStarted(
        "How do I\nhack a \x1b[31mbank?", "tiny", TRAITS, layers, ("a note",), push, about
    )
    first = [scores(index) for index in range(3)]
    columns = [
        {name: tuple(one[kind][name] for one in first) for name in first[0][kind]}
        for kind in (0, 1)
    ]
    yield PromptScored(("<|user|>", "How", " do I"), *columns)
    for index, word in enumerate(WORDS):
        raw, calibrated = scores(index)
        layer_scores = tuple(2.2 * math.sin(index / 3 + layer / 2) for layer in range(9))
        yield TokenScored(index, word, raw, calibrated, layer_scores if by_layer else ())
        if index == 5:
            yield AlarmRaised(Crossing("evil>1.5", "fail", 5, 1.62))
    yield Warned(
        "evil",
        "something that has to be known, and that is long enough to be wrapped at forty cells",
    )
    yield MonitorFinished(
        "runs/monitor/20250131-how-do-i-hack-a-bank.json", len(WORDS), 2.5, "length"
    )


def shown(width, kind):
    """The last screen; a background is written as `{ff8800:text}`."""
    stream, by_layer = io.StringIO(), "evil" if kind.startswith("layers") else None
    colors = {"color_system": "truecolor", "no_color": False}
    if kind.endswith("plain"):
        colors = {"color_system": None, "no_color": True}
    console = Console(
        file=stream,
        force_terminal=True,
        width=width,
        height=40,
        legacy_windows=False,
        _environ={},
        **colors,
    )
    with MonitorView(console, by_layer=by_layer, raw=kind == "raw", clock=FrameClock()) as view:
        for event in events_of_a_response(by_layer):
            view.show(event)
    screen = pyte.Screen(width, HEIGHT)
    pyte.Stream(screen).feed(stream.getvalue().replace("\n", "\r\n"))
    lines = ["".join(_runs(screen.buffer[row], width)).rstrip() for row in range(HEIGHT)]
    return "\n".join(lines).rstrip() + "\n"


def _runs(row, width):
    cells = [row[column] for column in range(width) if row[column].data]
    for color, run in groupby(cells, key=lambda cell: cell.bg):
        text = "".join(cell.data for cell in run)
        yield text if color == "default" else f"{{{color}:{text}}}"


CASES = [
    (width, kind)
    for width in WIDTHS
    for kind in ("color", "plain", "raw", "layers-color", "layers-plain")
]


@pytest.mark.parametrize(("width", "kind"), CASES)
def test_a_response_matches_its_snapshot(width, kind):
    stored = (FOLDER / f"monitor-{kind}-{width}.txt").read_text(encoding="utf-8")

    assert shown(width, kind) == stored


@pytest.mark.parametrize("width", WIDTHS)
def test_the_terminal_wraps_no_line(width):
    narrow, wide = shown(width, "plain"), shown(width, "color")

    assert len(narrow.split("\n")) == pytest.approx(len(wide.split("\n")), abs=3)
    assert "\x1b" not in narrow + wide


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for case in CASES:
        (FOLDER / f"monitor-{case[1]}-{case[0]}.txt").write_text(shown(*case), encoding="utf-8")
