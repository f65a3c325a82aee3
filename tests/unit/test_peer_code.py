"""The comparison of code and seconds with other libraries."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.peer_code import (
    BATCH,
    LIBRARIES,
    STEPS,
    CodeResult,
    auroc,
    code_table,
    count_lines,
    read_code,
)

ROOT = Path(__file__).parents[2]


def test_lines_are_counted_without_comments_and_empty_ones():
    assert (
        count_lines("\nimport this\n\n  # why\nfor one in range(3):\n    print(one)  # what\n") == 3
    )


@pytest.mark.parametrize("name", LIBRARIES)
def test_the_code_of_a_library_has_every_step(name):
    steps = set(read_code(name))

    assert steps | {BATCH} == set(STEPS)
    assert (BATCH in steps) == (name != "traitcli")


def test_the_auroc_counts_the_pairs_in_order():
    assert auroc([3.0, 1.0, 2.0, 2.0]) == (2 + 1 + 0.5) / 4


def test_a_library_that_cannot_be_installed_is_a_row_that_says_so():
    lines = {"load": 2, "train": 1, "apply": 2, "score": 1, "save": 2}
    known = CodeResult("traitcli", lines, dict.fromkeys(lines, 0.25), 320, 1.0, "traitcli 1")
    unknown = CodeResult("repeng", lines, note="no matching distribution")

    table = code_table([known, unknown]).splitlines()

    assert "| train | 1 line, 0.25 s | 1 line, not measured |" in table
    assert "| all but the batch | 8 lines, 1.25 s | 8 lines, not measured |" in table
    assert table[-1] == "repeng: no matching distribution"


@pytest.mark.slow
def test_the_work_is_done_as_a_user_would_do_it(model_folders, tmp_path):
    command = [sys.executable, "-m", "benchmarks.peer_code", "--inside", "traitcli"]
    options = ["--model", str(model_folders["llama"]), "--out", str(tmp_path)]

    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, cwd=ROOT, check=False
    )

    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert list(found["seconds"]) == ["load", "train", "apply", "score", "save"]
    assert len(found["scores"]) == 20
    assert found["tokens"] > 0
    assert (tmp_path / "formal.safetensors").is_file()
