"""Taps against transformers' own hidden states."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import FAMILIES
from traitcli.errors import ModelError
from traitcli.models.hooks import find_blocks, hidden_of, tap


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_is_what_transformers_returns_at_that_index(loaded, family):
    model = loaded(family).model
    ids = torch.arange(10)[None]
    seen: dict[int, torch.Tensor] = {}

    with (
        torch.no_grad(),
        tap(model, range(5), lambda layer, hidden: seen.update({layer: hidden.clone()})),
    ):
        expected = model(ids, output_hidden_states=True).hidden_states

    assert len(expected) == 5
    for layer, hidden in enumerate(expected):
        assert torch.equal(seen[layer], hidden)


def test_hooks_are_removed_after_an_error(loaded):
    model = loaded("llama").model
    before = count_hooks(model)

    def fail_inside() -> None:
        with tap(model, range(5), lambda layer, hidden: None):
            assert count_hooks(model) == before + 5
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()

    assert count_hooks(model) == before


def count_hooks(model) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    )


def test_blocks_that_return_tuples_are_read_too():
    hidden = torch.ones(1, 2, 3)

    assert hidden_of((hidden, "cache")) is hidden
    assert hidden_of(hidden) is hidden


def test_a_model_without_blocks_is_refused(loaded):
    model = loaded("llama").model
    depth = model.config.num_hidden_layers
    model.config.num_hidden_layers = 17
    try:
        with pytest.raises(ModelError) as raised:
            find_blocks(model)
    finally:
        model.config.num_hidden_layers = depth

    assert raised.value.cause == "no list of 17 blocks in it"
