"""Text from another engine gives the same results as our own loop."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch

import traitcli.generation.external_engine as two_pass_module
import traitcli.generation.vllm as vllm_module
from tests.unit.test_decode import PROMPTS, assert_same, requests
from tests.unit.test_likelihood import TRAIT
from tests.vllm_stand_in import install
from traitcli.config import EMBEDDED, ExtractConfig, ModelConfig, SamplingConfig
from traitcli.errors import ModelError
from traitcli.events import ModelLoading
from traitcli.generation.decode import generate
from traitcli.generation.external_engine import Callbacks, write_then_read
from traitcli.generation.request import release_none
from traitcli.generation.skip_thinking import OwnWriter
from traitcli.generation.vllm import VllmWriter, check_vllm
from traitcli.models.batch_size import BatchSize
from traitcli.models.load import load_model
from traitcli.pipeline.extract import generate_rollouts
from traitcli.pipeline.messages import GenerateTask
from traitcli.pipeline.plan import plan_rollouts
from traitcli.pipeline.worker_context import Worker

GREEDY = SamplingConfig(temperature=0, max_new_tokens=12)


def reading(on_step=lambda tokens: None, release=release_none):
    return Callbacks(lambda: BatchSize(64), on_step, release)


@pytest.fixture
def vllm(loaded, monkeypatch):
    return install(monkeypatch, loaded("llama"), [(40, 80), (40, 80)])


@pytest.mark.parametrize("kind", ["own", "vllm"])
def test_two_passes_give_the_same_result_as_one(loaded, kind, vllm, monkeypatch):
    monkeypatch.setattr(two_pass_module, "ANSWERS_PER_ROUND", 3)
    model = replace(loaded("llama"), stop_ids=frozenset(range(0, 700, 20)))
    writer = OwnWriter(model, BatchSize(64)) if kind == "own" else VllmWriter(model, [1])
    asked = requests(model, PROMPTS * 2)
    expected = dict(generate(model, asked, GREEDY, BatchSize(64)))
    steps = []

    found = dict(write_then_read(model, writer, asked, GREEDY, reading(steps.append)))

    assert sorted(found) == list(range(len(asked)))
    assert {g.finish_reason for g in expected.values()} == {"stop", "length"}
    assert [found[i].finish_reason for i in range(8)] == [
        expected[i].finish_reason for i in range(8)
    ]
    assert_same(
        [found[i] for i in range(8) if expected[i].ids],
        [expected[i] for i in range(8) if expected[i].ids],
    )
    assert sum(steps) == sum(len(g.ids) for g in expected.values())


def test_an_empty_answer_has_no_activations(loaded):
    model = loaded("llama")

    class Silent(OwnWriter):
        def write(self, asked, sampling, on_step):
            return [((), "stop")] * len(asked)

    silent = Silent(model, BatchSize(1))
    [(index, generation)] = write_then_read(model, silent, requests(model)[:1], GREEDY, reading())

    assert (index, generation.ids, generation.finish_reason, generation.activations) == (
        0,
        (),
        "stop",
        None,
    )


def test_vllm_gets_the_same_weights_device_seeds_and_stops(loaded, vllm):
    model = loaded("llama")
    asked = requests(model)

    sampling = SamplingConfig(top_p=0.9, top_k=5)

    list(write_then_read(model, VllmWriter(model, [1]), asked, sampling, reading()))

    assert vllm.options["model"] == model.model.name_or_path
    assert (vllm.options["dtype"], vllm.options["device_ids"]) == ("float32", [1])
    assert vllm.options["tensor_parallel_size"] == 1
    assert vllm.options["gpu_memory_utilization"] == pytest.approx(0.85 / 2)
    assert not vllm.options["trust_remote_code"]
    assert [one.seed for one in vllm.params] == [request.seed for request in asked]
    assert {(one.top_p, one.top_k, one.temperature, one.max_tokens) for one in vllm.params} == {
        (0.9, 5, 1.0, 128)
    }
    assert vllm.params[0].stop_token_ids == sorted(model.stop_ids)
    assert vllm.params[0].ignore_eos  # Every stop token is in the list.


def test_without_vllm_the_error_explains_the_install_before_a_model_is_loaded(
    tiny_config, monkeypatch
):
    monkeypatch.setattr(vllm_module, "find_spec", lambda name: None)
    config = tiny_config.model_copy(update={"extract": ExtractConfig(engine="vllm")})
    events = []
    worker = Worker(config, "cpu", events.append)

    with pytest.raises(ModelError, match="vLLM is not installed") as caught:
        generate_rollouts(
            GenerateTask(TRAIT, tuple(plan_rollouts(TRAIT, config.extract))),
            config,
            worker,
            events.append,
        )

    assert caught.value.fix == "pip install 'traitcli[vllm]', or set extract.engine to traitcli"
    assert not any(isinstance(event, ModelLoading) for event in events)


def test_vllm_that_cannot_start_is_an_error_of_the_run(loaded, vllm, monkeypatch):
    def refuse(**options):
        raise ValueError("No available memory for the cache blocks.\nTry a smaller model.")

    monkeypatch.setattr(vllm, "LLM", refuse)

    with pytest.raises(ModelError, match="vLLM cannot start") as caught:
        VllmWriter(loaded("llama"), [1]).start()

    assert caught.value.cause == "ValueError: No available memory for the cache blocks."


def test_without_a_gpu_vllm_is_refused(vllm):
    with pytest.raises(ModelError, match="vLLM does not run on cpu"):
        check_vllm(ModelConfig(id="org/model", device="cpu"))


@pytest.mark.gpu
@pytest.mark.skipif(not find_spec("vllm"), reason="vLLM is not installed")
@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="vLLM needs a CUDA device, and there is none"
)
def test_vllm_gives_the_tokens_of_our_own_loop():
    model = load_model(ModelConfig(id=EMBEDDED, device="cuda", dtype="float32"))
    asked = requests(model)
    expected = dict(generate(model, asked, GREEDY, BatchSize(64)))

    found = dict(write_then_read(model, VllmWriter(model, [0]), asked, GREEDY, reading()))

    assert_same([found[i] for i in range(len(asked))], [expected[i] for i in range(len(asked))])
