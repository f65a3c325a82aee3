"""Incomplete model folders are refused with a three-line error and get no random weights."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from traitcli.config import ModelConfig
from traitcli.errors import ModelError
from traitcli.models.devices import pick_dtype
from traitcli.models.footprint import find_footprint
from traitcli.models.load import load_model

NEEDS = (
    "check the id, the folder or your access to the hub; "
    "a folder needs config.json, weights and a tokenizer"
)


@pytest.fixture
def folder(model_folders, tmp_path):
    """A copy of the tiny Llama that a test may damage."""
    return shutil.copytree(model_folders["llama"], tmp_path / "model")


def refusal_of(folder) -> ModelError:
    with pytest.raises(ModelError) as caught:
        load_model(ModelConfig(id=str(folder), device="cpu"))
    return caught.value


def test_a_folder_without_a_config_is_not_a_model_folder(tmp_path):
    error = refusal_of(tmp_path)

    assert (
        str(error)
        == f"error: {tmp_path} is not a model folder\ncause: it has no config.json\nfix:   {NEEDS}"
    )


def test_a_folder_without_a_config_has_no_shape(tmp_path):
    with pytest.raises(ModelError, match="is not a model folder"):
        find_footprint(ModelConfig(id=str(tmp_path)))


def test_weights_that_were_cut_off_are_refused(folder):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])

    error = refusal_of(folder)

    assert error.problem == f"cannot load the model {folder}"
    assert (
        error.cause
        == "Error while deserializing header: incomplete metadata, file not fully covered"
    )


def test_missing_weights_are_not_replaced_by_random_ones(folder):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(
        json.dumps(config | {"num_hidden_layers": 5}), encoding="utf-8"
    )

    error = refusal_of(folder)

    assert error.cause == (
        "9 weights are missing: model.layers.4.input_layernorm.weight, "
        "model.layers.4.mlp.down_proj.weight, …"
    )


def test_a_folder_without_a_tokenizer_is_refused_with_a_whole_sentence(folder):
    for path in folder.glob("tokenizer*"):
        path.unlink()

    error = refusal_of(folder)

    assert error.problem == f"{folder} has no tokenizer"
    assert error.cause == f"no tokenizer.json, tokenizer.model or vocabulary is in {folder}"


@pytest.mark.parametrize(
    ("device", "has_bfloat16", "own", "picked"),
    [
        ("cuda:1", True, torch.float16, torch.bfloat16),
        ("cuda", False, torch.float16, torch.float16),
        ("cuda", False, torch.bfloat16, torch.float32),
        ("cuda", False, None, torch.float32),
        ("cpu", True, torch.bfloat16, torch.float32),
        ("mps", True, torch.float16, torch.float32),
    ],
)
def test_the_dtype_suits_the_device_and_the_weights(monkeypatch, device, has_bfloat16, own, picked):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16)

    assert pick_dtype("auto", device, own) == picked
    assert pick_dtype("float16", device, own) == torch.float16
