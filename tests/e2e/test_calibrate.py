"""calibrate, and the alarms that use its thresholds, with a tiny model."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.conftest import CommandResult

SENTENCE = "the answer to this is that a pin turns in a lock while it rains on every house"
ALL = ("--traits", "evil,refusal")


def write_texts(path: Any, count: int, seed: int) -> None:
    """Answers of random words, of 10 tokens or more."""
    rng = random.Random(seed)
    lines = [
        json.dumps({"prompt": "Why?", "response": " ".join(rng.choices(SENTENCE.split(), k=30))})
        for _ in range(count)
    ]
    path.write_text("\n".join(lines), encoding="utf-8")


@pytest.fixture(scope="module")
def folder(open_workspace: Callable[..., Any], finished: tuple[Any, CommandResult]) -> Any:
    """A workspace with vectors, benign texts, and the texts of another source."""
    workspace = open_workspace()
    shutil.copytree(finished[0].folder / "vectors", workspace.folder / "vectors")
    for name, count, seed in (
        ("benign.jsonl", 400, 0),
        ("others.jsonl", 400, 1),
        ("few.jsonl", 80, 2),
    ):
        write_texts(workspace.folder / name, count, seed)
    return workspace


@pytest.fixture(scope="module")
def calibrated(folder: Any) -> CommandResult:
    return folder.run("calibrate", "benign.jsonl", "--check", "others.jsonl", "--json", *ALL)


def stored(folder: Any, trait: str) -> Any:
    [path] = (folder.folder / "vectors").rglob(f"{trait}.thresholds.json")
    return json.loads(path.read_text(encoding="utf-8"))


def test_thresholds_are_stored_beside_each_vector_and_printed(folder, calibrated):
    assert calibrated.code == 0, calibrated.err
    rows = calibrated.json["thresholds"]

    assert {row["trait"] for row in rows} == {"evil", "refusal"}
    assert {row["fpr"] for row in rows} == {0.01, 0.05}
    assert {row["summary"] for row in rows} >= {"rolling mean of 8", "mean", "highest token"}
    assert len(stored(folder, "evil")["points"]) == len(rows) / 2
    assert stored(folder, "evil")["source"] == "benign.jsonl"
    for row in rows:
        assert row["low"] <= row["threshold"] <= row["high"]


def test_the_check_says_whether_texts_of_another_source_meet_the_rate(calibrated):
    checks = calibrated.json["checks"]

    # Both files hold random words from one list.
    rolling = [
        row for row in checks if row["summary"] == "rolling mean of 8" and row["fpr"] == 0.05
    ]
    assert [(row["texts"], row["outcome"]) for row in rolling] == [(400, "holds")] * 2


@pytest.mark.parametrize("unit", [(), ("--raw",)], ids=["calibrated", "raw"])
@pytest.mark.parametrize("rule", ["evil@fpr=5%", "mean(evil)@fpr=5%"])
def test_a_rule_with_a_rate_fails_on_as_many_texts_as_it_says(folder, calibrated, rule, unit):
    ended = folder.run(
        "monitor", "--input", "benign.jsonl", "--fail-on", rule, "--traits", "evil", "--json", *unit
    )

    failed = sum(bool(record["alarms"]) for record in ended.json_lines)
    assert ended.code == 3, ended.err
    # Of the texts that were calibrated on, 5 % are above but for the interpolation between lengths.
    assert 12 <= failed <= 28


def test_stop_on_takes_the_threshold_of_the_longest_answer(folder, calibrated):
    ended = folder.run("monitor", "Why?", "--stop-on", "evil@fpr=1%", "--json")

    assert ended.code == 0, ended.err


def test_a_rate_that_was_not_measured_is_refused_before_the_model_is_loaded(folder, calibrated):
    ended = folder.run("monitor", "Why?", "--fail-on", "evil@fpr=0.1%")

    assert ended.code != 0
    assert "there is no threshold of evil at fpr=0.1%" in ended.err
    assert "loading" not in ended.err


def test_the_thresholds_of_a_vector_that_was_built_again_are_refused(folder, calibrated):
    [path] = (folder.folder / "vectors").rglob("refusal.thresholds.json")
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(stored(folder, "refusal")["fingerprint"], "0" * 64))

    ended = folder.run("monitor", "Why?", "--fail-on", "refusal@fpr=1%")

    path.write_text(text)
    assert ended.code != 0
    assert "cause: the vector was built again after they were measured" in ended.err
    assert "fix:   measure them again: traitcli calibrate FILE" in ended.err


def test_a_rate_with_too_few_texts_is_said_and_not_stored(folder, tmp_path):
    shutil.copytree(folder.folder / "vectors", tmp_path / "vectors")
    for path in (tmp_path / "vectors").rglob("*.thresholds.json"):
        path.unlink()

    options = ("--vectors", str(tmp_path / "vectors"), *ALL)
    # In a fresh interpreter, which has imported nothing that this command forgets to import.
    ended = folder.run("calibrate", "few.jsonl", *options, PYTHONFAULTHANDLER="1")

    assert ended.code == 0, ended.err
    assert "no threshold for a false-positive rate of 1%: it needs 368 texts" in ended.err
    [path] = (tmp_path / "vectors").rglob("evil.thresholds.json")
    assert {one["rate"] for one in json.loads(path.read_text())["points"]} == {0.05}
    assert "5%" in ended.out
    assert " 1% " not in ended.out


@pytest.mark.parametrize("rates", ["0%", "50%", "x", "1%,", "2", "-1%"])
def test_a_rate_that_is_none_is_refused(folder, rates):
    ended = folder.run("calibrate", "benign.jsonl", f"--fpr={rates}")

    assert (ended.code, f"invalid --fpr {rates}" in ended.err) == (2, True)
