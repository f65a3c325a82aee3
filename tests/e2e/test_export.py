"""build-vector --export: files for other tools, and their paths on stdout."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
import torch
from gguf import GGUFReader

POSITIONS = ("response_avg", "prompt_avg", "prompt_last")
COMMANDS = {
    "all": ["--export", "gguf", "--export", "pt", "--out", "exported"],
    "one": ["evil", "--export", "safetensors", "--out", "exported"],
    "json": ["evil", "--export", "gguf", "--json"],
    "csv": ["evil", "--export", "csv", "--out", "rollouts"],
    "steered": ["evil", "--export", "vllm-lens", "--export", "lm-eval", "--out", "steered"],
    "no export": ["evil", "--out", "nowhere"],
    "no folder": ["evil", "--export", "gguf", "--out", "tiny.yaml"],
    "no such format": ["evil", "--export", "npz"],
}


@pytest.fixture(scope="module")
def exported(open_workspace, finished):
    """A finished run with the results of COMMANDS, and the files in `vectors` before them."""
    workspace = open_workspace()
    for name in ("runs", "vectors"):
        shutil.copytree(finished[0].folder / name, workspace.folder / name)
    before = workspace.files("vectors")
    ended = workspace.run_all(
        [["build-vector", *command, "--config", "tiny.yaml"] for command in COMMANDS.values()]
    )
    return workspace, dict(zip(COMMANDS, ended, strict=True)), before


def test_existing_vectors_are_exported_and_stdout_contains_only_their_paths(
    exported,
):
    workspace, ended, _ = exported

    expected = [
        path
        for trait in ("evil", "refusal")
        for path in (
            f"exported/{trait}_response_avg.gguf",
            *(f"exported/{trait}_{name}_diff.pt" for name in POSITIONS),
        )
    ]
    assert (ended["all"].code, ended["all"].out.splitlines()) == (0, expected)
    assert sorted(workspace.files("exported")) == sorted([*expected, "exported/evil.safetensors"])


def test_the_exported_files_contain_the_vector(exported):
    workspace, ended, _ = exported

    tensors, export_folder = workspace.tensors("evil"), workspace.folder / "exported"
    for position in POSITIONS:
        written = torch.load(export_folder / f"evil_{position}_diff.pt", weights_only=True).numpy()
        np.testing.assert_array_equal(written, tensors[position], strict=True)
    directions = {
        t.name: np.array(t.data)
        for t in GGUFReader(export_folder / "evil_response_avg.gguf").tensors
    }
    assert list(directions) == ["direction.1", "direction.2"]
    np.testing.assert_array_equal(
        directions["direction.1"], tensors["response_avg"][2], strict=True
    )
    assert (ended["one"].code, ended["one"].out) == (0, "exported/evil.safetensors\n")
    assert (export_folder / "evil.safetensors").read_bytes() == (
        workspace.folder / "vectors/model/evil.safetensors"
    ).read_bytes()


def test_files_that_steer_other_tools_hold_the_layer_of_the_vector(exported):
    workspace, ended, _ = exported

    row = next(r for r in ended["json"].json["vectors"] if r["trait"] == "evil")
    layer, direction = row["layer"], workspace.tensors("evil")["response_avg"]
    assert ended["steered"].out.splitlines() == [
        "steered/evil_response_avg.json",
        "steered/evil_response_avg_steered.pt",
    ]
    folder = workspace.folder / "steered"
    (lens,) = json.loads((folder / "evil_response_avg.json").read_text(encoding="utf-8"))
    steered = torch.load(folder / "evil_response_avg_steered.pt", weights_only=True)
    assert lens["layer_indices"] == [layer - 1]
    assert list(steered) == [f"layers.{layer - 1}"]
    np.testing.assert_array_equal(
        steered[f"layers.{layer - 1}"]["steering_vector"].numpy(), direction[layer], strict=True
    )


def test_without_out_exports_are_next_to_the_vectors_and_json_lists_them(exported):
    workspace, ended, before = exported

    assert ended["json"].json["exported"] == ["vectors/model/evil_response_avg.gguf"]
    assert [row["trait"] for row in ended["json"].json["vectors"]] == ["evil"]
    after = workspace.files("vectors")
    assert set(after) - set(before) == {"vectors/model/evil_response_avg.gguf"}
    assert before.items() <= after.items()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("no export", "error: --out has no effect without --export"),
        ("no folder", "error: cannot write to tiny.yaml"),
        ("no such format", "npz"),
    ],
)
def test_an_impossible_export_is_refused_before_any_work(exported, command, message):
    workspace, ended, _ = exported

    assert (ended[command].code, ended[command].out) == (2, "")
    assert message in ended[command].err
    assert not (workspace.folder / "nowhere").exists()


def test_new_vectors_are_exported_at_the_configured_position_except_failed_traits(
    copied,
):
    old = copied.tensors("evil")["prompt_avg"]
    shutil.rmtree(copied.folder / "runs" / "tiny" / "refusal" / "activations")

    ended = copied.run(
        "build-vector",
        "--threshold",
        "65",
        "--set",
        "vector.position=prompt_avg",
        "--export",
        "gguf",
    )

    new = copied.tensors("evil")["prompt_avg"]
    assert (ended.code, ended.out) == (1, "vectors/model/evil_prompt_avg.gguf\n")
    exported = np.array(GGUFReader(copied.folder / ended.out.strip()).tensors[0].data)
    np.testing.assert_array_equal(exported, new[2])
    assert not np.array_equal(exported, old[2])


def test_rollouts_are_exported_in_the_layout_of_the_persona_vectors_work(exported):
    workspace, ended, _ = exported

    assert ended["csv"].out.splitlines() == [
        "rollouts/evil_pos_instruct.csv",
        "rollouts/evil_neg_instruct.csv",
    ]
    for side in ("pos", "neg"):
        with (workspace.folder / "rollouts" / f"evil_{side}_instruct.csv").open(
            encoding="utf-8", newline=""
        ) as file:
            rows = list(csv.DictReader(file))
        written = [
            r
            for r in workspace.lines("evil")
            if r["split"] == "extraction" and r["polarity"][:3] == side
        ]
        assert list(rows[0]) == ["question", "prompt", "answer", "question_id", "evil", "coherence"]
        assert sorted((row["prompt"], row["answer"]) for row in rows) == sorted(
            (r["prompt"], r["response"]) for r in written
        )
