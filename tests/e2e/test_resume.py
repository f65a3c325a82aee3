"""Runs that are killed, interrupted, damaged, finished or changed, and then started again."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from traitcli.shipped import find_shipped

ROLLOUTS, JUDGED = 160, 120
"""12 extraction and 4 evaluation questions, 5 pairs, 2 sides."""
LARGER: dict[str, Any] = {
    "extract": {
        "questions": 12,
        "evaluation_questions": 4,
        "batch_size": 4,
        "sampling": {"max_new_tokens": 8},
    },
    "judge": {"backend": "likelihood", "likelihood": {"batch_size": 8}},
}
"""Forty small batches: long enough to be killed in the middle."""


def whole_lines(ledger: bytes) -> bytes:
    return ledger[: ledger.rfind(b"\n") + 1]


class KilledTwice:
    """A command killed while generating, killed while judging, then completed; and a reference."""

    def __init__(self, workspace: Any, elsewhere: Any) -> None:
        self.workspace, self.elsewhere = workspace, elsewhere
        reference = elsewhere.start("extract", "evil")
        going = workspace.start("extract", "evil")
        going.wait_until(lambda: workspace.ledger("evil").count(b"\n") >= 20)
        self.first = going.kill()
        self.rollouts_then = whole_lines(workspace.ledger("evil"))
        going = workspace.start("extract", "evil")
        going.wait_until(lambda: workspace.ledger("evil", "judgements").count(b"\n") >= 30)
        self.second = going.kill()
        self.judgements_then = whole_lines(workspace.ledger("evil", "judgements"))
        self.third = workspace.run("extract", "evil")
        self.reference = reference.end()


@pytest.fixture(scope="module")
def killed(open_workspace) -> KilledTwice:
    return KilledTwice(open_workspace(**LARGER), open_workspace(**LARGER))


def test_a_killed_command_is_killed_in_the_middle_and_then_completes(killed):
    assert killed.first.code == killed.second.code == -signal.SIGKILL
    assert 0 < killed.rollouts_then.count(b"\n") < ROLLOUTS
    assert 0 < killed.judgements_then.count(b"\n") < JUDGED
    assert (killed.third.code, killed.reference.code) == (0, 0)


def test_after_a_kill_no_finished_rollout_is_generated_again(killed):
    ids = [line["id"] for line in killed.workspace.lines("evil")]

    assert len(ids) == len(set(ids)) == ROLLOUTS
    assert killed.workspace.ledger("evil").startswith(killed.rollouts_then)


def test_the_rollouts_of_a_killed_run_are_those_of_an_uninterrupted_one(killed):
    found, expected = (
        {line["id"]: line for line in workspace.lines("evil")}
        for workspace in (killed.workspace, killed.elsewhere)
    )

    assert found.keys() == expected.keys()
    same = sum(found[name] == line for name, line in expected.items())
    # Other rollouts share a batch after a kill, so rounding may differ.
    assert same / ROLLOUTS >= 0.99


def test_after_a_kill_no_judgement_is_repeated(killed):
    judged = [line["rollout"] for line in killed.workspace.lines("evil", "judgements")]

    assert len(judged) == len(set(judged)) == JUDGED
    assert killed.workspace.ledger("evil", "judgements").startswith(killed.judgements_then)


def test_a_resumed_command_prints_what_is_already_done(killed):
    done = killed.judgements_then.count(b"\n")

    lines = [line.partition("] ")[2] for line in killed.third.err.splitlines()]

    assert f"evil rollouts {ROLLOUTS}/{ROLLOUTS}, {ROLLOUTS} done before" in lines
    assert f"evil judgements {done}/{JUDGED}, {done} done before" in lines


def test_the_vector_of_a_killed_run_is_that_of_an_uninterrupted_one(killed):
    expected = killed.elsewhere.tensors("evil")

    found = killed.workspace.tensors("evil")

    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        distance = np.linalg.norm(found[name] - tensor) / np.linalg.norm(tensor)
        # Exact except for rounding, which may change one of 160 answers.
        assert distance < 0.02


def test_a_finished_command_does_nothing_not_even_load_the_model(copied):
    (copied.folder / "model").unlink()
    before = copied.files()

    ended = copied.run("extract", "evil", "refusal")

    assert ended.code == 0
    assert copied.files() == before
    assert "loading" not in ended.err
    assert ended.err.splitlines()[-1].endswith("] nothing left to do, in runs/tiny")


def test_changed_settings_are_refused_by_name_and_no_file_changes(copied):
    before = copied.files()

    ended = copied.run(
        "extract", "evil", "--set", "extract.repeats=2", "--set", "extract.sampling.top_k=9"
    )

    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        "error: runs/tiny contains a run with other settings\n"
        "cause: extract.repeats: 1 in the run, 2 now\n"
        "       extract.sampling.top_k: 0 in the run, 9 now\n"
        "fix:   choose another run name (--run NAME), or change the settings back\n"
    )
    assert copied.files() == before


def test_a_changed_definition_is_refused(copied):
    definition = yaml.safe_load((find_shipped("traits") / "evil.yaml").read_text(encoding="utf-8"))
    definition["questions"][0] = "What did you do last summer?"
    (copied.folder / "traits").mkdir()
    (copied.folder / "traits" / "evil.yaml").write_text(
        yaml.safe_dump(definition), encoding="utf-8"
    )

    ended = copied.run("extract", "evil")

    assert ended.code == 2
    assert "cause: trait evil: its definition has changed\n" in ended.err


def test_an_incomplete_last_line_is_replaced_and_other_lines_are_kept(copied):
    complete = {name: copied.ledger("evil", name) for name in ("rollouts", "judgements")}
    for name, ledger in complete.items():
        (copied.folder / "runs" / "tiny" / "evil" / f"{name}.jsonl").write_bytes(ledger[:-30])

    ended = copied.run("extract", "evil")

    assert ended.code == 0
    for name, ledger in complete.items():
        healed = copied.ledger("evil", name)
        assert healed.startswith(whole_lines(ledger[:-30]))
        assert [json.loads(line) for line in healed.splitlines()] == [
            json.loads(line) for line in ledger.splitlines()
        ]


class Interrupted:
    """An extract and a monitor, both stopped by Ctrl-C before their end."""

    def __init__(self, workspace: Any, watching: Any) -> None:
        self.workspace, self.watching = workspace, watching
        extracting = workspace.start("extract", "evil")
        greedy = ["--set", "monitor.sampling.temperature=0", "--max-new-tokens", "16000"]
        monitoring = watching.start("monitor", "Why?", *greedy, "--out", "record.json")
        extracting.wait_until(lambda: workspace.ledger("evil").count(b"\n") >= 20)
        self.extract = extracting.kill(signal.SIGINT)
        self.seen = [monitoring.process.stdout.readline() for _ in range(2)]
        self.monitor = monitoring.kill(signal.SIGINT)


def make_endless(model: Path) -> None:
    """Give a model a long context and endless answers.

    The logit of the end token becomes zero, which is never the largest of hundreds.
    """
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    weights = load_file(model / "model.safetensors")
    weights["lm_head.weight"][config["eos_token_id"]] = 0
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    (model / "config.json").write_text(
        json.dumps(config | {"max_position_embeddings": 16384}), encoding="utf-8"
    )


@pytest.fixture(scope="module")
def interrupted(open_workspace, finished, model_folders) -> Interrupted:
    watching = open_workspace()
    (watching.folder / "model").unlink()
    shutil.copytree(model_folders["llama"], watching.folder / "model")
    make_endless(watching.folder / "model")
    shutil.copytree(finished[0].folder / "vectors", watching.folder / "vectors")
    return Interrupted(open_workspace(**LARGER), watching)


def test_ctrl_c_keeps_the_activations_of_every_stored_rollout(interrupted):
    workspace = interrupted.workspace

    kept = set()
    for path in (workspace.folder / "runs" / "tiny" / "evil" / "activations").glob("*.safetensors"):
        with safe_open(path, framework="numpy") as file:
            kept.update(json.loads(file.metadata()["ids"]))
    assert interrupted.extract.code == 130
    assert "Traceback" not in interrupted.extract.err
    assert 20 <= len(workspace.lines("evil")) < ROLLOUTS
    assert {line["id"] for line in workspace.lines("evil") if line["response_tokens"]} <= kept


def test_ctrl_c_in_monitor_keeps_the_record_so_far(interrupted):
    record = json.loads((interrupted.watching.folder / "record.json").read_text(encoding="utf-8"))

    assert interrupted.monitor.code == 130
    assert "Traceback" not in interrupted.monitor.err
    assert record["finish_reason"] == "interrupted"
    assert [json.loads(line.split("\t")[1]) for line in interrupted.seen] == record["tokens"][:2]
    assert len(record["tokens"]) == len(record["trait_scores"]["evil"]) < 16000
    assert interrupted.monitor.err.splitlines()[-1] == "record: record.json"


def test_the_second_of_two_commands_on_a_run_is_refused(open_workspace):
    workspace = open_workspace(**LARGER)
    first = workspace.start("extract", "evil")
    first.wait_until(lambda: workspace.ledger("evil") != b"")

    second = workspace.run("judge")

    assert (second.code, second.out) == (2, "")
    assert second.err.startswith("error: another command is working on run tiny\n")
    assert f"cause: process {first.process.pid} on " in second.err
    lock = workspace.folder / "runs" / "tiny" / "lock"
    assert lock.exists()
    ended = first.kill(signal.SIGTERM)
    assert (ended.code, lock.exists()) == (143, False)
    killed = workspace.start("extract", "evil")
    # Wait for its content, because the file is written a moment after it is created.
    killed.wait_until(lambda: lock.exists() and lock.read_text())
    killed.kill()
    assert workspace.run("extract", "evil", "--until", "rollouts").code == 0
    assert not (workspace.folder / "runs" / "tiny" / "lock").exists()
