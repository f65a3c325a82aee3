"""Packed weights: the same products, and only where they can be had."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear

import traitcli.models.cpu_packing as kernels
from traitcli.models.cpu_packing import pack_weights


@pytest.fixture
def model():
    """A block's layer with a bias, and a vocabulary's without."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(96, 160), torch.nn.Linear(160, 9000, bias=False)
    ).requires_grad_(False)


@pytest.fixture
def quick(monkeypatch):
    """Trials that packed weights win, whatever the machine does meanwhile."""
    monkeypatch.setattr(kernels, "_is_faster", lambda layer: True)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 32), (1, 65), (1, 300), (1, 0)])
def test_products_stay_what_they_were(model, quick, shape):
    rows = torch.randn(*shape, 96)
    hidden = linear(rows, model[0].weight, model[0].bias)
    expected = linear(hidden, model[1].weight)

    assert pack_weights(model)

    with torch.inference_mode():
        torch.testing.assert_close(model[0](rows), hidden, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model(rows), expected, atol=1e-5, rtol=1e-5)


def test_many_rows_meet_a_blocks_layer_as_before(model, quick):
    rows = torch.randn(65, 96)
    expected = model[0](rows)

    pack_weights(model)

    assert torch.equal(model[0](rows), expected)


def test_hooks_on_a_packed_layer_are_called(model, quick):
    pack_weights(model)
    seen = []
    model[0].register_forward_hook(lambda module, args, output: seen.append(output.shape))

    model[0](torch.randn(3, 96))

    assert seen == [(3, 160)]


def untouched(model) -> bool:
    return not any("forward" in layer.__dict__ for layer in model)


def test_nothing_is_done_where_it_is_no_faster(model, monkeypatch):
    monkeypatch.setattr(kernels, "_is_faster", lambda layer: False)

    assert not pack_weights(model)
    assert untouched(model)


def test_nothing_is_done_where_memory_is_short(model, quick, monkeypatch):
    monkeypatch.setattr(
        kernels, "free_bytes", lambda device: 4 * sum(layer.weight.nbytes for layer in model) - 4
    )

    assert not pack_weights(model)
    assert untouched(model)


def test_nothing_is_done_to_small_models_and_other_dtypes(model, quick):
    small = torch.nn.Sequential(torch.nn.Linear(32, 64))

    assert not pack_weights(small)
    assert not pack_weights(model.bfloat16())
    assert untouched(model)


def test_a_torch_that_cannot_pack_leaves_the_layers_as_they_are(model, quick, monkeypatch):
    pack = kernels._packed_forward

    def fail_at_the_second(layer):
        if layer is model[1]:
            raise RuntimeError("could not create a primitive descriptor")
        return pack(layer)

    monkeypatch.setattr(kernels, "_packed_forward", fail_at_the_second)

    assert not pack_weights(model)
    assert untouched(model)


def test_a_layer_whose_forward_is_somebody_elses_is_left_alone(model, quick):
    model[0].forward = theirs = lambda rows: rows

    assert pack_weights(model)

    assert model[0].forward is theirs
    assert "forward" in model[1].__dict__
