"""The view of a monitored generation, through a terminal emulator and through a pipe."""

from __future__ import annotations

import io
import json
import re
import signal
import sys
from dataclasses import replace

import pyte
import pytest
from rich.console import Console

from traitcli.events import MonitorFinished, MonitorStarted, TokenScored, Warned
from traitcli.interventions import Ablate, Cap, Condition, Gate
from traitcli.views.formatting import format_score
from traitcli.views.monitor.heatmap import HeatMap
from traitcli.views.monitor.leader import Leader
from traitcli.views.monitor.panel import TraitTrack, bar, panel_lines, sparkline
from traitcli.views.monitor.view import MonitorView
from traitcli.views.palette import Palette, background
from traitcli.views.plain import PlainMonitorView

NONE = Palette("none")
FINISHED = MonitorFinished("runs/monitor/x.json", tokens=3, seconds=1.5, finish_reason="stop")


class AdvancingClock:
    """A clock that advances at each call, enough for a new frame."""

    def __init__(self, step=1.0):
        self.now, self.step = 0.0, step

    def __call__(self):
        self.now += self.step
        return self.now


class Terminal:
    """A console with a terminal emulator that shows its output, including the scrollback."""

    def __init__(self, width=80, height=24, **options):
        options = {"color_system": "truecolor", "no_color": False} | options
        self.out = io.StringIO()
        self.console = Console(
            file=self.out,
            force_terminal=True,
            width=width,
            height=height,
            legacy_windows=False,
            _environ={},
            **options,
        )

    def screen(self):
        screen = pyte.HistoryScreen(self.console.width, self.console.height, history=1000)
        pyte.Stream(screen).feed(self.out.getvalue().replace("\n", "\r\n"))
        return screen

    def cells(self):
        screen = self.screen()
        rows = [*screen.history.top, *(screen.buffer[y] for y in range(screen.lines))]
        return [[row[x] for x in range(screen.columns)] for row in rows]

    def lines(self):
        return (
            "\n".join("".join(cell.data for cell in row).rstrip() for row in self.cells())
            .rstrip()
            .split("\n")
        )


def started(*traits, prompt="How do I hack a bank?"):
    return MonitorStarted(prompt, "tiny", traits, dict.fromkeys(traits, 4))


def scored(index, text, raw=(), **calibrated):
    return TokenScored(index, text, raw={**calibrated, **dict(raw)}, calibrated=calibrated)


def play(terminal, tokens, clock=None):
    with MonitorView(terminal.console, clock=clock or AdvancingClock()) as view:
        view.show(started("evil"))
        for index, (text, score) in enumerate(tokens):
            view.show(scored(index, text, evil=score))
        view.show(FINISHED)
    return terminal.lines()


def test_a_finished_generation_leaves_prompt_response_panel_and_record():
    lines = play(Terminal(), [("I", 0.0), (" cannot", 1.5), (".", -0.5)])

    assert lines == [
        "❯ How do I hack a bank?",
        "  tiny · layer 4",
        "",
        "I cannot.",
        "",
        "  trait     now  −2  −1    0    +1  +2   last tokens    mean     max at",
        "▸ evil    −0.50       · ╺━━│    ·                ▄▆▃   +0.33   +1.50 cannot",
        "",
        "−1 and +1 are the means of a trait's negative and positive examples.",
        "Colored by evil.",
        "3 tokens in 1.5 s, 2.0 tokens/s, ended by the model",
        "record: runs/monitor/x.json",
    ]


def test_text_longer_than_the_screen_is_in_the_scrollback_once_and_in_order():
    words = [f" word{i}" for i in range(400)]

    lines = play(Terminal(width=40, height=10), [(word, 0.0) for word in words])

    text = " ".join(lines[3 : lines.index("", 3)])
    assert text.split() == [word.strip() for word in words]
    assert sum("trait" in line for line in lines if line.startswith("  ")) == 1


