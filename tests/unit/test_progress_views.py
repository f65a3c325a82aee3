"""The views of a run: a live table on a terminal, lines in a pipe."""

from __future__ import annotations

import contextlib
import io
import sys

import pyte
import pytest
from rich.console import Console

from traitcli import views
from traitcli.events import (
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
)
from traitcli.vector_quality import VectorQuality
from traitcli.views.formatting import clock_time
from traitcli.views.plain import PlainMonitorView, PlainView
from traitcli.views.progress.rates import Rates
from traitcli.views.progress.trait_rows import RunState, draw_run
from traitcli.views.progress.view import ProgressView

RUN = RunStarted("small", "runs/small", ("evil", "refusal"), ("cpu",), ("judge: likelihood",))
BUILT = VectorBuilt(
    "evil",
    "vectors/tiny/evil.safetensors",
    VectorQuality(verdict="carries over", auroc=0.9412, layer=4),
)
FAILED = TraitFailed(
    "refusal", "judgements", "the judge refuses", cause="no key", fix="set OPENAI_API_KEY"
)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def on_screen(text, width=80, height=40):
    screen = pyte.Screen(width, height)
    pyte.Stream(screen).feed(text.replace("\n", "\r\n"))
    return "\n".join(line.rstrip() for line in screen.display).rstrip().split("\n")


def show_live(*events, clock=None, width=80):
    out = io.StringIO()
    console = Console(
        file=out,
        force_terminal=True,
        width=width,
        height=40,
        color_system="truecolor",
        legacy_windows=False,
        _environ={},
    )
    with ProgressView(console, clock or Clock()) as view:
        for event in events:
            view.show(event)
    return on_screen(out.getvalue(), width)


def show_plain(*steps, every=5.0):
    """Each step is an event, or a number of seconds to wait."""
    notes, clock = io.StringIO(), Clock()
    with PlainView(notes, clock, every) as view:
        for step in steps:
            if isinstance(step, (int, float)):
                clock.now += step
            else:
                view.show(step)
    return notes.getvalue().splitlines()


def rows(rates, now, traits=("evil",), width=79, height=24, **state):
    state = RunState(began=100.0, rates=rates, traits=traits, **state)
    return drawn_lines(draw_run(state, now, width, height), width)


def drawn_lines(renderable, width):
    """The lines without colors, in which only the filled part of a bar is drawn."""
    console = Console(file=io.StringIO(), width=width, _environ={})
    console.print(renderable)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def followed(*timed):
    rates = Rates()
    for now, event in timed:
        rates.update(event, now)
    return rates


def test_a_row_shows_stage_bar_count_speed_and_time_left():
    rates = followed(
        (100.0, StageStarted("evil", "rollouts", 0, 200)),
        (110.0, Progressed("evil", "rollouts", 50, 200, tokens=5000)),
    )

    assert rows(rates, 110.0) == [
        "",
        "  trait  stage                                   done   tok/s  elapsed     left",
        "  evil   rollouts    ━━━━╸                     50/200     500     0:10     0:30",
        "  0 of 1 vectors · 500 tokens/s · 0:10 · 0:30 left",
    ]


def test_vectors_are_counted_only_if_the_run_builds_some():
    begun = StageStarted("evil", "readings", 0, 20)

    screens = [
        show_live(RunStarted("small", "runs/small", ("evil",), ("cpu",), builds=builds), begun)
        for builds in (True, False)
    ]

    assert ["vectors" in "\n".join(screen) for screen in screens] == [True, False]


def test_times_count_between_events_and_the_speed_stays():
    rates = followed(
        (100.0, StageStarted("evil", "rollouts", 0, 200)),
        (110.0, Progressed("evil", "rollouts", 50, 200, tokens=5000)),
    )

    assert rows(rates, 118.0)[2].split()[-3:] == ["500", "0:18", "0:22"]
    assert rows(rates, 999.0)[2].split()[-1] == "0:00"


def test_overlapping_stages_of_a_trait_each_have_a_row():
    rates = followed(
        (100.0, StageStarted("evil", "rollouts", 0, 200)),
        (100.0, StageStarted("evil", "judgements", 0, 200)),
        (110.0, Progressed("evil", "judgements", 100, 200, missing=3)),
    )

    drawn = rows(rates, 110.0)

    assert [line.split()[:2] for line in drawn[2:4]] == [
        ["evil", "rollouts"],
        ["judgements", "━━━━━━━━━╸"],
    ]
    assert drawn[4] == "  0 of 1 vectors · 0:10 · 0:10 left · 3 scores missing"


