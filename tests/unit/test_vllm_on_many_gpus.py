"""vLLM and the model that reads share several GPUs, and what is left of their memory."""

from __future__ import annotations

import json
import os
import shutil
import threading

import pytest

import traitcli.generation.batch_size as batch_size_module
from tests.sim_device import simulated
from tests.sim_models import spread_over_two
from tests.unit.test_likelihood import TRAIT
from tests.unit.test_worker import Inbox, rollouts_in
from tests.vllm_stand_in import install
from traitcli.config import Config, ExtractConfig, ModelConfig, SamplingConfig
from traitcli.events import ModelLoading
from traitcli.generation.batch_size import choose_read_size, estimate_size
from traitcli.generation.vllm import check_vllm, gpus_of
from traitcli.pipeline.messages import (
    GenerateTask,
    RolloutsMade,
    RunFailed,
    StoppedError,
    StopRequest,
    TaskEnded,
)
from traitcli.pipeline.plan import plan_rollouts
from traitcli.scheduling.local import _hide_other_gpus
from traitcli.scheduling.worker import WorkerLoop, create_worker, run_worker, visible_devices

GIB = 2**30


@pytest.fixture
def config(model_folders):
    sampling = SamplingConfig(temperature=0, max_new_tokens=6)
    return Config(
        model=ModelConfig(id=str(model_folders["llama"])),
        extract=ExtractConfig(engine="vllm", sampling=sampling),
    )


@pytest.fixture
def task(config):
    return GenerateTask(TRAIT, tuple(plan_rollouts(TRAIT, config.extract)))


def with_heads(folder, target, heads, kv_heads):
    """A model without weights: to load it is an error."""
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors"))
    whole = json.loads((folder / "config.json").read_text())
    changed = {"num_attention_heads": heads, "num_key_value_heads": kv_heads}
    changed |= {"hidden_size": 8 * heads, "head_dim": 8}
    (target / "config.json").write_text(json.dumps(whole | changed))
    return target


def spread_worker(config, loaded, gpus, send):
    """The worker that --gpus-per-worker makes, with its model on two pretend devices."""
    worker = create_worker(config, visible_devices(gpus), False, send)
    worker._models[worker.config] = spread_over_two(loaded)
    return worker


@simulated(logs=False)
def test_a_spread_worker_gives_vllm_all_its_gpus_and_reads_on_both(
    config, task, loaded, monkeypatch
):
    vllm = install(monkeypatch, loaded("llama"), [(60, 80), (20, 80)])
    alone, spread = [], []
    one = create_worker(config, "cuda:0", False, alone.append)
    one._models[one.config] = loaded("llama")
    WorkerLoop(one, Inbox(alone), alone.append).run_task(task)
    assert (vllm.options["device_ids"], vllm.options["tensor_parallel_size"]) == ([0], 1)

    worker = spread_worker(config, loaded("llama"), 2, spread.append)
    WorkerLoop(worker, Inbox(spread), spread.append).run_task(task)

    assert vllm.options["tensor_parallel_size"] == 2
    assert vllm.options["distributed_executor_backend"] == "mp"
    assert vllm.options["device_ids"] is None  # all that the worker sees
    # One share for both, and the second GPU has only a quarter free.
    assert vllm.options["gpu_memory_utilization"] == pytest.approx(0.85 * 20 / 80)
    assert spread[-1] == TaskEnded()
    assert sorted(rollouts_in(spread)) == sorted(task.ids)
    assert texts_in(spread) == texts_in(alone)


def test_a_stopped_worker_sends_what_is_read_and_nobody_goes_on_writing(
    config, task, loaded, monkeypatch
):
    install(monkeypatch, loaded("llama"), [(40, 80)])
    monkeypatch.setattr("traitcli.generation.external_engine.ANSWERS_PER_ROUND", 3)
    sent, seconds = [], iter(range(10**6))
    worker = create_worker(config, "cuda:0", False, sent.append)
    worker._models[worker.config] = loaded("llama")
    # A message for each step of vLLM and for each text that is read.
    inbox = Inbox(sent, (7, StopRequest()))

    with pytest.raises(StoppedError):
        WorkerLoop(worker, inbox, sent.append, lambda: float(next(seconds))).run_task(task)

    assert 0 < len(rollouts_in(sent)) < len(task.ids)
    assert isinstance(sent[-1], RolloutsMade)
    assert not [thread for thread in threading.enumerate() if thread.name == "writer"]


def texts_in(sent):
    return {
        rollout.id: rollout.response
        for message in sent
        for rollout in getattr(message, "rollouts", ())
    }


