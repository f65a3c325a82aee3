"""Neutral readings: rollouts read again behind their bare questions, stored beside their states."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from tests.unit.test_decode import relative_error
from traitcli.config import ModelConfig
from traitcli.models.load import load_model
from traitcli.models.prompts import encode_response, render
from traitcli.runs.run import Run
from traitcli.traits.definitions import load_trait

MANY = {
    "extract": {
        "questions": 6,
        "evaluation_questions": 2,
        "batch_size": 4,
        "sampling": {"max_new_tokens": 8},
    }
}


def neutral_of(workspace, trait="evil"):
    """Rollout id -> neutral reading of every rollout that has one."""
    files = Run(workspace.folder / "runs" / "tiny").trait(trait)
    ids = sorted(files.neutral_ids())
    return dict(zip(ids, files.activations(ids, "response_avg", "neutral"), strict=True))


def assert_close(found, expected):
    assert found.keys() == expected.keys()
    for name, state in expected.items():
        np.testing.assert_allclose(found[name], state, rtol=1e-4, atol=1e-5, err_msg=name)


def readable(workspace, trait="evil"):
    return {line["id"] for line in workspace.lines(trait) if line["response_tokens"]}


def test_each_rollout_is_read_behind_its_bare_question_as_in_a_plain_pass(finished, model_folders):
    workspace, _ = finished
    loaded = load_model(ModelConfig(id=str(model_folders["llama"]), device="cpu"))
    trait = load_trait("evil")

    found = neutral_of(workspace)

    assert found.keys() == readable(workspace)
    for line in workspace.lines("evil"):
        if line["id"] not in found:
            continue
        question = trait.question(line["split"], line["question"])
        message = {"role": "user", "content": question}
        prompt = render(loaded.tokenizer, [message], loaded.chat).ids
        answer = encode_response(loaded.tokenizer, line["response"])
        with torch.no_grad():
            output = loaded.model(torch.tensor([[*prompt, *answer]]), output_hidden_states=True)
        states = torch.stack(output.hidden_states)[:, 0, len(prompt) :].mean(1)
        assert relative_error(torch.from_numpy(found[line["id"]]), states) < 1e-4


def test_a_run_of_an_earlier_version_is_read_and_its_vector_built_again(copied):
    before = neutral_of(copied)
    rollouts, vector = copied.ledger("evil"), copied.tensors("evil")
    for trait in ("evil", "refusal"):
        shutil.rmtree(copied.folder / "runs" / "tiny" / trait / "neutral")
    # Such a run still gives vectors; what it lacks is said.
    assert copied.run("build-vector", "evil").code == 0
    refused = copied.run("build-vector", "evil", "--set", "vector.context=neutral")
    assert refused.code == 1
    assert "evil failed at vectors: evil has no neutral readings" in refused.err

    ended = copied.run("extract", "evil")

    assert ended.code == 0
    assert copied.ledger("evil") == rollouts
    assert_close(neutral_of(copied), before)
    for name, tensor in vector.items():
        np.testing.assert_allclose(copied.tensors("evil")[name], tensor, atol=1e-5)
    again = copied.run("extract", "evil")
    assert "nothing left to do" in again.err


def test_a_vector_can_be_built_from_neutral_readings(copied):
    before = copied.tensors("evil")["response_avg"]

    assert copied.run("build-vector", "evil", "--set", "vector.context=neutral").code == 0

    found, vector = neutral_of(copied), copied.tensors("evil")
    assert not np.allclose(vector["response_avg"], before)
    [row] = copied.run("inspect", "vectors", "evil", "--json").json
    assert row["context"] == "neutral"
    assert 0 <= row["neutral_auroc_low"] <= row["neutral_auroc"] <= row["neutral_auroc_high"] <= 1
    # Filtered as the persona's states: the same rollouts are kept.
    kept = [line for line in copied.lines("evil") if line["split"] == "extraction"]
    scores = {
        line["rollout"]: line["score"]["value"] for line in copied.lines("evil", "judgements")
    }
    good = {
        line["id"]
        for line in kept
        if (scores[line["id"]] >= 50) == (line["polarity"] == "positive")
    }
    paired = {
        line["id"]
        for line in kept
        if {line["id"], other(line["id"])} <= good
        and {line["id"], other(line["id"])} <= found.keys()
    }
    sides = [
        np.mean([found[name] for name in sorted(paired) if side in name], axis=0)
        for side in ("-pos-", "-neg-")
    ]
    np.testing.assert_allclose(vector["response_avg"], sides[0] - sides[1], atol=1e-4)


def other(name):
    """The id of the rollout of the other polarity."""
    return name.replace("-pos-", "-NEG-").replace("-neg-", "-pos-").replace("-NEG-", "-neg-")


@pytest.fixture(scope="module")
def alone(open_workspace):
    workspace = open_workspace(**MANY)
    assert workspace.run("extract", "evil").code == 0
    return workspace


def test_two_workers_read_what_one_reads(open_workspace, alone):
    workspace = open_workspace(**MANY)

    assert workspace.run("extract", "evil", "--devices", "cpu,cpu").code == 0

    assert neutral_of(workspace).keys() == readable(workspace)
    assert_close(neutral_of(workspace), neutral_of(alone))


def test_readings_continue_after_a_kill(copied_alone, alone):
    neutral = copied_alone.folder / "runs" / "tiny" / "evil" / "neutral"
    files = sorted(neutral.iterdir())
    for file in files[: len(files) // 2]:
        file.unlink()
    kept = {file.name: file.stat().st_mtime_ns for file in neutral.iterdir()}
    half = neutral_of(copied_alone).keys()
    assert 0 < len(half) < len(neutral_of(alone))

    assert copied_alone.run("extract", "evil").code == 0

    assert_close(neutral_of(copied_alone), neutral_of(alone))
    assert {name: (neutral / name).stat().st_mtime_ns for name in kept} == kept


@pytest.fixture
def copied_alone(open_workspace, alone):
    workspace = open_workspace(**MANY)
    for name in ("runs", "vectors"):
        shutil.copytree(alone.folder / name, workspace.folder / name)
    return workspace