def test_the_outcome_of_each_trait_is_shown():
    rates = followed(
        (100.0, StageStarted("d", "rollouts", 0, 2)), (101.0, StageFinished("d", "rollouts", 1.0))
    )

    drawn = rows(
        rates,
        102.0,
        traits=("a", "b", "c", "d"),
        vectors={"a": BUILT.quality, "c": VectorQuality()},
        failures={"b": FAILED},
    )

    assert drawn[1:4] == [
        "✓ a      carries over, AUROC 0.94, layer 4",
        "✗ b      failed at judgements",
        "✓ c      vector built",
    ]
    assert drawn[4].startswith("  trait  stage")
    assert drawn[5].startswith("✓ d      rollouts")
    assert drawn[6] == "  2 of 4 vectors · 0:02 · 1 failed"


def test_a_low_screen_shows_only_active_traits():
    rates = followed((100.0, StageStarted("t7", "rollouts", 0, 200)))

    drawn = rows(rates, 100.0, traits=tuple(f"t{i}" for i in range(20)), height=12)

    assert [line.split()[0] for line in drawn[2:]] == ["t7", "0"]


@pytest.mark.parametrize("width", range(30, 130))
def test_rows_are_never_wider_than_the_terminal(width):
    rates = followed(
        (100.0, StageStarted("a-trait-with-a-long-name", "judgements", 0, 20000)),
        (200.0, Progressed("a-trait-with-a-long-name", "judgements", 10000, 20000, tokens=10**8)),
    )

    drawn = rows(rates, 9000.0, traits=("a-trait-with-a-long-name",), width=width)

    assert max(map(len, drawn)) <= width


def test_the_live_view_keeps_messages_and_the_result_on_screen():
    shown = show_live(
        RUN,
        ModelLoading("tiny", "cpu", "loading"),
        ModelLoaded("tiny", "cpu", 4, 64, 1.25),
        StageStarted("evil", "rollouts", 0, 4),
        Warned("evil", "one rollout is empty"),
        StageFinished("evil", "rollouts", 2.0),
        BUILT,
        FAILED,
        RunFinished("small", "runs/small", 65.0, 1),
    )

    assert shown == [
        "run small: 2 traits on cpu, in runs/small",
        "judge: likelihood",
        "loaded tiny on cpu: 4 blocks × 64, 1.2 s",
        "! evil: one rollout is empty",
        "✗ refusal failed at judgements: the judge refuses",
        "",
        "✓ evil     carries over, AUROC 0.94, layer 4",
        "✗ refusal  failed at judgements",
        "  1 of 2 vectors · 0:00 · 1 failed",
        "",
        "refusal  judgements",
        "  problem: the judge refuses",
        "  cause:   no key",
        "  fix:     set OPENAI_API_KEY",
        "✗ finished in 1:05: 1 vector built, 1 trait failed, in runs/small",
    ]


def test_the_live_view_escapes_text_of_others():
    shown = show_live(
        RunStarted("s\x1b[2J", "runs/s", ("ev\x1b[1A",), ("cpu",), ("[red]\x07",)),
        Warned("", "[b]bad[/b]\x1b[2J\u202e"),
        RunFinished("s", "runs/\x1b[2Js", 1.0, 0),
    )

    assert shown[0] == r"run s\x1b[2J: 1 trait on cpu, in runs/s"
    assert shown[1] == r"[red]\x07"
    assert shown[2] == r"! [b]bad[/b]\x1b[2J\u202e"
    assert shown[5] == r"  ev\x1b[1A  waiting"
    assert shown[-1] == r"✓ nothing left to do, in runs/\x1b[2Js"


def test_an_interrupted_run_restores_the_terminal():
    out = io.StringIO()
    console = Console(
        file=out, force_terminal=True, width=80, height=24, legacy_windows=False, _environ={}
    )
    before = sys.stderr

    with contextlib.suppress(KeyboardInterrupt), ProgressView(console, Clock()) as view:
        view.show(RUN)
        raise KeyboardInterrupt

    assert out.getvalue().rstrip().endswith("\x1b[?25h")
    assert sys.stderr is before


