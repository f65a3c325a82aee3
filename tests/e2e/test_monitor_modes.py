"""Monitor without a terminal: piped chats, prompt sets, texts, alarms, vectors and mistakes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import yaml

from tests.e2e.conftest import CommandResult
from tests.e2e.test_commands import RECORD, page_data

SHORT_ANSWER = {
    "prompts": [
        {"prompt": "Why?", "trait": "evil", "shows": "positive"},
        {"prompt": "x" * 600, "trait": "evil", "shows": "positive"},
        {"prompt": "How?", "trait": "evil", "shows": "negative"},
        {"prompt": "Who?", "trait": "refusal", "shows": "both", "system": "Be brief."},
    ]
}
TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello there"},
    {"role": "user", "content": "And?"},
    {"role": "assistant", "content": "No."},
]
ANSWER = {"prompt": "Why?", "response": "Because of you."}
ALWAYS, NEVER = "any(evil)>-1000", "evil>1000"
TOO_LONG = (
    "the prompt is too long: 615 prompt tokens and 12 new ones exceed the 512 tokens of model"
)
NO_JSON = "line 3: not JSON: expecting value at column 1"
NOWHERE = ("--set", "paths.vectors=nowhere")
STOPPED = ("--layer", "auto", "--stop-on", "run(evil,3)>-1000", "--fail-on", NEVER)
MODES: dict[str, list[str]] = {
    "set": ["--prompts", "few.yaml", "--out", "set.jsonl", "--fail-on", "mean(evil)>1000"],
    "texts": [
        "--input",
        "text.jsonl",
        "--json",
        "--fail-on",
        "mean(evil)>-1000",
        "--fail-on",
        "run(evil,3)>-1000",
    ],
    "folder": ["--input", "logs", "--out", "logs/records.jsonl", "--traits", "evil,refusal"],
    "days": [
        "--input",
        "logs/one.jsonl",
        "--by",
        "day",
        "--json",
        "--traits",
        "evil",
        "--out",
        "scores.csv",
    ],
    "plain": [
        "Wh\udcff?",
        "--input",
        "text.txt",
        "--system",
        "Be \udcff.",
        *NOWHERE,
        "--vectors",
        "elsewhere/model",
    ],
    "steered": [
        "Why?",
        "--json",
        "--prompt-tokens",
        "--steer",
        "refusal=0.5@2",
        *STOPPED,
        "--out",
        "answers.jsonl",
    ],
    "braked": [
        "Why?",
        "--json",
        "--steer",
        "evil<=-2@2",
        "--steer",
        "refusal=ablate@all",
        "--steer",
        "refusal=0.1@2 if evil<1000",
        "--out",
        "braked.jsonl",
    ],
    "raw": [
        "How?",
        "--raw",
        "--fail-on",
        ALWAYS,
        *NOWHERE,
        "--vectors",
        "elsewhere",
        "--out",
        "answers.jsonl",
    ],
}
STDIN = (
    b"Wh\xff?\n/steer evil=0.5\n/nonsense\n\n/system Be \xff.\nHow?\n"
    b"/steer evil<=0.5 refusal=1@2 if evil>1 refusal=ablate@all\n/steer evil<=\n"
    b"/save saved.json\n/quit\nnever\n"
)


@pytest.fixture(scope="module")
def monitor_workspace(
    open_workspace: Callable[..., Any], finished: tuple[Any, CommandResult]
) -> Any:
    """A folder with the tiny model, its vectors in three folders, prompts and texts."""
    workspace = open_workspace()
    for folder_name in ("vectors", "elsewhere"):
        shutil.copytree(finished[0].folder / "vectors", workspace.folder / folder_name)
    (workspace.folder / "nothing").mkdir()
    logs = workspace.folder / "logs" / "more"
    logs.mkdir(parents=True)
    days = [ANSWER | {"id": "a", "created": day} for day in ("2025-02-01", "2025-01-31")]
    (logs.parent / "one.jsonl").write_text("\n".join(map(json.dumps, days)), encoding="utf-8")
    (logs / "two.json").write_text(json.dumps(ANSWER), encoding="utf-8")
    (logs / "broken.json").write_text("{", encoding="utf-8")
    broken = {"prompt": "Why?", "response": "ab", "tokens": ["a", "b"]}
    files = {
        "few.yaml": yaml.safe_dump(SHORT_ANSWER),
        "text.txt": "It is so, and so it is.",
        "text.jsonl": "\n".join([json.dumps(ANSWER), json.dumps({"messages": TALK}), "no json"]),
        "no record.json": json.dumps({"prompt": "Why?"}),
        "too few scores.json": json.dumps(broken | {"trait_scores": {"evil": [1.0]}}),
        "too few times.json": json.dumps(
            broken | {"trait_scores": {"evil": [1.0, 1.0]}, "seconds": [0.1]}
        ),
        "no scores.json": json.dumps(broken | {"trait_scores": {}}),
    }
    for name, text in files.items():
        (workspace.folder / name).write_text(text, encoding="utf-8")
    return workspace


@pytest.fixture(scope="module")
def ended(monitor_workspace: Any) -> dict[str, CommandResult]:
    """The result of each mode of monitor; two commands run at a time."""
    with ThreadPoolExecutor(2) as pool:
        running = {
            name: pool.submit(monitor_workspace.run, "monitor", *arguments)
            for name, arguments in MODES.items()
        }
        chat = ("--chat", "--max-new-tokens", "4", "--out", "chat.jsonl")
        running["chat"] = pool.submit(
            monitor_workspace.run, "monitor", *chat, stdin=STDIN, PYTHONIOENCODING="utf-8:strict"
        )
        return {name: one.result() for name, one in running.items()}


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_folder_is_scored_with_one_row_a_file_and_a_broken_file_is_a_row_too(
    ended, monitor_workspace
):
    found = records(monitor_workspace.folder / "logs" / "records.jsonl")
    one, two = (mean_of(record, "evil") for record in found[1:3])

    rows = [line.split() for line in ended["folder"].out.splitlines()]

    assert ended["folder"].code == 0
    assert [record["about"]["file"] for record in found] == [
        "more/broken.json",
        "more/two.json",
        "one.jsonl",
        "one.jsonl",
    ]
    assert [record["about"].get("id") for record in found[2:]] == ["a", "a"]
    assert rows[0][:4] == ["file", "texts", "evil", "refusal"]
    assert rows[2][:5] == ["more/broken.json", "0", "–", "–", "1"]
    by_file = {row[0]: row[1:3] for row in rows if row and row[0].endswith((".json", ".jsonl"))}
    assert by_file["more/two.json"] == ["1", figure(one)]
    assert by_file["one.jsonl"] == ["2", figure(two)]
    assert "reading 3 files in logs" in ended["folder"].err


def test_a_table_by_day_goes_to_stderr_beside_json(ended, monitor_workspace):
    first, second = ended["days"].json_lines

    rows = [line.split() for line in ended["days"].err.splitlines()]

    assert [first["about"]["time"], second["about"]["time"]] == ["2025-02-01", "2025-01-31"]
    table = (monitor_workspace.folder / "scores.csv").read_text(encoding="utf-8").splitlines()
    assert table[0] == "id,epoch,time,file,line,turn,evil,tokens,error"
    assert [row.split(",")[:5] for row in table[1:]] == [
        ["a", "", "2025-02-01", "one.jsonl", "1"],
        ["a", "", "2025-01-31", "one.jsonl", "2"],
    ]
    days = [row for row in rows if row and row[0].startswith("2025")]
    assert days == [
        ["2025-01-31", "1", figure(mean_of(second, "evil"))],
        ["2025-02-01", "1", figure(mean_of(first, "evil"))],
    ]


def row_of(table: str, trait: str) -> list[str]:
    [row] = [line.split() for line in table.splitlines() if line.startswith(f"{trait} ")]
    return row


def figure(score: float) -> str:
    return f"{score:+.2f}".replace("-", "−")


def mean_of(record: dict[str, Any], trait: str) -> float:
    return fmean(record["calibrated_scores"][trait])


def test_each_line_from_a_pipe_is_a_turn_until_quit(ended, monitor_workspace):
    first, second = records(monitor_workspace.folder / "chat.jsonl")

    assert ended["chat"].code == 0
    # Invalid bytes became question marks.
    assert [first["prompt"], second["prompt"]] == [
        "Wh??",
        "How?",
    ]
    assert second["history"] == [
        {"role": "system", "content": "Be ?."},
        {"role": "user", "content": "Wh??"},
        {"role": "assistant", "content": first["response"]},
    ]
    assert [push["coefficient"] for push in second["steering"]] == [0.5]
    assert json.loads((monitor_workspace.folder / "saved.json").read_text(encoding="utf-8"))[
        "turns"
    ] == [
        first,
        second,
    ]


def test_a_piped_chat_has_token_lines_on_stdout_and_the_rest_on_stderr(ended, monitor_workspace):
    first, second = records(monitor_workspace.folder / "chat.jsonl")

    ever_same = ("model: ", "4 tokens in ")
    error_lines = [
        line for line in ended["chat"].err.splitlines() if not line.startswith(ever_same)
    ]

    layer = first["layers"]["evil"]
    dose = f"{second['steering'][0]['dose']:.2f}"
    assert [int(line.split("\t")[0]) for line in ended["chat"].out.splitlines()] == [0, 1, 2, 3] * 2
    assert error_lines[1:] == [
        "Type a message, or /help. /quit leaves.",
        "prompt: Wh??",
        f"steered by evil +0.5 at layer {layer}",
        "unknown command /nonsense; /help lists the commands",
        "system message: Be ?.",
        *("prompt: How?", f"steered by evil +0.5 at layer {layer} (dose {dose})"),
        f"steered by evil ≤ +0.5 at layer {layer}, refusal +1 at layer 2 if evil > +1, refusal "
        "ablated at every layer",
        "error: invalid /steer evil<=",
        f"cause: {STEER_FORM}",
        f"fix:   {STEER_EXAMPLE}",
        "saved: saved.json",
        "record: chat.jsonl",
    ]


def test_a_failed_prompt_of_a_set_is_recorded_and_the_next_one_follows(ended, monitor_workspace):
    kept = records(monitor_workspace.folder / "set.jsonl")

    assert ended["set"].code == 0
    assert [record["prompt"] for record in kept] == [
        one["prompt"] for one in SHORT_ANSWER["prompts"]
    ]
    assert [record.get("error") for record in kept] == [None, TOO_LONG, None, None]
    assert [record["about"]["number"] for record in kept] == [1, 2, 3, 4]
    assert kept[3]["history"] == [{"role": "system", "content": "Be brief."}]
    assert f"warning: prompt 2 failed: {TOO_LONG}" in ended["set"].err.splitlines()


def test_the_table_of_a_set_shows_each_trait(ended, monitor_workspace):
    rises, _, falls, both = records(monitor_workspace.folder / "set.jsonl")

    scores = both["calibrated_scores"]["refusal"]
    smooth = [fmean(scores[start : start + 5]) for start in range(len(scores) - 4)]
    up, down = mean_of(rises, "evil"), mean_of(falls, "evil")
    assert row_of(ended["set"].err, "evil") == [
        "evil",
        "2",
        "1",
        figure(up),
        figure(down),
        figure(up - down),
        "–",
    ]
    assert row_of(ended["set"].err, "refusal") == [
        "refusal",
        "1",
        "0",
        "–",
        "–",
        "–",
        f"{max(smooth) - min(smooth):.2f}",
    ]
    assert ended["set"].err.splitlines()[-1] == "records: set.jsonl"
    # The token lines are for programs.
    assert all(line[:1].isdigit() for line in ended["set"].out.splitlines())


def test_texts_are_scored_in_order_with_errors_for_unreadable_ones(ended):
    kept = ended["texts"].json_lines

    assert [record.get("response") for record in kept] == [
        "Because of you.",
        "Hello there",
        "No.",
        None,
    ]
    assert [record["prompt"] for record in kept] == ["Why?", "Hi", "And?", ""]
    assert [record.get("history") for record in kept] == [[], TALK[:1], TALK[:3], None]
    assert [record["about"] for record in kept] == [
        {"file": "text.jsonl", "line": 1},
        {"file": "text.jsonl", "line": 2, "turn": 1},
        {"file": "text.jsonl", "line": 2, "turn": 2},
        {"file": "text.jsonl", "line": 3},
    ]


def test_texts_with_json_print_records_on_stdout_and_the_table_on_stderr(ended, monitor_workspace):
    [path] = (monitor_workspace.folder / "runs" / "monitor").glob("*-text-jsonl.jsonl")

    table = ended["texts"].err.splitlines()

    assert ended["texts"].json_lines == records(path)
    assert table[-3:-1] == [
        f"not read: {NO_JSON}",
        f"records: {path.relative_to(monitor_workspace.folder)}",
    ]


@pytest.mark.parametrize("trait", ["evil", "refusal"])
def test_the_table_of_texts_shows_means_and_extremes(ended, trait):
    where = ["line 1", "line 2 turn 1", "line 2 turn 2"]
    means = [mean_of(record, trait) for record in ended["texts"].json_lines[:3]]

    row = row_of(ended["texts"].err, trait)

    (low, lowest), (high, highest) = (
        chosen(zip(means, where, strict=True)) for chosen in (min, max)
    )
    mean = figure(fmean(means))
    assert row == f"{trait} 3 {mean} {figure(low)} {lowest} {figure(high)} {highest}".split()


def test_a_plain_text_is_the_answer_to_the_prompt_with_its_table_on_stdout(
    ended, monitor_workspace
):
    [path] = (monitor_workspace.folder / "runs" / "monitor").glob("*-text-txt.jsonl")

    [record] = records(path)

    assert ended["plain"].code == 0
    # Invalid bytes became question marks.
    assert (record["prompt"], record["response"]) == (
        "Wh??",
        "It is so, and so it is.",
    )
    assert record["history"] == [{"role": "system", "content": "Be ?."}]
    assert "".join(record["tokens"]) == record["response"]
    assert row_of(ended["plain"].out, "evil") == [
        "evil",
        "1",
        *[figure(mean_of(record, "evil"))] * 3,
    ]
    assert (
        ended["plain"].out.splitlines()[-1]
        == f"records: {path.relative_to(monitor_workspace.folder)}"
    )


def test_a_fail_rule_that_is_met_exits_with_3_and_is_recorded(ended):
    read = ended["texts"].json_lines[:3]

    assert ended["texts"].code == 3
    for record in read:
        run, mean = sorted(record["alarms"], key=lambda alarm: alarm["rule"], reverse=True)
        assert run == {
            **{"rule": "run(evil,3)>-1000", "action": "fail", "token": 2},
            "score": pytest.approx(min(record["calibrated_scores"]["evil"][:3]), abs=2e-5),
        }
        assert mean == {
            **{"rule": "mean(evil)>-1000", "action": "fail", "token": len(record["tokens"]) - 1},
            "score": pytest.approx(mean_of(record, "evil"), abs=2e-5),
        }
    assert (
        ended["texts"].err.splitlines()[-1]
        == "3 of 4 texts meet mean(evil)>-1000 or run(evil,3)>-1000"
    )


@pytest.mark.parametrize("name", ["set", "steered"])
def test_a_fail_rule_that_is_not_met_exits_with_0(ended, name):
    assert ended[name].code == 0


def test_stop_on_ends_the_answer_at_the_token_that_meets_it(ended):
    *tokens, record = ended["steered"].json_lines

    [alarm] = record["alarms"]
    assert record["finish_reason"] == "alarm"
    assert len(record["tokens"]) == len(tokens) == 3
    assert (alarm["rule"], alarm["action"], alarm["token"]) == ("run(evil,3)>-1000", "stop", 2)
    alarm_line = (
        f"alarm run(evil,3)>-1000: {figure(alarm['score'])} at token 2; the answer ends here"
    )
    assert alarm_line in ended["steered"].err.splitlines()


def test_json_is_a_line_for_each_token_and_then_the_record(ended, monitor_workspace):
    *tokens, record = ended["steered"].json_lines

    assert [line["index"] for line in tokens] == list(range(len(record["tokens"])))
    assert [list(line) for line in tokens] == [
        ["index", "token", "trait_scores", "calibrated_scores"]
    ] * len(tokens)
    assert list(record) == [*RECORD, "prompt_scores"]
    assert record in records(monitor_workspace.folder / "answers.jsonl")


def test_the_prompts_tokens_are_those_of_the_chat_template(ended):
    record = ended["steered"].json_lines[-1]

    scores = record["prompt_scores"]
    assert (
        "".join(scores["tokens"])
        == "<s><|system|>Cutting date. <|end|><|user|>Why?<|end|><|assistant|>"
    )
    assert len(scores["tokens"]) == record["prompt_tokens"]
    for kind in ("trait_scores", "calibrated_scores"):
        assert {trait: len(row) for trait, row in scores[kind].items()} == dict.fromkeys(
            ("evil", "refusal"), record["prompt_tokens"]
        )


def test_brakes_and_where_they_held_are_recorded_and_shown(ended, monitor_workspace):
    *tokens, record = ended["braked"].json_lines

    gate = "refusal=0.1@2 if evil<1000"
    assert [one.get("kind", "push") for one in record["steering"]] == ["cap", "ablate", "gate"]
    # A gate needs the scores of eight tokens.
    assert record["braked_tokens"][gate] == list(range(8, len(tokens)))
    held = record["braked_tokens"].items()
    for token in tokens:
        assert token.get("braked", []) == [
            brake for brake, indices in held if token["index"] in indices
        ]
    [stored] = records(monitor_workspace.folder / "braked.jsonl")
    assert stored == record
    assert "evil ≤ −2 at layer 2, refusal ablated at every layer" in ended["braked"].err


def test_steering_is_recorded_with_its_layer_and_dose(ended):
    [push] = ended["steered"].json_lines[-1]["steering"]

    assert (push["trait"], push["coefficient"], push["layer"]) == ("refusal", 0.5, 2)
    assert push["dose"] > 0
    assert (
        f"steered by refusal +0.5 at layer 2 (dose {push['dose']:.2f})"
        in ended["steered"].err.splitlines()
    )


def test_layer_auto_reads_each_vector_at_its_own_layer(ended, finished):
    chosen = {row["trait"]: row["layer"] for row in finished[1].json["vectors"]}

    assert ended["steered"].json_lines[-1]["layers"] == chosen


def test_with_raw_scores_and_bounds_are_projections(ended, monitor_workspace):
    [record] = [
        record
        for record in records(monitor_workspace.folder / "answers.jsonl")
        if record["prompt"] == "How?"
    ]
    raw = record["trait_scores"]

    shown = [line.split("\t")[2:] for line in ended["raw"].out.splitlines()]

    for index, trait in enumerate(raw):
        named, figures = zip(*(fields[index].split("=") for fields in shown), strict=True)
        assert set(named) == {f"raw:{trait}"}
        assert [float(one) for one in figures] == pytest.approx(raw[trait], abs=1e-4)
    assert ended["raw"].code == 3
    assert record["alarms"] == [
        {"rule": ALWAYS, "action": "fail", "token": 0, "score": raw["evil"][0]}
    ]


def test_vectors_are_read_from_a_folder_or_its_folder_of_the_model(ended):
    # The configured folder has no vectors.
    assert row_of(ended["plain"].out, "refusal")[:2] == [
        "refusal",
        "1",
    ]
    assert "\traw:refusal=" in ended["raw"].out


def test_a_second_answer_is_a_second_line_of_the_same_file(ended, monitor_workspace):
    kept = records(monitor_workspace.folder / "answers.jsonl")

    assert sorted(record["prompt"] for record in kept) == ["How?", "Why?"]


def test_report_has_the_records_of_a_set_without_failures(ended, monitor_workspace):
    reported = monitor_workspace.run("report", "set.jsonl", "--out", "page.html")

    data = page_data(monitor_workspace.folder / "page.html")
    assert (reported.code, reported.out) == (0, "page.html\n")
    assert "warning" not in reported.err
    assert [record["name"] for record in data["records"]] == ["set 1", "set 3", "set 4"]


@dataclass(frozen=True)
class Mistake:
    """Arguments of monitor and the error that they cause before any work."""

    arguments: Sequence[str]
    problem: str
    cause: str = ""
    fix: str = ""

    @property
    def stderr(self) -> str:
        lines = {"error: ": self.problem, "cause: ": self.cause, "fix:   ": self.fix}
        return "".join(f"{label}{text}\n" for label, text in lines.items() if text)


SOURCES = (
    'traitcli monitor "What should I read?", or --chat, --prompts teaching, --input FILE, '
    "--replay FILE"
)
RULE_FORMS = (
    "expected TRAIT>BOUND, FUNCTION(TRAIT)>BOUND or TRAIT@fpr=RATE%; < works too; functions: "
    "rolling, mean, first, any, ema, run"
)
RULE_EXAMPLES = (
    "for example evil>1.5 (mean of 8 tokens in a row), any(evil)>3, run(evil,5)>1 "
    "(5 tokens in a row) or evil@fpr=1%"
)
STEER_FORM = (
    "expected TRAIT=COEFFICIENT, TRAIT=ablate, TRAIT<=SCORE, TRAIT>=SCORE or TRAIT=COEFFICIENT if "
    "TRAIT>SCORE; a layer follows as @LAYER"
)
STEER_EXAMPLE = "for example evil=-2, evil=4@14, 'evil<=0.5' or 'refusal=1 if evil>1'"
BOTH, EVIL = "monitored: evil, refusal", "did you mean evil?"
COLD = "monitor.sampling.temperature: expected a number of at least 0, got -1.0"
MISTAKES = {
    "nothing to watch": Mistake(
        [], "there is nothing to monitor", "no prompt and no other source is named", SOURCES
    ),
    "two ways": Mistake(
        ["--chat", "--prompts", "teaching"],
        "--chat and --prompts cannot be used together",
        "each of them is a source on its own",
        "keep one of them",
    ),
    "a prompt and a set": Mistake(
        ["Why?", "--prompts", "teaching"],
        "a prompt and --prompts cannot be used together",
        "--prompts has its own prompts",
        "leave one of them out",
    ),
    "a file for one record": Mistake(
        ["--chat", "--out", "chat.json"],
        "cannot write the records of --chat to chat.json",
        "--chat writes several records, and only a .jsonl file holds several",
        "--out chat.jsonl",
    ),
    "steering by nothing": Mistake(
        ["Why?", "--steer", "evil"], "invalid --steer evil", STEER_FORM, STEER_EXAMPLE
    ),
    "steering by an unknown trait": Mistake(
        ["Why?", "--steer", "evli=2"],
        "cannot steer evli",
        "there are vectors of evil, refusal",
        EVIL,
    ),
    "steering what is there": Mistake(
        ["--input", "text.txt", "--steer", "evil=2"],
        "--steer and --input cannot be used together",
        "--input scores existing text; nothing is generated",
        "leave --steer out",
    ),
    "an alarm on a record": Mistake(
        ["--replay", "no record.json", "--fail-on", "evil>1"],
        "--fail-on and --replay cannot be used together",
        "--replay shows a stored record unchanged",
        "leave --fail-on out",
    ),
    "an alarm that is none": Mistake(
        ["Why?", "--stop-on", "evil=2"], "invalid --stop-on evil=2", RULE_FORMS, RULE_EXAMPLES
    ),
    "an alarm on an unknown trait": Mistake(
        ["Why?", "--stop-on", "evli>2"],
        "--stop-on evli>2: the trait evli is not monitored",
        BOTH,
        EVIL,
    ),
    "a trait that is not monitored": Mistake(
        ["Why?", "--trait", "verbosity"],
        "the trait verbosity is not monitored",
        "monitored: evil, refusal",
        "choose one of these",
    ),
    "two traits by layer": Mistake(
        ["Why?", "--per-layer"],
        "--per-layer shows one trait",
        "2 traits are monitored",
        "name one, for example --trait evil",
    ),
    "a layer that is none": Mistake(
        ["Why?", "--layer", "abc"],
        "invalid --layer abc",
        "abc is neither a layer number nor auto",
        "--layer 16, or --layer auto",
    ),
    "no speed": Mistake(
        ["--replay", "no record.json", "--speed", "0"],
        "invalid --speed 0",
        "the speed must be above 0",
        "--speed 2 replays twice as fast",
    ),
    "a missing text": Mistake(
        ["--input", "no.txt"],
        "cannot read no.txt",
        "the file does not exist",
        "check the path",
    ),
    "no record": Mistake(
        ["--replay", "no record.json"],
        "no record.json is not a monitoring record",
        "prompt, tokens or trait_scores are missing",
        "name a file that traitcli monitor wrote",
    ),
    "an unknown set": Mistake(
        ["--prompts", "teachng"],
        "no prompt set teachng",
        "there is no such file, and no shipped set has this name",
        "did you mean teaching? sets: fluctuations, teaching",
    ),
    "a folder without vectors": Mistake(
        ["Why?", "--vectors", "nothing"],
        "no vector of any trait",
        "looked in nothing",
        "name the folder that holds TRAIT.safetensors",
    ),
    "vectors that do not exist": Mistake(
        ["Why?", "--vectors", "none.gguf"],
        "cannot read --vectors none.gguf",
        "no file or folder has this path",
        "check the path",
    ),
    "a misspelled trait": Mistake(
        ["Why?", "--traits", "refusal,evl"],
        "no vector of evl for model",
        "looked in vectors/model; found: evil, refusal",
        EVIL,
    ),
    "a record below a file": Mistake(
        ["Why?", "--out", "tiny.yaml/record.json"],
        "cannot write to tiny.yaml/record.json",
        "tiny.yaml is not a folder",
        "name another file with --out",
    ),
    "a temperature below zero": Mistake(
        ["Why?", "--temperature", "-1"],
        "invalid --temperature -1",
        COLD,
        "correct the option, or see docs/configs.md",
    ),
}
BROKEN = ["too few scores.json", "too few times.json", "no scores.json"]
LAYER_99 = (
    "error: cannot steer evil at layer 99\n"
    "cause: model can be steered at layers 1 to 4, the outputs of its blocks\n"
    "fix:   leave @99 out to use the vector's own layer, "
)


@pytest.fixture(scope="module")
def refused(monitor_workspace: Any) -> dict[str, CommandResult]:
    """The results of mistakes and broken records."""
    asked = {name: mistake.arguments for name, mistake in MISTAKES.items()}
    asked |= {name: ["--replay", name] for name in BROKEN} | {
        "layer 99": ["Why?", "--steer", "evil=2@99"]
    }
    ended = monitor_workspace.run_all(
        [["monitor", *arguments, "--config", "tiny.yaml"] for arguments in asked.values()]
    )
    return dict(zip(asked, ended, strict=True))


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_refused_before_any_work(refused, name):
    answer = refused[name]

    assert (answer.code, answer.out, answer.err) == (2, "", MISTAKES[name].stderr)


def test_steering_at_a_layer_that_the_model_does_not_have_is_refused(refused):
    answer = refused["layer 99"]

    assert (answer.code, answer.out) == (2, "")
    assert answer.err.removeprefix("loading model on cpu\n").startswith(LAYER_99)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_record_is_refused(refused, name):
    answer = refused[name]

    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"error: {name} is not a monitoring record\n")
