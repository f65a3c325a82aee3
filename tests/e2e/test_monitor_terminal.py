"""The monitor in a real terminal: answers, chats, Ctrl-C and a resized window."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import pytest

from tests.e2e.terminal import CTRL_C, CTRL_D, CTRL_U, UP, Terminal
from tests.e2e.test_resume import make_endless
from traitcli.views.printable import printable

LAYERS = 5
ENDLESS = ("--max-new-tokens", "8000", "--set", "monitor.sampling.temperature=0")
BY_LAYER = ("--per-layer", "--trait", "evil")


class TerminalRun(NamedTuple):
    """A finished command, its terminal, and the record that it wrote or replayed."""

    code: int
    terminal: Terminal
    record: dict[str, Any]


def without_spaces(lines: list[str]) -> str:
    """All text without white space, so that line breaks do not matter."""
    return "".join("".join(lines).split())


def shown(record: dict[str, Any]) -> str:
    """The response as the terminal shows it, without an incomplete last character."""
    return without_spaces([printable(record["response"])]).rstrip("\ufffd")


def answer(lines: list[str]) -> str:
    """The text between the first empty line and the first panel, without spaces."""
    end = next(index for index, line in enumerate(lines) if line.startswith("  trait "))
    return without_spaces(lines[lines.index("") : end])


def panel(lines: list[str]) -> dict[str, tuple[float, str, float, float]]:
    """Trait -> (now, bar, mean, max) of the last panel."""
    row = re.compile(r"[▸ ] (\w+) +([+−][\d.]+)  (.{21})  .*?  +([+−][\d.]+)  +([+−][\d.]+) ")
    found = [match.groups() for match in map(row.match, lines) if match]
    return {
        trait: (number(now), bar, number(mean), number(most))
        for trait, now, bar, mean, most in found
    }


def number(figure: str) -> float:
    return float(figure.replace("−", "-"))


def heat_map(lines: list[str]) -> list[str]:
    """The title and the lines below it, up to the next empty line."""
    start = next(index for index, line in enumerate(lines) if line.startswith("  evil at "))
    return lines[start : start + lines[start:].index("")]


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def vectors_workspace(open_workspace: Callable[..., Any], finished: tuple[Any, Any]) -> Any:
    """A folder with the tiny model and its vectors."""
    workspace = open_workspace()
    shutil.copytree(finished[0].folder / "vectors", workspace.folder / "vectors")
    return workspace


@pytest.fixture(scope="module")
def endless_workspace(
    open_workspace: Callable[..., Any], vectors_workspace: Any, model_folders: dict[str, Path]
) -> Any:
    """A folder with vectors and a model whose answers never end."""
    workspace = open_workspace()
    (workspace.folder / "model").unlink()
    shutil.copytree(model_folders["llama"], workspace.folder / "model")
    make_endless(workspace.folder / "model")
    shutil.copytree(vectors_workspace.folder / "vectors", workspace.folder / "vectors")
    return workspace


@pytest.fixture(scope="module")
def open_terminal() -> Iterator[list[Terminal]]:
    """Terminals to close after the tests."""
    terminals: list[Terminal] = []
    yield terminals
    for terminal in terminals:
        terminal.close()


@pytest.fixture(scope="module")
def terminals(
    vectors_workspace: Any, endless_workspace: Any, open_terminal: list[Terminal]
) -> dict[str, Terminal]:
    """Five commands that load their models at once, because loading takes most of the time."""
    started = {
        "stopped": Terminal(
            endless_workspace, "monitor", "Why?", *ENDLESS, "--out", "stopped.json", size=(100, 24)
        ),
        "broken off": Terminal(
            endless_workspace, "monitor", "--chat", *ENDLESS, "--out", "broken.jsonl"
        ),
        "answered": Terminal(
            vectors_workspace,
            "monitor",
            "Why?",
            "--max-new-tokens",
            "60",
            "--out",
            "answered.json",
            fresh=True,
        ),
        "by layer": Terminal(
            vectors_workspace, "monitor", "How?", "--chat", *BY_LAYER, "--out", "layers.jsonl"
        ),
        "chatted": Terminal(vectors_workspace, "monitor", "--chat", "--out", "chatted.jsonl"),
    }
    open_terminal += started.values()
    return started


@pytest.fixture(scope="module")
def long_record(vectors_workspace: Any) -> dict[str, Any]:
    """`long.json`: four hundred words, with a pause after three of them."""
    words, pace, now = [f" word{index}" for index in range(400)], [], 0.0
    for index in range(len(words)):
        now += {150: 0.2, 151: 2.0, 250: 0.2, 251: 2.0, 330: 0.2, 331: 2.0}.get(index, 0.002)
        pace.append(now)
    falling = [1.5 - index / 200 for index in range(len(words))]
    scores = {"evil": falling, "refusal": falling}
    record = {
        **{"prompt": "Count.", "response": "".join(words), "tokens": words, "seconds": pace},
        **{
            "trait_scores": scores,
            "calibrated_scores": scores,
            "layers": {"evil": 1, "refusal": 1},
            "model": "model",
        },
    }
    (vectors_workspace.folder / "long.json").write_text(json.dumps(record), encoding="utf-8")
    return record


def test_a_resized_window_shows_each_word_once_and_one_panel(
    vectors_workspace, long_record, open_terminal
):
    """It runs before models are loaded, because the screen must keep up with the pause."""
    open_terminal.append(
        Terminal(vectors_workspace, "monitor", "--replay", "long.json", size=(100, 24))
    )

    for index, size in ((150, (60, 24)), (250, (90, 30)), (330, (45, 20))):
        open_terminal[-1].wait_until(lambda screen, word=f"word{index}": word in screen.split())
        open_terminal[-1].resize(*size)

    assert open_terminal[-1].end() == 0
    assert answer(open_terminal[-1].written) == without_spaces(long_record["tokens"])
    assert sum(line.startswith("  trait ") for line in open_terminal[-1].written) == 1


def terminal_run(terminal: Terminal, record: Path) -> TerminalRun:
    return TerminalRun(terminal.end(), terminal, json.loads(record.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def interrupted_answer(terminals: dict[str, Terminal], endless_workspace: Any) -> TerminalRun:
    """A long answer in a window that becomes narrower and wider, then Ctrl-C."""
    terminal = terminals["stopped"]
    for size in ((60, 24), (110, 30)):
        terminal.wait_for_frames()
        terminal.resize(*size)
    terminal.wait_for_frames()
    terminal.type(CTRL_C)
    return terminal_run(terminal, endless_workspace.folder / "stopped.json")


def test_ctrl_c_ends_an_answer_and_keeps_its_text_and_scores(interrupted_answer):
    record = interrupted_answer.record

    lengths = {
        len(scores)
        for kind in ("trait_scores", "calibrated_scores")
        for scores in record[kind].values()
    }

    assert interrupted_answer.code == 130
    assert record["finish_reason"] == "interrupted"
    assert "".join(record["tokens"]) == record["response"] != ""
    assert lengths == {len(record["tokens"])}
    assert interrupted_answer.terminal.written[-1] == "record: stopped.json"


def test_ctrl_c_restores_the_terminal(interrupted_answer):
    assert interrupted_answer.terminal.shows_cursor
    assert b"Traceback" not in interrupted_answer.terminal.sent


def test_no_word_is_lost_when_the_window_is_resized_while_the_model_writes(interrupted_answer):
    there = iter(without_spaces(interrupted_answer.terminal.written))

    missing = [char for char in shown(interrupted_answer.record) if char not in there]

    # All words are there in order. A frame drawn during the resize may be there twice.
    assert missing == []


@pytest.fixture(scope="module")
def finished_answer(terminals: dict[str, Terminal], vectors_workspace: Any) -> TerminalRun:
    return terminal_run(terminals["answered"], vectors_workspace.folder / "answered.json")


def test_a_live_answer_is_between_its_heading_and_the_path_of_its_record(finished_answer):
    lines = finished_answer.terminal.written

    assert finished_answer.code == 0
    assert (lines[0], lines[2]) == ("❯ Why?", "")
    assert lines[1].startswith("  model · layer ")
    assert answer(lines) == shown(finished_answer.record)
    assert lines[-2].endswith(" tokens/s, stopped at the token limit")
    assert lines[-1] == "record: answered.json"


def test_the_panel_shows_last_mean_and_highest_score_of_each_trait(finished_answer):
    scores = finished_answer.record["calibrated_scores"]

    found = panel(finished_answer.terminal.written)

    assert list(found) == list(scores)
    for trait, (now, bar, mean, most) in found.items():
        assert now == pytest.approx(scores[trait][-1], abs=0.051)
        assert mean == pytest.approx(fmean(scores[trait]), abs=0.0051)
        assert most == pytest.approx(max(scores[trait]), abs=0.051)
        below, above = bar.split("│")
        assert ("━" in below, "━" in above) == (now <= -0.2, now >= 0.2)


def test_a_live_answer_is_colored_and_shows_the_cursor_again(finished_answer):
    assert finished_answer.terminal.is_colored
    assert finished_answer.terminal.shows_cursor


@pytest.fixture(scope="module")
def by_layer(terminals: dict[str, Terminal], vectors_workspace: Any) -> TerminalRun:
    """A chat with one message from the command line, then Ctrl-D."""
    terminal = terminals["by layer"]
    terminal.wait_for_prompt(2)
    terminal.type(CTRL_D)
    code = terminal.end()
    [record] = records(vectors_workspace.folder / "layers.jsonl")
    return TerminalRun(code, terminal, record)


def test_ctrl_d_ends_a_chat_with_0_and_prints_the_path_of_its_record(by_layer):
    assert by_layer.code == 0
    assert by_layer.terminal.written[-2:] == ["❯", "record: layers.jsonl"]
    assert by_layer.terminal.shows_cursor


def test_per_layer_shows_the_trait_at_every_layer_below_the_panel(by_layer):
    title, *bands = heat_map(by_layer.terminal.written)

    kept = by_layer.record["layer_scores"]
    assert title == f"  evil at every layer, monitored at {by_layer.record['layers']['evil']}"
    assert [band[:4] for band in bands] == ["   4", "   2", "   0"]  # Each line shows two layers.
    assert {len(row) for row in kept["calibrated_scores"]} == {len(by_layer.record["tokens"])}
    assert (
        kept["calibrated_scores"][by_layer.record["layers"]["evil"]]
        == by_layer.record["calibrated_scores"]["evil"]
    )


@pytest.fixture
def replayed(
    vectors_workspace: Any, by_layer: TerminalRun, open_terminal: list[Terminal]
) -> Callable[..., TerminalRun]:
    """Environment -> a replay of the record by layer."""

    def replay(**env: str) -> TerminalRun:
        open_terminal.append(
            Terminal(
                vectors_workspace,
                "monitor",
                "--replay",
                "layers.jsonl",
                "--speed",
                "1000",
                *BY_LAYER[1:],
                **env,
            )
        )
        return TerminalRun(open_terminal[-1].end(), open_terminal[-1], by_layer.record)

    return replay


def test_a_replay_looks_like_the_answer_itself(by_layer, replayed):
    live = by_layer.terminal.written

    again = replayed(TERM="xterm-256color")

    lines, explained = (
        again.terminal.written,
        "−1 and +1 are the means of a trait's negative and positive examples.",
    )
    assert again.code == 0
    assert shown(by_layer.record) in without_spaces(again.terminal.written)
    assert (panel(lines), heat_map(lines)) == (panel(live), heat_map(live))
    assert lines[:3] == live[1:4]
    assert lines[-3:-1] == [explained, "Colored by evil."]
    assert explained in live


def test_without_colors_tokens_have_marks_and_each_layer_has_a_line(replayed):
    again = replayed(NO_COLOR="1")

    _, *bands = heat_map(again.terminal.written)

    assert not again.terminal.is_colored
    assert "  ⟨…⟩⁺ and ⟨…⟩⁻ hold tokens that reach +1 or −1." in again.terminal.written
    assert [band[:4].strip() for band in bands] == [str(layer) for layer in reversed(range(LAYERS))]


def test_a_terminal_that_moves_no_cursor_gets_plain_lines(replayed):
    again = replayed(TERM="dumb")

    fields = [line.split() for line in again.terminal.written if line[:1].isdigit()][:-1]

    assert b"\x1b" not in again.terminal.sent
    assert [int(index) for index, *_ in fields] == list(range(len(again.record["tokens"])))


class ChatRun(NamedTuple):
    """A chat in a terminal: the reply to each line, and the records.

    `replies` maps each typed line to the lines printed after it.
    """

    code: int
    terminal: Terminal
    replies: dict[str, list[str]]
    again: list[str]
    records: list[dict[str, Any]]


@pytest.fixture(scope="module")
def chatted(terminals: dict[str, Terminal], vectors_workspace: Any) -> ChatRun:
    """Three messages with different settings, then the recalled last line, and /quit."""
    terminal, replies = terminals["chatted"], {}
    terminal.wait_for_prompt(1)
    lines = [
        "Why not?",
        "/trait evil",
        "/steer evil=1",
        "/steer",
        "How?",
        "/steer off",
        "/system Be brief.",
        "Who?",
    ]
    for line in [*lines, "/nonsense", "/save chat.json"]:
        replies[line] = terminal.ask(line)
    terminal.type(UP)
    terminal.wait_until(lambda screen: not screen.rstrip().endswith("\n❯"))
    again = terminal.written
    terminal.type(f"{CTRL_U}/quit\r")
    code = terminal.end()
    return ChatRun(
        code, terminal, replies, again, records(vectors_workspace.folder / "chatted.jsonl")
    )


def test_quit_ends_a_chat_with_0_and_prints_the_path_of_its_record(chatted):
    assert chatted.code == 0
    assert chatted.terminal.written[-2:] == ["❯ /quit", "record: chatted.jsonl"]
    assert chatted.terminal.shows_cursor


def test_a_response_appears_below_its_message_and_above_its_panel(chatted):
    for line, record in zip(("Why not?", "How?", "Who?"), chatted.records, strict=True):
        replies = chatted.replies[line]

        assert shown(record) in without_spaces(replies)
        assert list(panel(replies)) == ["evil", "refusal"]
        assert not any(fact.startswith("record:") for fact in replies)


def test_each_setting_is_confirmed(chatted):
    layer = chatted.records[0]["layers"]["evil"]

    replies = {line: reply for line, reply in chatted.replies.items() if line.startswith("/")}

    assert replies == {
        "/trait evil": ["tokens are colored by evil"],
        "/steer evil=1": [f"steered by evil +1 at layer {layer}"],
        "/steer": [f"steered by evil +1 at layer {layer}"],
        "/steer off": ["not steered"],
        "/system Be brief.": ["system message: Be brief."],
        "/nonsense": ["unknown command /nonsense; /help lists the commands"],
        "/save chat.json": ["saved: chat.json"],
    }


def test_a_chosen_trait_colors_the_next_response(chatted):
    assert "Colored by evil." in chatted.replies["How?"]
    assert any(line.startswith("▸ evil ") for line in chatted.replies["How?"])


def test_each_turn_of_a_chat_is_a_record_with_all_earlier_messages(chatted):
    first, second, third = chatted.records

    messages = [
        message
        for record in (first, second)
        for message in (
            {"role": "user", "content": record["prompt"]},
            {"role": "assistant", "content": record["response"]},
        )
    ]
    assert [record["prompt"] for record in chatted.records] == ["Why not?", "How?", "Who?"]
    assert (first["history"], second["history"]) == ([], messages[:2])
    assert third["history"] == [{"role": "system", "content": "Be brief."}, *messages]
    assert [record["about"] for record in chatted.records] == [
        {"turn": 1},
        {"turn": 2},
        {"turn": 3},
    ]
    for record in chatted.records:
        assert {len(scores) for scores in record["calibrated_scores"].values()} == {
            len(record["tokens"])
        }


def test_steering_applies_from_the_steer_command_until_it_is_turned_off(chatted):
    first, second, third = chatted.records

    [push] = second["steering"]

    assert (first["steering"], third["steering"]) == ([], [])
    assert (push["trait"], push["coefficient"], push["layer"]) == (
        "evil",
        1.0,
        first["layers"]["evil"],
    )
    assert push["dose"] > 0
    assert any(
        line.startswith(f"  steered by evil +1 at layer {push['layer']} (dose ")
        for line in chatted.replies["How?"]
    )


def test_a_saved_chat_contains_the_messages_and_records_of_all_turns(chatted, vectors_workspace):
    saved = json.loads((vectors_workspace.folder / "chat.json").read_text(encoding="utf-8"))

    last = chatted.records[-1]
    assert saved["turns"] == chatted.records
    assert saved["messages"] == [
        *last["history"],
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": last["response"]},
    ]


def test_the_up_arrow_recalls_the_previous_line(chatted):
    assert chatted.again[-1] == "❯ /save chat.json"


@pytest.fixture(scope="module")
def interrupted_chat(terminals: dict[str, Terminal], endless_workspace: Any) -> ChatRun:
    """Two answers ended by Ctrl-C, then half a line, and Ctrl-C again."""
    terminal = terminals["broken off"]
    terminal.wait_for_prompt(1)
    terminal.interrupt("Why?")
    again = terminal.written
    terminal.interrupt("How?")
    terminal.type("half a line")
    terminal.wait_until(lambda screen: screen.rstrip().endswith("❯ half a line"))
    terminal.type(CTRL_C)
    return ChatRun(
        terminal.end(), terminal, {}, again, records(endless_workspace.folder / "broken.jsonl")
    )


def test_ctrl_c_ends_an_answer_and_not_the_chat(interrupted_chat):
    first, second = interrupted_chat.records

    assert [record["finish_reason"] for record in interrupted_chat.records] == [
        "interrupted",
        "interrupted",
    ]
    assert second["history"] == [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": first["response"]},
    ]
    for record in interrupted_chat.records:
        assert (
            {len(scores) for scores in record["trait_scores"].values()}
            == {len(record["tokens"])}
            != {0}
        )


def test_text_before_ctrl_c_is_on_screen_once(interrupted_chat):
    assert answer(interrupted_chat.again) == shown(interrupted_chat.records[0])


def test_ctrl_c_at_the_input_line_ends_a_chat_with_130(interrupted_chat):
    assert interrupted_chat.code == 130
    assert b"Traceback" not in interrupted_chat.terminal.sent
    assert interrupted_chat.terminal.shows_cursor
    # Otherwise the shell's prompt would follow the unfinished line.
    assert interrupted_chat.terminal.sent.endswith(b"\r\n")