def test_each_token_has_the_background_of_its_score():
    terminal = Terminal()
    play(terminal, [("No", -2.0), (" maybe", 0.1), (" yes", 1.0)])

    row = terminal.cells()[3]

    assert {cell.bg for cell in row[0:2]} == {background(-2.0).get_truecolor().hex[1:]}
    assert {cell.bg for cell in row[2:9]} == {"default"}
    assert {cell.bg for cell in row[9:12]} == {background(1.0).get_truecolor().hex[1:]}


STEERING = (
    Cap("evil", 0.5, True, 4),
    Ablate("refusal", None),
    Gate("refusal", 1.0, 3, Condition("evil", True, 1.0)),
)


def test_tokens_at_which_a_brake_held_are_underlined_and_counted():
    terminal = Terminal(width=100)
    with MonitorView(terminal.console, clock=AdvancingClock()) as view:
        view.show(replace(started("evil"), steering=STEERING))
        for index, (word, braked) in enumerate([("No", ()), (" way", (STEERING[0].text,))]):
            view.show(replace(scored(index, word, evil=0.5), braked=braked))
        view.show(MonitorFinished("", 2, 1.0, "stop"))

    lines = terminal.lines()
    assert lines[2:4] == [
        "  steered by evil ≤ +0.5 at layer 4, refusal ablated at every layer, refusal +1 at "
        "layer 3 if evil",
        "  > +1",
    ]
    assert "underlined: evil<=0.5@4 held at 1, refusal=1@3 if evil>1 held at 0 of 2 tokens" in lines
    row = terminal.cells()[lines.index("No way")]
    assert [cell.underscore for cell in row[:6]] == [False] * 2 + [True] * 4


def test_a_pipe_gets_the_number_of_brakes_that_held_at_each_token():
    data = io.StringIO()
    view = PlainMonitorView(data, io.StringIO())
    view.show(replace(started("evil"), steering=STEERING))
    view.show(scored(0, "No", evil=0.5))
    view.show(replace(scored(1, " way", evil=0.5), braked=tuple(one.text for one in STEERING)))

    assert data.getvalue().splitlines() == [
        '0\t"No"\tevil=0.5000',
        '1\t" way"\tevil=0.5000\tbrake:evil=1\tbrake:refusal=2',
    ]


