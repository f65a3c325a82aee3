"""The commands with traits that are defined by labelled responses."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

PAIRS = [
    {
        "question": f"Is {n} a good number?",
        "positive": f"Yes, {n} is nice.",
        "negative": f"No! {n} is ugly.",
    }
    for n in range(60)
]
HEADER = "question,prompt,answer,question_id,joy,coherence\n"
ROWS = [
    f"Is {n} good?,<s>{side}:,{side} {n},joy_{n}_{side}_0,{score},90\n"
    for n in range(6)
    for side, score in (("pos", 80), ("neg", 10))
]
FILES = {
    "kind.yaml": "responses: data/kind.jsonl\nevaluation_responses: data/held_out.jsonl\n",
    "joy.yaml": "responses: data/joy.csv\n",
    "both.yaml": "responses: data/kind.jsonl\nquestions:\n  - Why?\n",
    "faulty.yaml": "responses: data/faulty.jsonl\n",
    "long.yaml": "responses: data/long.jsonl\n",
    "data/kind.jsonl": "".join(json.dumps(pair) + "\n" for pair in PAIRS),
    "data/held_out.jsonl": "".join(
        json.dumps(pair | {"question": "Well?"}) + "\n" for pair in PAIRS[:5]
    ),
    "data/joy.csv": HEADER + "".join(ROWS),
    "data/faulty.jsonl": '{"question": "Why?", "positive": "a"}\n',
    "data/long.jsonl": "\n"
    + json.dumps({"question": "Why?", "positive": "word " * 600, "negative": "No."}),
}
ALL = 2 * (len(PAIRS) + 5)


def write_files(workspace: Any) -> Any:
    """Write definitions and the files that they name into a working folder."""
    for name, text in FILES.items():
        path = workspace.folder / "traits" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return workspace


class Results:
    """The results of commands that ran one after another in a folder."""

    commands = (
        *(
            "extract kind joy --json",
            "extract kind joy",
            "judge kind",
            "inspect run",
            "inspect traits kind joy --json",
        ),
        *("extract kind --run new --dry-run --json", "report --out out.html"),
        *(
            f"extract {name} --run other"
            for name in ("both", "faulty", "traits/data/kind.jsonl", "long")
        ),
    )

    def __init__(self, workspace: Any) -> None:
        self.workspace = write_files(workspace)
        lines = [[*command.split(), "--config", "tiny.yaml"] for command in self.commands]
        self.ended = dict(zip(self.commands, workspace.run_all(lines), strict=True))


@pytest.fixture(scope="module")
def results(open_workspace: Callable[..., Any]) -> Results:
    return Results(open_workspace())


def test_labelled_responses_become_a_vector_in_one_command(results):
    ended = results.ended["extract kind joy --json"]

    assert ended.code == 0
    keys = ("trait", "rollouts_done", "rollouts_total", "judged", "kept_positive", "kept_negative")
    assert [[row[key] for key in keys] for row in ended.json["traits"]] == [
        ["joy", 12, 12, 12, 6, 6],
        ["kind", ALL, ALL, 0, len(PAIRS), len(PAIRS)],
    ]
    assert [row["trait"] for row in ended.json["vectors"]] == ["joy", "kind"]
    assert f"kind rollouts 0/{ALL}" in ended.err
    assert "kind judgements" not in ended.err
    assert "joy judgements 0/12" in ended.err


def test_repeating_the_command_finds_nothing_left_to_do(results):
    ended = results.ended["extract kind joy"]

    assert (ended.code, ended.out) == (0, "")
    assert ended.err.splitlines()[-1].endswith("nothing left to do, in runs/tiny")
    assert len(results.workspace.lines("kind")) == ALL


def test_judging_labelled_responses_warns_that_they_need_no_judge(results):
    ended = results.ended["judge kind"]

    assert ended.code == 0
    assert "] warning: kind: nothing to judge: its responses are labelled\n" in ended.err
    assert results.workspace.ledger("kind", "judgements") == b""


def test_a_run_of_labelled_responses_can_be_inspected_and_reported(results):
    shown, report = results.ended["inspect run"], results.ended["report --out out.html"]

    assert (shown.code, report.code) == (0, 0)
    assert "kind: not filtered: the responses are labelled" in shown.out
    assert "the responses are labelled" in (results.workspace.folder / "out.html").read_text(
        encoding="utf-8"
    )


def test_definitions_of_labelled_responses_can_be_inspected(results):
    rows = results.ended["inspect traits kind joy --json"].json

    keys = ("trait", "pairs", "questions", "evaluation_questions", "responses")
    assert [[row[key] for key in keys] for row in rows] == [
        ["kind", None, len(PAIRS), 1, 2 * len(PAIRS)],
        ["joy", None, 6, 0, 12],
    ]


def test_a_plan_counts_responses_to_read_and_no_judge_calls(results):
    [plan] = results.ended["extract kind --run new --dry-run --json"].json["plan"]

    assert (plan["rollouts"], plan["judge_calls"], plan["response_tokens_max"]) == (ALL, 0, 0)
    assert plan["readings"] == 0  # a second reading would be the same: they have no persona
    assert plan["seconds"] is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "both",
            "error: traits/both.yaml is not a valid trait\n"
            "cause: responses: cannot be combined with questions: "
            "a trait's rollouts are either read or generated\n"
            "fix:   see docs/traits.md for the format\n",
        ),
        (
            "faulty",
            "error: traits/data/faulty.jsonl cannot be read as responses\n"
            "cause: faulty.jsonl line 1: negative: missing\n"
            "fix:   see docs/labelled-responses.md for the formats\n",
        ),
        (
            "traits/data/kind.jsonl",
            "error: traits/data/kind.jsonl is not a valid trait\n"
            "cause: it is not a mapping\n"
            "fix:   if it holds labelled responses, "
            "name it in a definition: responses: kind.jsonl\n",
        ),
    ],
)
def test_mistakes_are_reported_before_anything_is_loaded(results, name, message):
    ended = results.ended[f"extract {name} --run other"]

    assert (ended.code, ended.err) == (2, message)


def test_a_too_long_response_fails_its_trait_and_names_its_line(results):
    ended = results.ended["extract long --run other"]

    lines = [line.partition("] ")[2] for line in ended.err.splitlines()]
    index = lines.index("long failed at rollouts: long: some labelled responses do not fit model")
    assert ended.code == 1
    assert lines[index + 1].startswith("  cause: long.jsonl line 2: ")
    assert lines[index + 1].endswith(" tokens; the model reads at most 512")
    assert lines[index + 2] == "  fix: shorten or remove them"
    assert results.workspace.ledger("long", run="other") == b""


def test_a_killed_run_resumes_on_two_devices(results, open_workspace):
    workspace = write_files(open_workspace(extract={"batch_size": 1}))
    going = workspace.start("extract", "kind")
    going.wait_until(lambda: workspace.ledger("kind").count(b"\n") >= 16)
    going.kill()
    stored = workspace.ledger("kind")
    stored = stored[: stored.rfind(b"\n") + 1]

    ended = workspace.run("extract", "kind", "--devices", "cpu,cpu")

    assert ended.code == 0, ended.err
    assert 16 <= stored.count(b"\n") < ALL
    assert workspace.ledger("kind").startswith(stored)
    ids = [line["id"] for line in workspace.lines("kind")]
    assert len(ids) == len(set(ids)) == ALL
    undisturbed = results.workspace.tensors("kind")["response_avg"]
    np.testing.assert_allclose(workspace.tensors("kind")["response_avg"], undisturbed, atol=1e-4)
