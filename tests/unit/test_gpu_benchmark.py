"""The GPU benchmark: all of it on tiny models, and how it goes on after a failed part."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest

from benchmarks.gpu_parts import NotThereError, PartResult, Parts

ROOT = Path(__file__).parents[2]
NEEDS_CUDA = {
    "synchronisations",
    "CUDA graph at batch 1",
    "CUDA graph at batch 4",
    "memory of short answers",
    "memory of long answers",
    "lack of memory",
}


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    """Parts within 100 seconds, by a clock that goes on by one second at each look."""
    seconds = count()
    made = Parts(tmp_path / "parts.jsonl", 100, clock=lambda: next(seconds))
    made.subject = "model"
    return made


def read_lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
def test_all_parts_run_on_tiny_models_and_what_they_check_is_right(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--device", "cpu"]

    done = subprocess.run(
        [*command, "--out", str(tmp_path)], capture_output=True, text=True, cwd=ROOT, check=False
    )

    lines = read_lines(tmp_path / "gpu.jsonl")
    ended = {
        (line["subject"], line["part"]): (line["outcome"], line["reason"])
        for line in lines
        if "outcome" in line
    }
    not_done = {key: value for key, value in ended.items() if value[0] != "done"}
    assert {part for _, part in not_done} == NEEDS_CUDA, done.stdout + done.stderr
    assert {outcome for outcome, _ in not_done.values()} == {"not there"}
    assert len(ended) == 62
    assert done.returncode == 0
    for line in lines:
        if "measure" in line:
            assert str(line["measure"]) in done.stdout


def test_a_part_that_fails_says_why_and_the_next_one_runs(parts, tmp_path, capsys):
    def fail() -> None:
        raise RuntimeError("no such kernel")

    parts.run("first", 0, fail)
    parts.run("second", 0, lambda: parts.found("a step", 1.23456, "ms"))

    assert parts.results == [
        PartResult("model", "first", "failed", "RuntimeError: no such kernel"),
        PartResult("model", "second", "done"),
    ]
    failed, found, done = read_lines(tmp_path / "parts.jsonl")
    assert failed["traceback"][-1] == "RuntimeError: no such kernel"
    assert (found["measure"], found["value"], found["unit"]) == ("a step", 1.23456, "ms")
    assert done["outcome"] == "done"
    shown = capsys.readouterr().out.splitlines()
    assert "  failed: RuntimeError: no such kernel" in shown
    assert f"  {'a step':60} 1.235 ms" in shown


@pytest.mark.parametrize("value", [0.2, float("nan")])
def test_a_number_beyond_its_limit_makes_a_part_wrong(parts, value):
    parts.run("states", 0, lambda: parts.at_most("error", value, 0.1))

    assert parts.results == [
        PartResult("model", "states", "wrong", f"error: {value}, must be at most 0.1")
    ]


def test_a_part_that_needs_more_time_than_is_left_is_left_out(parts):
    ran = []

    parts.run("long", 1000, lambda: ran.append("long"))
    parts.run("short", 1, lambda: ran.append("short"))

    assert ran == ["short"]
    assert [result.outcome for result in parts.results] == ["no time", "done"]


def test_a_part_that_the_machine_cannot_run_is_no_failure(parts):
    def refuse() -> None:
        raise NotThereError("no CUDA graphs on cpu")

    parts.run("graph", 0, refuse)

    assert parts.results == [PartResult("model", "graph", "not there", "no CUDA graphs on cpu")]
