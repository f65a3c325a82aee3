"""Packed weights: equal products, and packing only where it is possible and faster."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear

import traitcli.models.cpu_packing as cpu_packing
from traitcli.models.cpu_packing import pack_weights


@pytest.fixture
def model():
    """A linear layer of a block with a bias, and one of the vocabulary without."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(96, 160), torch.nn.Linear(160, 9000, bias=False)
    ).requires_grad_(False)


def always_faster(layer) -> bool:
    """A trial that packed weights always win, even on a busy machine."""
    return True


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 32), (1, 65), (1, 300), (1, 0)])
def test_packing_does_not_change_products(model, shape):
    inputs = torch.randn(*shape, 96)
    hidden = linear(inputs, model[0].weight, model[0].bias)
    expected = linear(hidden, model[1].weight)

    assert pack_weights(model, always_faster)

    with torch.inference_mode():
        torch.testing.assert_close(model[0](inputs), hidden, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model(inputs), expected, atol=1e-5, rtol=1e-5)


def test_large_inputs_use_the_unpacked_weights_of_a_block(model):
    inputs = torch.randn(65, 96)
    expected = model[0](inputs)

    pack_weights(model, always_faster)

    assert torch.equal(model[0](inputs), expected)


def test_hooks_on_a_packed_layer_are_called(model):
    pack_weights(model, always_faster)
    seen = []
    model[0].register_forward_hook(lambda module, args, output: seen.append(output.shape))

    model[0](torch.randn(3, 96))

    assert seen == [(3, 160)]


def is_unpacked(model) -> bool:
    return not any("forward" in layer.__dict__ for layer in model)


def test_nothing_is_packed_if_it_is_not_faster(model):
    assert not pack_weights(model, lambda layer: False)
    assert is_unpacked(model)


def test_nothing_is_packed_if_memory_is_short(model, monkeypatch):
    weights = sum(layer.weight.nbytes for layer in model)
    monkeypatch.setattr(cpu_packing, "free_bytes", lambda device: 4 * weights - 4)

    assert not pack_weights(model, always_faster)
    assert is_unpacked(model)


def test_small_models_and_other_dtypes_are_not_packed(model):
    small = torch.nn.Sequential(torch.nn.Linear(32, 64))

    assert not pack_weights(small, always_faster)
    assert not pack_weights(model.bfloat16(), always_faster)
    assert is_unpacked(model)


def test_if_one_layer_cannot_be_packed_all_stay_as_they_were(model, monkeypatch):
    pack = cpu_packing.packed_forward

    def fail_at_the_second(layer):
        if layer is model[1]:
            raise RuntimeError("could not create a primitive descriptor")
        return pack(layer)

    monkeypatch.setattr(cpu_packing, "packed_forward", fail_at_the_second)

    assert not pack_weights(model, always_faster)
    assert is_unpacked(model)


def test_a_layer_with_a_replaced_forward_is_left_alone(model):
    model[0].forward = replaced = lambda inputs: inputs

    assert pack_weights(model, always_faster)

    assert model[0].forward is replaced
    assert "forward" in model[1].__dict__
