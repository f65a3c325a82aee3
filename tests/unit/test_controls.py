"""Control measurements for a vector, on activations with a planted direction."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from tests.unit.planted import LAYERS, draw, plant
from traitcli.vectors.controls import (
    SHUFFLES,
    cosine,
    difference_cosine,
    massive_share,
    shuffled_null,
    split_half_cosine,
)
from traitcli.vectors.held_out import leave_one_pair_out
from traitcli.vectors.methods import mean_difference
from traitcli.vectors.separation import measure_auroc


def sides(rollouts):
    return rollouts.activations[rollouts.positive], rollouts.activations[~rollouts.positive]


def test_shuffled_labels_never_do_as_well_as_a_planted_direction():
    null = shuffled_null(
        plant(draw(1), layer=2), plant(draw(2), layer=2), mean_difference, 2, auroc=0.99
    )

    assert null.p == 1 / (SHUFFLES + 1)
    assert null.mean == pytest.approx(0.5, abs=0.03)
    assert 0.5 < null.percentile_95 < 0.65


def test_p_is_uniform_without_a_planted_direction():
    """On noise, p is below one half in about half of the trials, and rarely below 5 %."""
    values = []
    for seed in range(60):
        build, test = (draw(2 * seed + half, questions=6, layers=1) for half in (0, 1))
        found = measure_auroc(leave_one_pair_out(build, test, mean_difference), 0).value
        values.append(shuffled_null(build, test, mean_difference, 0, found).p)

    assert 0.3 < np.mean(np.array(values) <= 0.5) < 0.7
    assert np.mean(np.array(values) <= 0.05) < 0.15


def test_shuffling_keeps_the_count_of_each_polarity_in_every_pair_and_question():
    """The level depends on the question, so freely shuffled labels would separate too."""
    rollouts = draw(1, questions=2, layers=1)
    rollouts.activations[rollouts.question == 1, 0, 0] += 1000.0

    null = shuffled_null(rollouts, rollouts, mean_difference, 0, auroc=0.5)

    assert null.mean == pytest.approx(0.5, abs=0.05)


def test_a_single_pair_has_no_null():
    only = draw(1)
    only = only.select(only.pair == 0)

    assert shuffled_null(only, only, mean_difference, 0, auroc=0.5) is None


def test_halves_agree_on_a_planted_direction_and_not_on_noise():
    found = split_half_cosine(plant(draw(1), layer=2), mean_difference)

    assert found[2] > 0.95
    assert np.abs(found[[0, 1, 3]]).max() < 0.3


def test_halves_share_no_question():
    """Each question has its own direction, so the halves of the questions share nothing."""
    rollouts = draw(1, questions=16)
    for question in range(16):
        rollouts.activations[rollouts.positive & (rollouts.question == question), :, question] += (
            100.0
        )

    assert np.abs(split_half_cosine(rollouts, mean_difference)).max() < 0.05


def test_one_question_has_no_halves():
    assert split_half_cosine(draw(1, questions=1), mean_difference) is None


def test_the_cosine_of_differences_is_the_mean_over_all_pairs_of_them():
    positive, negative = sides(draw(3, questions=2))

    found = difference_cosine(positive, negative)

    for layer in range(LAYERS):
        differences = (positive - negative)[:, layer].astype(np.float64)
        naive = [
            a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in combinations(differences, 2)
        ]
        assert found[layer] == pytest.approx(np.mean(naive), abs=1e-6)


def test_a_difference_that_is_zero_counts_as_unlike_all_others():
    positive = np.array([[[1.0, 0.0]], [[1.0, 0.0]], [[0.0, 0.0]]], np.float32)

    assert difference_cosine(positive, np.zeros_like(positive)) == pytest.approx([1 / 3])


def test_one_difference_has_no_cosine():
    assert (
        difference_cosine(np.ones((1, 2, 3), np.float32), np.zeros((1, 2, 3), np.float32)) is None
    )


def test_the_share_of_massive_dimensions_is_of_the_squared_norm_at_each_layer():
    activations = np.random.default_rng(0).normal(0, 1, (50, 2, 8)).astype(np.float32)
    activations[:, 1, 5] += 500.0
    direction = np.array([[1, 1, 1, 1, 1, 3, 1, 1], [1, 1, 1, 1, 1, 3, 1, 1]], np.float32)

    share, count = massive_share(direction, activations)

    assert count.tolist() == [0, 1]
    assert share == pytest.approx([0.0, 9 / 16])


def test_cosine_is_layer_by_layer_and_zero_where_a_direction_is():
    one = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]], np.float32)
    other = np.array([[-2.0, 0.0], [1.0, 0.0], [1.0, 0.0]], np.float32)

    assert cosine(one, other) == pytest.approx([-1.0, 0.5**0.5, 0.0])