@pytest.mark.parametrize(
    ("heads", "kv_heads", "gpus", "named"),
    [
        (12, 4, 5, "1, 2, 4 or 12"),  # 5 does not divide 12
        (12, 12, 8, "1, 2, 3, 4, 6 or 12"),
        (28, 4, 7, "1, 2 or 4"),  # 7 divides 28, but 4 key-value heads cannot be given to 7
        (7, 7, 2, "1 or 7"),
    ],
)
def test_heads_that_cannot_be_divided_are_an_error_before_anything_loads(
    config, task, model_folders, tmp_path, loaded, monkeypatch, heads, kv_heads, gpus, named
):
    vllm = install(monkeypatch, loaded("llama"), [(40, 80)] * gpus)
    folder = with_heads(model_folders["llama"], tmp_path / "model", heads, kv_heads)
    config = config.model_copy(update={"model": ModelConfig(id=str(folder))})
    sent = []

    run_worker(
        lambda send: create_worker(config, visible_devices(gpus), False, send),
        Inbox(sent, (0, task)),
        sent.append,
    )

    error = sent[-1].error
    assert isinstance(sent[-1], RunFailed)
    assert error.problem == f"vLLM cannot divide model among {gpus} GPUs"
    assert error.cause == f"it has {heads} attention heads and {kv_heads} key-value heads"
    assert error.fix.startswith(f"use {named} GPUs for each worker (--gpus-per-worker")
    assert not vllm.started
    assert not any(isinstance(message, ModelLoading) for message in sent)


def test_heads_that_can_be_divided_are_no_error(model_folders, tmp_path, loaded, monkeypatch):
    install(monkeypatch, loaded("llama"), [(40, 80)] * 8)
    # More GPUs than key-value heads: each gets a copy of one.
    folder = with_heads(model_folders["llama"], tmp_path / "model", 32, 4)

    check_vllm(ModelConfig(id=str(folder), device_map="auto"))


def test_one_gpu_needs_no_division(config, loaded, monkeypatch):
    install(monkeypatch, loaded("llama"), [(40, 80)] * 3)
    nowhere = ModelConfig(id="org/nowhere", device="cuda:2")

    check_vllm(nowhere)  # does not look for the configuration

    assert gpus_of(nowhere) == [2]
    assert gpus_of(ModelConfig(id="org/nowhere", device_map="auto")) == [0, 1, 2]


def test_the_reader_takes_what_vllm_has_left(config, task, loaded, monkeypatch):
    """Free memory is looked at when vLLM has started, and by the estimate of our own loop."""
    vllm = install(monkeypatch, loaded("llama"), [(40, 80)])
    left = 12_000_000
    monkeypatch.setattr(
        batch_size_module, "free_bytes", lambda device: left if vllm.started else 2**40
    )
    sizes = []
    monkeypatch.setattr("traitcli.generation.external_engine.read_texts", noting_sizes(sizes))
    worker = create_worker(config, "cuda:0", False, lambda message: None)
    worker._models[worker.config] = loaded("llama")
    longest = longest_text(loaded("llama"), config, task)

    WorkerLoop(worker, Inbox([]), lambda message: None).run_task(task)

    assert sizes == [estimate_size(loaded("llama"), longest)]
    assert 1 <= sizes[0] < 64


def test_a_chosen_batch_size_is_also_that_of_the_reader(config, task, loaded, monkeypatch):
    install(monkeypatch, loaded("llama"), [(40, 80)])
    sizes = []
    monkeypatch.setattr("traitcli.generation.external_engine.read_texts", noting_sizes(sizes))
    extract = config.extract.model_copy(update={"batch_size": 5})
    config = config.model_copy(update={"extract": extract})
    worker = create_worker(config, "cuda:0", False, lambda message: None)
    worker._models[worker.config] = loaded("llama")

    WorkerLoop(worker, Inbox([]), lambda message: None).run_task(task)

    assert sizes == [5]


def noting_sizes(sizes):
    from traitcli.models.read_texts import read_texts

    def noting(loaded, texts, size, reader):
        sizes.append(size.now)
        return read_texts(loaded, texts, size, reader)

    return noting


def longest_text(loaded, config, task):
    from traitcli.pipeline.extract import _prepare

    prompts = [len(planned.prompt.ids) for planned in _prepare(task, config, loaded)]
    return max(prompts) + config.extract.sampling.max_new_tokens


def test_the_size_is_halved_when_memory_runs_out_and_a_chosen_one_stays(loaded, monkeypatch):
    warnings = []
    monkeypatch.setattr(batch_size_module, "free_bytes", lambda device: 2**40)

    size = choose_read_size(loaded("llama"), 100, "auto", warnings.append)

    assert size.now == 64
    assert size.shrink()
    assert size.now == 32
    assert warnings == ["out of memory with 64 texts at a time: continuing with 32"]
    assert not choose_read_size(loaded("llama"), 100, 200).shrink()


@pytest.mark.parametrize(
    ("visible", "expected"),
    [("", "1,3"), ("4,5,6,7", "5,7"), ("GPU-a,GPU-b,GPU-c,GPU-d", "GPU-b,GPU-d")],
)
def test_a_worker_and_the_vllm_that_it_starts_see_only_its_gpus(visible, expected, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    _hide_other_gpus("cuda:1+cuda:3")

    assert os.environ["CUDA_VISIBLE_DEVICES"] == expected


@simulated(logs=False)
def test_the_device_with_the_least_free_memory_decides(loaded, monkeypatch):
    model = spread_over_two(loaded("llama"))
    free = {"sim:0": 2**40, "sim:1": 12_000_000}
    monkeypatch.setattr(batch_size_module, "free_bytes", lambda device: free[str(device)])

    both = estimate_size(model, 200)
    free["sim:0"] = 12_000_000

    assert [str(device) for device in model.devices] == ["sim:0", "sim:1"]
    assert both == estimate_size(model, 200) < 128
