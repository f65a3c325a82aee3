"""Which models can read packed tokens, and the warning for those that cannot."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.conftest import FAMILIES, make_model
from traitcli.config import ModelConfig, SamplingConfig
from traitcli.events import Warned
from traitcli.generation.batch_size import BatchSize
from traitcli.generation.decode import generate
from traitcli.generation.request import Request
from traitcli.models.load import load_model
from traitcli.models.packing_check import find_packing_problem

ASKED = [Request(tuple(range(10, 10 + length)), length) for length in (3, 9, 14, 5, 7)]
GREEDY = SamplingConfig(temperature=0, max_new_tokens=6)
UNPACKABLE = {
    "lfm2": ({"layer_types": ["conv", "full_attention"] * 2}, "it has layers of conv"),
    "gptj": (
        {"n_embd": 32, "n_layer": 4, "n_head": 4, "rotary_dim": 4},
        "packed tokens change its logits by ",
    ),
}


def assert_greedy(loaded):
    """Assert that answers equal those of a naive loop without a cache."""
    model = replace(loaded, stop_ids=frozenset(range(100)))

    made = dict(generate(model, ASKED, GREEDY, BatchSize(64)))

    assert len({len(generation.ids) for generation in made.values()}) > 1
    for index, request in enumerate(ASKED):
        ids = list(request.ids)
        with torch.no_grad():
            while len(ids) < len(request.ids) + 6:
                token = int(model.model(torch.tensor([ids])).logits[0, -1].argmax())
                if token in model.stop_ids:
                    break
                ids.append(token)
        assert made[index].ids == tuple(ids[len(request.ids) :])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_with_plain_sliding_or_capped_attention_reads_packed_tokens(loaded, family):
    assert loaded(family).packs
    assert find_packing_problem(loaded(family)) == ""


def test_a_model_with_attention_sinks_reads_packed_tokens_beyond_its_window(tmp_path):
    more = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8, "sliding_window": 8}
    folder = make_model(tmp_path / "m", "gpt_oss", None, True, more=more)
    model = load_model(ModelConfig(id=str(folder), device="cpu"))
    for layer in model.model.model.layers:
        torch.nn.init.normal_(
            layer.self_attn.sinks, std=2, generator=torch.Generator().manual_seed(1)
        )
    assert find_packing_problem(model) == ""

    assert_greedy(model)


def test_a_model_spread_over_devices_by_accelerate_reads_packed_tokens(model_folders):
    from accelerate import cpu_offload

    model = load_model(ModelConfig(id=str(model_folders["gemma2"]), device="cpu"))
    expected = dict(generate(model, ASKED, GREEDY, BatchSize(64)))
    cpu_offload(model.model, execution_device=torch.device("cpu"))
    assert find_packing_problem(model) == ""

    found = dict(generate(model, ASKED, GREEDY, BatchSize(64)))

    assert {index: one.ids for index, one in found.items()} == {
        index: one.ids for index, one in expected.items()
    }


@pytest.mark.parametrize(
    "devices", [{"": "cpu"}, {"model.layers.0": 0, "model.layers.1": 1}], ids=["one", "two"]
)
def test_a_model_that_is_spread_over_devices_writes_the_same(model_folders, loaded, devices):
    spread = load_model(ModelConfig(id=str(model_folders["llama"]), device_map="auto"))
    # The map names two GPUs, but the tensors stay on the CPU.
    spread.model.hf_device_map = devices
    assert spread.is_spread == (len(devices) == 2)
    assert find_packing_problem(spread) == ""

    found, expected = (
        dict(generate(model, ASKED, GREEDY, BatchSize(64))) for model in (spread, loaded("llama"))
    )

    assert spread.packs
    assert {index: one.ids for index, one in found.items()} == {
        index: one.ids for index, one in expected.items()
    }


def test_the_model_attends_as_before_afterwards(loaded):
    model = loaded("gemma2").model
    before = model.config._attn_implementation

    find_packing_problem(loaded("gemma2"))

    assert model.config._attn_implementation == before


@pytest.fixture(scope="module", params=UNPACKABLE)
def unpackable_model(request, tmp_path_factory):
    """A model that cannot be packed, the reason, and the events of loading it."""
    more, reason = UNPACKABLE[request.param]
    folder = make_model(
        tmp_path_factory.mktemp("odd") / request.param, request.param, None, True, more=more
    )
    events = []
    return load_model(ModelConfig(id=str(folder), device="cpu"), events.append), reason, events


def test_a_model_with_other_attention_is_noticed_with_one_warning(unpackable_model):
    model, reason, events = unpackable_model

    [warning] = [event.message for event in events if isinstance(event, Warned)]

    assert not model.packs
    assert warning.startswith(f"{model.name} is decoded with padding, which is slower: {reason}")


def test_a_model_with_other_attention_gives_correct_tokens(unpackable_model):
    assert_greedy(unpackable_model[0])


def test_packing_that_changes_the_logits_is_a_problem(loaded, monkeypatch):
    model = loaded("llama")
    attention = model.model.model.layers[0].self_attn
    monkeypatch.setattr(attention, "layer_idx", 1)  # Two layers share their keys.

    assert find_packing_problem(replace(model, packs=False)).startswith(
        "packed tokens change its logits by "
    )
