"""The memory of a model, found without loading it, and the check of the devices."""

from __future__ import annotations

import json
import shutil

import pytest

import traitcli.scheduling.memory_check as memory_check
from traitcli.config import Config, ModelConfig
from traitcli.errors import ModelError
from traitcli.models.footprint import find_footprint
from traitcli.scheduling.memory_check import check_fit, measure_fit
from traitcli.scheduling.placement import Placement

GIB = 2**30


@pytest.fixture
def config(model_folders):
    return Config(model=ModelConfig(id=str(model_folders["llama"]), device="cpu"))


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen2"])
def test_a_models_weights_are_counted_without_loading_them(model_folders, loaded, family):
    found = find_footprint(ModelConfig(id=str(model_folders[family])))

    model = loaded(family).model
    assert found.weights == sum(p.numel() * 4 for p in model.parameters())
    assert (found.layer_count, found.hidden_size) == (5, 32)


def test_half_the_bytes_a_number_are_half_the_weights(model_folders):
    whole, half = (
        find_footprint(ModelConfig(id=str(model_folders["llama"]), dtype=dtype))
        for dtype in ("float32", "bfloat16")
    )

    assert whole.weights == 2 * half.weights


def test_longer_answers_need_more_and_a_gpu_some_for_itself(model_folders):
    found = find_footprint(ModelConfig(id=str(model_folders["llama"])))

    assert found.weights < found.minimum_bytes("cpu", 100) < found.minimum_bytes("cpu", 10_000)
    assert found.minimum_bytes("cuda:0", 100) - found.minimum_bytes("cpu", 100) == GIB // 2


def test_quantized_weights_are_not_counted(model_folders, tmp_path):
    folder = shutil.copytree(model_folders["llama"], tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"quantization_config": {"quant_method": "gptq"}})
    )

    assert find_footprint(ModelConfig(id=str(folder))).weights == 0


def test_workers_on_the_cpu_share_what_is_free(config, monkeypatch):
    monkeypatch.setattr(memory_check, "free_bytes", lambda device: 8 * GIB)

    assert [fit.found for fit in measure_fit(config, Placement(("cpu", "cpu")))] == [
        4 * GIB,
        4 * GIB,
    ]


def test_a_worker_of_several_devices_has_the_memory_of_all(config, monkeypatch):
    monkeypatch.setattr(memory_check, "free_bytes", lambda device: (device.index + 1) * GIB)
    monkeypatch.setattr(memory_check, "pick_device", lambda name: name)

    [fit] = measure_fit(config, Placement(("cuda:0+cuda:2",), gpus_per_worker=2))

    assert fit.found == 4 * GIB


def test_a_model_that_does_not_fit_is_refused_with_both_sizes(config, monkeypatch):
    monkeypatch.setattr(memory_check, "free_bytes", lambda device: 3 * 2**20)

    with pytest.raises(ModelError) as caught:
        check_fit(config, Placement(("cpu", "cpu", "cpu")))

    assert caught.value.problem.endswith(" does not fit on cpu")
    assert "GiB; free: 0.0 GiB on cpu" in caught.value.cause
    assert "--gpus-per-worker" in caught.value.fix


def test_the_memory_of_another_machine_is_not_checked_here(config):
    assert [
        fit.found for fit in measure_fit(config, Placement(("ray-0", "ray-1"), scheduler="ray"))
    ] == [None, None]