def test_no_color_writes_brackets_and_no_color_codes():
    terminal = Terminal(no_color=True)

    lines = play(terminal, [("No", -2.0), (" maybe", 0.1), (" yes", 1.0)])

    assert "⟨No⟩⁻ maybe ⟨yes⟩⁺" in lines
    assert "Marked by evil." in lines
    assert re.findall(r"\x1b\[[\d;]*(?:3[0-9]|4[0-9])[\d;]*m", terminal.out.getvalue()) == []


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[2J\x1b[H", r"\x1b[2J\x1b[H"),
        ("\x00\x07", r"\x00\x07"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("[red]a[/red]", "[red]a[/red]"),
        ("\x9b31m\u200b", r"\x9b31m\u200b"),
    ],
)
def test_hostile_tokens_are_escaped(hostile, shown):
    lines = play(Terminal(), [("a", 0.0), (hostile, 0.0), ("z", 0.0)])

    assert lines[0] == "❯ How do I hack a bank?"
    assert lines[3] == f"a{shown}z"


def test_hostile_prompts_warnings_and_names_are_escaped():
    terminal = Terminal()

    with MonitorView(terminal.console, clock=AdvancingClock()) as view:
        view.show(started("ev\x1b[2Jil", prompt="hi\x1b[2J\x07"))
        view.show(Warned("ev\x1b[2Jil", "[b]bad[/b]\x1b[1A"))
        view.show(TokenScored(0, "x", {"ev\x1b[2Jil": 1.0}, {"ev\x1b[2Jil": 1.0}))
        view.show(FINISHED)

    lines = terminal.lines()
    assert lines[0] == r"❯ hi\x1b[2J\x07"
    assert r"! ev\x1b[2Jil: [b]bad[/b]\x1b[1A" in lines
    assert any(line.startswith(r"▸ ev\x1b[2Jil") for line in lines)


def test_a_character_of_several_tokens_is_written_when_it_is_complete():
    lines = play(
        Terminal(), [("hi ", 0.0), ("", 1.0), ("", 1.0), ("🫨", 1.0), ("e", 0.0), ("\u0301", 0.0)]
    )

    assert lines[3].replace("e\u0301", "é") == "hi 🫨é"


def test_wide_and_right_to_left_text_does_not_move_the_panel():
    lines = play(Terminal(width=40), [("日本語" * 12, 0.0), ("\nنظري", 0.0)])

    text = [line.replace("\x00", "") for line in lines]
    assert text[3:6] == [
        "日本語日本語日本語日本語日本語日本語日",
        "本語日本語日本語日本語日本語日本語",
        "نظري",
    ]
    assert text[7].startswith("  trait")


def test_an_interrupted_generation_keeps_what_was_written():
    terminal = Terminal()

    def words():
        yield from [("I", 0.0), (" was", 0.0), (" saying", 0.0)]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play(terminal, words(), clock=AdvancingClock(step=0.001))

    assert terminal.lines()[3] == "I was saying"
    assert terminal.out.getvalue().endswith("\x1b[?25h")


def test_many_tokens_at_once_cost_few_redraws():
    terminal = Terminal()

    play(terminal, [("a", 0.0)] * 1000, clock=AdvancingClock(step=0.0001))

    assert terminal.out.getvalue().count("last tokens") < 10


def test_a_warning_appears_below_the_panel_and_stays():
    terminal = Terminal()

    with MonitorView(terminal.console, clock=AdvancingClock()) as view:
        view.show(started("evil"))
        view.show(scored(0, "so", evil=0.0))
        view.show(Warned("evil", "layer 30 is after the final norm"))
        view.show(scored(1, " on", evil=0.0))
        view.show(FINISHED)

    lines = terminal.lines()
    assert lines[3] == "so on"
    assert lines[7] == "! evil: layer 30 is after the final norm"


def test_a_trait_without_class_means_is_shown_raw_with_a_note():
    terminal = Terminal()

    with MonitorView(terminal.console, clock=AdvancingClock()) as view:
        view.show(started("evil", "bold"))
        view.show(scored(0, "so", raw={"bold": 12.34}, evil=1.0))
        view.show(FINISHED)

    lines = terminal.lines()
    assert lines[7] == "  bold    +12.3  raw, not calibrated               ▄   +12.3   +12.3 so"
    assert lines[8].startswith(
        "! bold: its vector has no class means, so the scores are raw projections"
    )


def test_a_terminal_made_narrower_loses_no_text():
    terminal = Terminal(width=60)
    view = MonitorView(terminal.console, clock=AdvancingClock())
    view.show(started("evil"))
    view.show(Warned("", "a warning that fits on sixty columns, but not on thirty"))
    view.show(scored(0, "word0 word1 word2 word3 word4 word5 word6 word7", evil=0.0))
    wide = len(terminal.out.getvalue())

    terminal.console.width = 30
    for index in range(8, 60):
        view.show(scored(index, f" word{index}", evil=0.0))
    view.show(FINISHED)

    narrow = terminal.out.getvalue()[wide:]
    # Four of five lines no longer fit (47, 59, 59, 57 cells), so the terminal wraps them to eight.
    assert narrow.startswith(
        "\r\x1b[2K" + "\x1b[1A\x1b[2K" * 4 + "\r\x1b[2K" + "\x1b[1A\x1b[2K" * 4 + "word"
    )
    terminal.out = io.StringIO("\n" * 30 + narrow)
    words = [word for line in terminal.lines() for word in line.split() if word.startswith("word")]
    assert words == [f"word{index}" for index in range(60)]


def test_with_too_many_traits_the_text_and_the_leader_stay_on_screen():
    terminal = Terminal(height=10)
    traits = [f"t{i}" for i in range(9)]
    view = MonitorView(terminal.console, "t8", clock=AdvancingClock())
    view.show(started(*traits))

    view.show(scored(0, "so", **dict.fromkeys(traits, 0.5)))

    lines = terminal.lines()
    assert lines[-9:-7] == ["so", ""]
    assert [line[:4] for line in lines[-6:]] == ["  t0", "  t1", "  t2", "  t3", "▸ t8", "  … "]
    view.__exit__(None, None, None)


def test_the_leader_is_the_trait_whose_mean_is_farthest_from_zero():
    tracks = {name: TraitTrack(name) for name in ("a", "b")}
    leader = Leader()

    for index, (a, b) in enumerate([(0.3, 0.0), (0.3, -0.8), (0.3, -2.0), (0.3, -0.4)]):
        tracks["a"].add(a, a)
        tracks["b"].add(b, b)
        leader.after(index, tracks)

    assert leader.changes == [(0, "a"), (2, "b")]


def test_a_chosen_trait_colors_every_token():
    tracks = {name: TraitTrack(name) for name in ("a", "b")}
    tracks["a"].add(2.0, 2.0)
    tracks["b"].add(0.0, 0.0)

    assert Leader("b").after(0, tracks) == "b"


def test_a_trait_without_class_means_is_never_the_leader():
    tracks = {"a": TraitTrack("a")}
    tracks["a"].add(30.0, None)

    assert Leader().after(0, tracks) is None


@pytest.mark.parametrize(
    ("score", "drawn"),
    [
        (0.0, "     ·    │    ·     "),
        (0.1, "     ·    │╸   ·     "),
        (1.0, "     ·    │━━━━━     "),
        (2.0, "     ·    │━━━━━━━━━━"),
        (99.0, "     ·    │━━━━━━━━━▸"),
        (-99.0, "◂━━━━━━━━━│    ·     "),
        (-1.0, "     ━━━━━│    ·     "),
        (-0.3, "     ·  ╺━│    ·     "),
        (float("nan"), "     ·    │    ·     "),
        (None, "     ·    │    ·     "),
    ],
)
def test_a_bar_grows_from_zero_to_the_dots_at_the_class_means(score, drawn):
    assert bar(score, NONE, 21).plain == drawn


@pytest.mark.parametrize(
    ("score", "mark", "drawn"),
    [
        (0.0, 1.5, "     ·    │    ·  ┆  "),
        (2.0, 1.5, "     ·    │━━━━━━━┆━━"),
        (0.0, 2.0, "     ·    │    ·    ┆"),
        (0.0, 2.1, "     ·    │    ·    »"),
        (0.0, 0.0, "     ·    │┆   ·     "),
        (0.0, -1.5, "  ┆  ·    │    ·     "),
        (-1.0, -9.0, "«    ━━━━━│    ·     "),
        (0.0, float("nan"), "     ·    │    ·     "),
    ],
)
def test_a_line_in_the_bar_marks_where_an_alarm_lies(score, mark, drawn):
    assert bar(score, NONE, 21, mark).plain == drawn


def test_the_panel_marks_the_alarm_of_its_trait_alone():
    terminal = Terminal()
    view = MonitorView(terminal.console)

    view.show(replace(started("evil", "refusal"), marks={"evil": 1.5}))
    view.show(scored(0, "Hi", evil=0.0, refusal=0.0))
    view.close()

    [evil, refusal] = [line for line in terminal.lines() if "evil" in line or "refusal" in line]
    assert ("┆" in evil, "┆" in refusal) == (True, False)


@pytest.mark.parametrize(
    ("score", "shown"),
    [
        (0.0, "+0.00"),
        (-1.317, "−1.32"),
        (12.345, "+12.3"),
        (-123.4, "−123"),
        (123456.0, "+1e+05"),
        (None, "–"),
        (float("nan"), "–"),
        (float("inf"), "+inf"),
    ],
)
def test_a_score_fits_six_cells(score, shown):
    assert format_score(score) == shown
    assert len(shown) <= 6


def test_a_sparkline_shows_the_newest_tokens_at_the_right():
    scores = [-2.0, 0.0, 2.0, float("nan"), 5.0]

    assert sparkline(scores, NONE, 4, calibrated=True).plain == "▄▇ ▇"
    assert sparkline(scores, NONE, 7, calibrated=True).plain == "  ▁▄▇ ▇"


def test_a_mean_ignores_nan():
    track = TraitTrack("a")

    for score in (1.0, float("nan"), 2.0):
        track.add(score, score)

    assert track.shown.mean == 1.5


@pytest.mark.parametrize("width", range(20, 101))
def test_the_panel_is_never_wider_than_the_terminal(width):
    track = TraitTrack("a-trait-with-a-rather-long-name")
    track.add(-1.5, -1.5, " a-rather-long-token")

    assert {line.cell_len for line in panel_lines([track], track.name, NONE, width)} <= set(
        range(width + 1)
    )


def test_a_pipe_gets_one_machine_readable_line_per_token():
    data, notes = io.StringIO(), io.StringIO()

    with PlainMonitorView(data, notes) as view:
        view.show(started("evil", "bold"))
        view.show(scored(0, "I", raw={"bold": 7.0}, evil=0.81254))
        view.show(scored(1, " \x1b[2J\t日", raw={"bold": -7.5}, evil=-1.0))
        view.show(FINISHED)

    assert data.getvalue() == (
        '0\t"I"\tevil=0.8125\traw:bold=7.0000\n'
        '1\t" \\u001b[2J\\t\\u65e5"\tevil=-1.0000\traw:bold=-7.5000\n'
    )
    assert json.loads(data.getvalue().splitlines()[1].split("\t")[1]) == " \x1b[2J\t日"
    assert notes.getvalue() == (
        "prompt: How do I hack a bank?\n"
        "model: tiny, layer 4\n"
        "warning: bold: its vector has no class means, so the scores are raw projections: "
        "no bar, no color\n"
        "3 tokens in 1.5 s, 2.0 tokens/s, ended by the model\n"
        "record: runs/monitor/x.json\n"
    )


def test_a_heat_map_keeps_its_colors_beside_a_dim_label():
    heat = HeatMap("evil", layer=None)
    heat.add([2.0, -2.0, 0.0])

    lines = heat.lines(Palette("full"), width=40, height=10)

    above, below = (background(score) for score in (-2.0, 2.0))
    assert [line.plain for line in lines] == ["  evil at every layer", "   2  ", "   0 ▀"]
    assert [(span.style.color, span.style.bgcolor, span.style.dim) for span in lines[2].spans] == [
        (None, None, True),
        (above, below, None),
    ]


def test_a_heat_map_skips_layers_evenly_on_a_low_screen():
    heat = HeatMap("evil", layer=22)
    for _ in range(3):
        heat.add([0.0] * 31)

    title, *bands = heat.lines(NONE, width=40, height=9)

    assert title.plain == "  evil at one layer in 4, monitored at 22"
    assert [band.plain.split()[0] for band in bands] == [
        "28",
        "24",
        "20",
        "16",
        "12",
        "8",
        "4",
        "0",
    ]


def show_until_interrupted(view, event, line):
    """Show an event with a Ctrl-C at one of the lines of code that draw it."""

    def tracer(frame, kind, arg):
        nonlocal line
        line -= 1
        if line == 0:
            sys.settrace(None)
            signal.raise_signal(signal.SIGINT)
        return tracer

    sys.settrace(tracer)
    try:
        view.show(event)
    finally:
        sys.settrace(None)


# A frame that moves a completed line up takes about 3,800 lines of code.
@pytest.mark.parametrize("line", range(5, 3000, 97))
def test_an_interrupted_frame_is_complete_and_on_screen_once(line):
    terminal = Terminal(width=30)
    view = MonitorView(terminal.console, clock=AdvancingClock())
    words = [f"word{number} " for number in range(10)]
    view.show(started("evil"))
    for index, word in enumerate(words[:-1]):
        view.show(scored(index, word, evil=0.1))

    with pytest.raises(KeyboardInterrupt):
        show_until_interrupted(view, scored(9, words[-1], evil=0.1), line)
    view.close()

    lines = terminal.lines()
    [panel] = [number for number, line in enumerate(lines) if line.startswith("  trait ")]
    seen = " ".join(lines[3:panel]).split()
    # The first lines of code run before the token is taken.
    assert seen in ("".join(words).split(), "".join(words[:-1]).split())
