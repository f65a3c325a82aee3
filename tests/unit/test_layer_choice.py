"""The choice of the layer of a vector."""

from __future__ import annotations

import pytest

from traitcli.vectors.layer_choice import choose_layer, default_layer


def test_the_layer_of_the_best_auroc_is_chosen_if_it_is_clearly_best():
    values = [0.5, 0.5, 0.6, 0.7, 0.9, 0.8, 0.5, 0.5, 0.5]

    assert choose_layer(values, [0.05] * 9) == 4


def test_of_the_layers_within_one_standard_error_of_the_best_the_middle_one_is_chosen():
    values = [0.5, 0.5, 0.84, 0.85, 0.88, 0.9, 0.91, 0.5, 0.5]

    assert choose_layer(values, [0, 0, 0, 0, 0, 0, 0.005, 0, 0]) == 6
    assert choose_layer(values, [0, 0, 0, 0, 0, 0, 0.02, 0, 0]) == 5
    assert choose_layer(values, [0, 0, 0, 0, 0, 0, 0.2, 0, 0]) == 4


def test_of_two_layers_equally_near_to_the_middle_the_earlier_one_is_chosen():
    values = [0.5, 0.5, 0.5, 0.9, 0.5, 0.9, 0.5, 0.5, 0.5]

    assert choose_layer(values, [0.05] * 9) == 3


@pytest.mark.parametrize("blocks", [12, 24, 30])
def test_a_separation_that_says_little_chooses_the_middle(blocks):
    """As with 20 rollouts a side: the best layer is at the edge, but not clearly."""
    aurocs = [0.7] * (blocks + 1)
    aurocs[blocks // 4] = 0.75

    assert choose_layer(aurocs, [0.1] * (blocks + 1)) == blocks // 2


@pytest.mark.parametrize("blocks", [2, 3, 4, 5, 6, 12, 26, 30, 32, 80])
def test_the_chosen_layer_is_within_25_and_75_percent_of_depth(blocks):
    for best in range(blocks + 1):
        aurocs = [float(layer == best) for layer in range(blocks + 1)]

        layer = choose_layer(aurocs, [0.01] * (blocks + 1))

        assert blocks * 0.25 <= layer <= blocks * 0.75
        if blocks * 0.25 <= best <= blocks * 0.75:
            assert layer == best


@pytest.mark.parametrize(("layer_count", "layer"), [(31, 15), (27, 13), (5, 2), (2, 1)])
def test_without_a_separation_the_middle_layer_is_chosen(layer_count, layer):
    assert default_layer(layer_count) == layer


def test_a_model_of_one_block_has_one_layer_to_choose():
    assert choose_layer([0.9, 0.5], [0.1, 0.1]) == 1
