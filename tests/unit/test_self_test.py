"""The self-test at loading: which ways of reading a model agree with a plain forward pass."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import traitcli.models.packed_attention as packed_module
from tests.conftest import FAMILIES, make_model
from tests.unit.families import EVERY_RUN, PACKED, PADDED, REFUSED
from tests.unit.test_decode import relative_error, two_pass_means
from traitcli.config import ModelConfig, SamplingConfig
from traitcli.errors import ModelError
from traitcli.events import Warned
from traitcli.generation.decode import generate
from traitcli.generation.request import Request
from traitcli.models.batch_size import BatchSize
from traitcli.models.load import load_model, open_model
from traitcli.models.self_test import run_self_test
from traitcli.records import POSITIONS

ASKED = [Request(tuple(range(10, 10 + length)), length) for length in (3, 9, 14, 5, 7)]
GREEDY = SamplingConfig(temperature=0, max_new_tokens=6)


def open_family(folder, family, more):
    events = []
    made = make_model(folder / family, family, None, True, more=more)
    return open_model(ModelConfig(id=str(made), device="cpu"), events.append), events


def warnings(events):
    return [event.message for event in events if isinstance(event, Warned)]


def checks(loaded):
    return {check.path: check.problem for check in loaded.self_test.checks}


def assert_greedy(loaded):
    """Assert that answers equal those of a naive loop without a cache."""
    model = replace(loaded, stop_ids=frozenset(range(100)))

    made = dict(generate(model, ASKED, GREEDY, BatchSize(64)))

    for index, request in enumerate(ASKED):
        ids = list(request.ids)
        with torch.no_grad():
            while len(ids) < len(request.ids) + 6:
                token = int(model.model(torch.tensor([ids])).logits[0, -1].argmax())
                if token in model.stop_ids:
                    break
                ids.append(token)
        assert made[index].ids == tuple(ids[len(request.ids) :])
    return made


def assert_captured(loaded):
    """Assert that answers and their activations equal those of plain passes."""
    made = assert_greedy(loaded)
    for index, request in enumerate(ASKED):
        expected = two_pass_means(loaded, request, made[index].ids)
        for position in POSITIONS if made[index].ids else ():
            found = made[index].activations[position]
            assert relative_error(found, expected[position]) < 1e-3


def pytest_generate_tests(metafunc):
    for name, families in (("packed", PACKED), ("padded", PADDED), ("refused", REFUSED)):
        if name in metafunc.fixturenames:
            all_of_them = metafunc.config.getoption("--all-families")
            metafunc.parametrize(name, [f for f in families if all_of_them or f in EVERY_RUN])


@pytest.mark.slow
def test_a_family_is_read_packed_as_in_a_plain_pass(tmp_path, packed):
    loaded, events = open_family(tmp_path, packed, PACKED[packed])

    assert loaded.packs
    assert loaded.self_test.problem == ""
    assert not any(problem for path, problem in checks(loaded).items() if "packed" in path)
    assert warnings(events) == []
    assert_captured(loaded)


@pytest.mark.slow
def test_a_family_whose_packed_states_are_wrong_is_read_padded(tmp_path, padded):
    loaded, events = open_family(tmp_path, padded, PADDED[padded])

    assert (loaded.packs, loaded.pads) == (False, True)
    assert loaded.self_test.problem == ""
    assert not any(problem for path, problem in checks(loaded).items() if "padded" in path)
    [warning] = warnings(events)
    assert warning.startswith(f"{padded} is read in padded batches, which is slower: packed, ")
    assert_captured(loaded)


@pytest.mark.slow
def test_a_family_whose_states_would_be_wrong_is_refused(tmp_path, refused):
    more, reason = REFUSED[refused]
    folder = make_model(tmp_path / refused, refused, None, True, more=more)
    events = []

    with pytest.raises(ModelError) as error:
        load_model(ModelConfig(id=str(folder), device="cpu"), events.append)

    assert error.value.problem == f"the scores of {refused} would be wrong"
    assert error.value.cause.startswith(reason)
    assert warnings(events) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_with_plain_sliding_or_capped_attention_reads_packed_tokens(loaded, family):
    assert loaded(family).packs
    assert run_self_test(loaded(family)).slow_reason == ""


def test_a_model_with_attention_sinks_reads_packed_tokens_beyond_its_window(tmp_path):
    more = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8, "sliding_window": 8}
    folder = make_model(tmp_path / "m", "gpt_oss", None, True, more=more)
    model = load_model(ModelConfig(id=str(folder), device="cpu"))
    for layer in model.model.model.layers:
        torch.nn.init.normal_(
            layer.self_attn.sinks, std=2, generator=torch.Generator().manual_seed(1)
        )
    assert run_self_test(model).packs

    assert_greedy(model)


def test_a_model_spread_over_devices_by_accelerate_reads_packed_tokens(model_folders):
    from accelerate import cpu_offload

    model = load_model(ModelConfig(id=str(model_folders["gemma2"]), device="cpu"))
    expected = dict(generate(model, ASKED, GREEDY, BatchSize(64)))
    cpu_offload(model.model, execution_device=torch.device("cpu"))
    assert run_self_test(model).packs

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
    assert run_self_test(spread).packs

    found, expected = (
        dict(generate(model, ASKED, GREEDY, BatchSize(64))) for model in (spread, loaded("llama"))
    )

    assert spread.packs
    assert {index: one.ids for index, one in found.items()} == {
        index: one.ids for index, one in expected.items()
    }


def test_a_model_that_is_spread_computes_only_the_logits_that_are_needed(model_folders):
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    spread = load_model(ModelConfig(id=str(model_folders["llama"]), device_map="auto"))
    spread.model.hf_device_map = {"model.layers.0": 0, "model.layers.1": 1}
    head = spread.model.get_output_embeddings()
    # As accelerate wraps each part of a model that it spreads.
    add_hook_to_module(head, AlignDevicesHook(execution_device="cpu", io_same_device=True))
    computed = []
    head.register_forward_hook(lambda module, args, logits: computed.append(logits.shape[1]))

    dict(generate(spread, ASKED, GREEDY, BatchSize(64)))

    assert max(computed) == len(ASKED)
    assert min(len(request.ids) for request in ASKED) > 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_packing_that_drops_a_soft_cap_is_not_used(model_folders, monkeypatch, dtype):
    model = load_model(ModelConfig(id=str(model_folders["gemma2"]), device="cpu", dtype=dtype))
    # So high that it changes the states by 0.0005 to 0.0013, as the cap of Gemma 2 2B does.
    for layer in model.model.model.layers:
        layer.self_attn.attn_logit_softcapping = 150.0
    assert run_self_test(model).packs
    rule = packed_module.AttentionRule
    monkeypatch.setattr(
        packed_module, "AttentionRule", lambda **options: rule(**{**options, "cap": None})
    )

    found = run_self_test(model)

    assert not found.packs
    [error] = [check.error for check in found.checks if check.path == "packed, whole"]
    assert 0.0005 < error < 0.0013


def hooks_of(loaded):
    kinds = ("_forward_hooks", "_forward_pre_hooks")
    return [len(getattr(module, kind)) for module in loaded.model.modules() for kind in kinds]


def test_a_self_test_in_float32_leaves_the_weights_as_they_are(model_folders):
    model = load_model(ModelConfig(id=str(model_folders["qwen2"]), device="cpu", dtype="bfloat16"))
    before = {name: weight.clone() for name, weight in model.model.named_parameters()}
    hooks = hooks_of(model)

    test = run_self_test(model, thorough=True)

    errors = [check.error for check in test.checks]
    assert all(error < 1e-5 for error in errors)  # bfloat16 would give 1e-3 to 1e-2
    assert any(errors)
    for name, weight in model.model.named_parameters():
        assert torch.equal(weight, before[name])
        assert weight.dtype == torch.bfloat16
    assert hooks_of(model) == hooks


def test_a_model_with_a_soft_cap_is_loaded_with_the_attention_that_has_it(
    model_folders, monkeypatch
):
    from transformers import Gemma2PreTrainedModel

    # As transformers before 5.23, which then chooses an attention without a cap.
    monkeypatch.setattr(Gemma2PreTrainedModel, "_supports_sdpa", True)

    capped = load_model(ModelConfig(id=str(model_folders["gemma2"]), device="cpu"))

    assert capped.model.config._attn_implementation == "eager"


def test_the_model_attends_as_before_afterwards(loaded):
    model = loaded("gemma2").model
    before = model.config._attn_implementation

    run_self_test(loaded("gemma2"))

    assert model.config._attn_implementation == before


def test_packing_that_changes_the_states_is_not_used(loaded, monkeypatch):
    model = loaded("llama")
    attention = model.model.model.layers[0].self_attn
    monkeypatch.setattr(attention, "layer_idx", 1)  # Two layers share their keys.

    found = run_self_test(replace(model, packs=False))

    assert not found.packs
    assert found.slow_reason.startswith("packed, after a cached prefix: the states of layer ")


def test_a_model_that_padding_confuses_is_read_one_text_at_a_time(tmp_path):
    # Its learned positions count from the pad token.
    loaded, events = open_family(tmp_path, "trocr", {})

    assert (loaded.packs, loaded.pads) == (False, False)
    assert loaded.self_test.problem == ""
    [warning] = warnings(events)
    assert warning.startswith("trocr is read one text at a time, which is slower: packed, whole: ")
    assert_greedy(loaded)


def test_a_model_with_hidden_states_of_another_shape_is_refused(loaded, monkeypatch):
    model = loaded("llama")

    with pytest.raises(ModelError) as error:
        run_self_test(replace(model, blocks=3))

    assert "transformers returns 5 hidden states" in error.value.cause


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_with_their_layer_and_dtype(model_folders, value):
    loaded = load_model(ModelConfig(id=str(model_folders["qwen2"]), device="cpu"))
    loaded.model.model.layers[2].mlp.down_proj.weight[3, 5] = value

    with pytest.raises(ModelError) as error:
        run_self_test(loaded)

    assert error.value.problem == "tiny-qwen2 gives values that are not finite"
    assert error.value.cause == "the states of layer 3 contain NaN or infinity in float32"