def test_a_pipe_gets_the_events_of_a_run_line_by_line():
    lines = show_plain(
        RUN,
        ModelLoading("tiny", "cpu", "loading"),
        2.0,
        ModelLoaded("tiny", "cpu", 4, 64, 1.25),
        StageStarted("evil", "rollouts", 150, 200),
        10.0,
        Progressed("evil", "rollouts", 160, 200, tokens=1000),
        40.0,
        StageFinished("evil", "rollouts", 50.0),
        Warned("evil", "one rollout is empty"),
        BUILT,
        FAILED,
        RunFinished("small", "runs/small", 52.0, 1),
    )

    assert lines == [
        "[0:00] run small: 2 traits on cpu, in runs/small",
        "[0:00] note: judge: likelihood",
        "[0:00] loading tiny on cpu",
        "[0:02] loaded tiny on cpu: 4 blocks × 64, 1.2 s",
        "[0:02] evil rollouts 150/200, 150 done before",
        "[0:12] evil rollouts 160/200, 100 tokens/s, 0:40 left",
        "[0:52] evil rollouts finished in 0:50, 100 tokens/s",
        "[0:52] warning: evil: one rollout is empty",
        "[0:52] evil vector built: carries over, AUROC 0.94, layer 4, in "
        "vectors/tiny/evil.safetensors",
        "[0:52] refusal failed at judgements: the judge refuses",
        "[0:52]   cause: no key",
        "[0:52]   fix: set OPENAI_API_KEY",
        "[0:52] finished in 0:52: 1 vector built, 1 trait failed, in runs/small",
    ]


def test_a_pipe_gets_a_line_per_stage_only_every_few_seconds():
    steps = [StageStarted("evil", "rollouts", 0, 100), StageStarted("refusal", "rollouts", 0, 100)]
    for done in range(1, 13):
        steps += [
            1.0,
            Progressed("evil", "rollouts", done, 100),
            Progressed("refusal", "rollouts", done, 100),
        ]

    lines = [line.split(", ")[0] for line in show_plain(*steps)]

    assert lines == [
        "[0:00] evil rollouts 0/100",
        "[0:00] refusal rollouts 0/100",
        "[0:05] evil rollouts 5/100",
        "[0:05] refusal rollouts 5/100",
        "[0:10] evil rollouts 10/100",
        "[0:10] refusal rollouts 10/100",
    ]


def test_a_pipe_gets_the_end_of_a_stage_exactly_once():
    late = [6.0, Progressed("evil", "rollouts", 100, 100)] * 3
    steps = [
        StageStarted("evil", "rollouts", 0, 100),
        10.0,
        Progressed("evil", "rollouts", 100, 100, tokens=1000),
        StageFinished("evil", "rollouts", 10.0),
    ]

    assert show_plain(*steps, *late) == [
        "[0:00] evil rollouts 0/100",
        "[0:10] evil rollouts 100/100, 100 tokens/s, 0:00 left",
        "[0:10] evil rollouts finished in 0:10, 100 tokens/s",
    ]


def test_a_run_with_nothing_to_do_prints_a_message():
    assert show_plain(RUN, RunFinished("small", "runs/small", 0.1, 0))[-1] == (
        "[0:00] nothing left to do, in runs/small"
    )


def test_a_pipe_that_takes_only_ascii_gets_escapes():
    raw = io.BytesIO()
    notes = io.TextIOWrapper(raw, encoding="ascii")

    PlainView(notes, Clock()).show(Warned("", "30 blocks × 576"))

    assert raw.getvalue() == b"[0:00] warning: 30 blocks \\xd7 576\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (0.0, "0:00"), (59.6, "1:00"), (723.0, "12:03"), (3723.0, "1:02:03")],
)
def test_times_are_formatted_like_a_clock(seconds, text):
    assert clock_time(seconds) == text


class Stream(io.TextIOWrapper):
    """A real text stream that says whether it is a terminal."""

    def __init__(self, *, terminal, encoding="utf-8"):
        super().__init__(io.BytesIO(), encoding=encoding)
        self._terminal = terminal

    def isatty(self):
        return self._terminal


@pytest.mark.parametrize(
    ("terminal", "encoding", "term", "live"),
    [
        (True, "utf-8", "xterm-256color", True),
        (True, "utf-8", "dumb", False),
        (True, "ascii", "xterm", False),
        (False, "utf-8", "xterm", False),
    ],
)
def test_only_a_capable_terminal_gets_a_live_view(monkeypatch, terminal, encoding, term, live):
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(sys, "stdout", Stream(terminal=terminal, encoding=encoding))
    monkeypatch.setattr(sys, "stderr", Stream(terminal=terminal, encoding=encoding))

    assert isinstance(views.open_view(), ProgressView if live else PlainView)
    assert isinstance(views.open_monitor_view(), PlainMonitorView) is not live
