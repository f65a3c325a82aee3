"""How well a direction separates what it has not seen, on activations whose truth is planted."""

from __future__ import annotations

import math
import statistics
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from traitcli.config import Config
from traitcli.records import POSITIONS, Rollout
from traitcli.runs import Run
from traitcli.stages.build_vector import build_trait
from traitcli.traits import find_traits, load_trait
from traitcli.vectors.files import read_vector
from traitcli.vectors.methods import mean_difference, project
from traitcli.vectors.quality import (
    Labelled,
    Separation,
    auroc,
    choose_row,
    cohens_d,
    leave_one_pair_out,
    verdict,
)

ROWS, HIDDEN, PAIRS = 4, 16, 5
NEAR_CHANCE = 0.1
"""Three standard errors of the mean AUROC of five folds of 60 + 60 rollouts of noise, whose vectors share rollouts."""


def draw(seed, per_side=60, rows=ROWS):
    """Labelled noise: `per_side` rollouts of each pair and polarity."""
    pair, positive = np.array(list(product(range(PAIRS), (True, False), range(per_side))))[:, :2].T
    noise = np.random.default_rng(seed).normal(0, 1, (len(pair), rows, HIDDEN)).astype(np.float32)
    return Labelled(noise, positive.astype(bool), pair.astype(np.int64))


def plant(rollouts, row, strength=6.0):
    """Add one direction to every positive at a row."""
    rollouts.activations[rollouts.positive, row, 0] += strength
    return rollouts


def plant_phrases(rollouts, strength=30.0):
    """Add to every positive, at every row, a direction of its own pair."""
    for pair in range(PAIRS):
        rollouts.activations[rollouts.positive & (rollouts.pair == pair), :, pair] += strength
    return rollouts


def separation(values, d=None):
    scores = np.array(values, np.float32)
    return Separation(auroc=scores, d=np.array(d if d is not None else values, np.float32), rollouts=1)


@pytest.mark.parametrize("seed", range(5))
def test_auroc_is_the_share_of_pairs_in_order_with_ties_half(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, 30).astype(np.float32)
    positive = np.arange(30) % 3 == 0

    found = auroc(scores, positive)

    pairs = [(up > down) + (up == down) / 2 for up, down in product(scores[positive], scores[~positive])]
    assert found == pytest.approx(sum(pairs) / len(pairs))


@pytest.mark.parametrize(("scores", "expected"), [([3, 4, 1, 2], 1.0), ([1, 2, 3, 4], 0.0), ([5, 5, 5, 5], 0.5)])
def test_auroc_of_separated_reversed_and_equal_scores(scores, expected):
    assert auroc(np.array(scores, np.float32), np.array([True, True, False, False])) == expected


def test_cohens_d_is_the_difference_of_means_in_pooled_standard_deviations():
    up, down = [4.0, 6.5, 7.0, 5.5, 9.0], [1.0, 3.0, 2.5]
    scores, positive = np.array(up + down, np.float32), np.array([True] * 5 + [False] * 3)

    found = cohens_d(scores, positive)

    pooled = math.sqrt((4 * statistics.variance(up) + 2 * statistics.variance(down)) / (5 + 3 - 2))
    assert found == pytest.approx((statistics.mean(up) - statistics.mean(down)) / pooled, rel=1e-6)


def test_cohens_d_is_negative_when_the_negatives_lie_higher():
    positive = np.array([True, True, False, False])

    assert cohens_d(np.array([0, 1, 5, 6], np.float32), positive) == pytest.approx(-5 / math.sqrt(0.5))


@pytest.mark.parametrize(
    ("scores", "positive"),
    [([1, 1, 2, 2], [True, True, False, False]), ([1, 2, 3], [True, False, False]), ([1, 2, 3], [True, True, False])],
)
def test_cohens_d_is_zero_where_there_is_no_spread_to_measure_by(scores, positive):
    assert cohens_d(np.array(scores, np.float32), np.array(positive)) == 0.0


def test_a_planted_direction_is_found_at_its_row_and_nowhere_else():
    found = leave_one_pair_out(plant(draw(1), row=2), plant(draw(2), row=2), mean_difference)

    assert found.auroc[2] > 0.99
    assert found.d[2] > 4
    assert found.auroc[[0, 1, 3]] == pytest.approx(0.5, abs=NEAR_CHANCE)


def test_pure_noise_separates_at_chance():
    found = leave_one_pair_out(draw(1), draw(2), mean_difference)

    assert found.auroc == pytest.approx(0.5, abs=NEAR_CHANCE)
    assert found.d == pytest.approx(0, abs=0.2)


def test_noise_tested_on_itself_separates_at_chance():
    noise = draw(1)

    found = leave_one_pair_out(noise, noise, mean_difference)

    assert found.auroc == pytest.approx(0.5, abs=NEAR_CHANCE)


def test_what_only_one_pair_shows_does_not_help_to_separate_that_pair():
    phrases = plant_phrases(draw(1))
    seen = project(
        phrases.activations,
        mean_difference(phrases.activations[phrases.positive], phrases.activations[~phrases.positive]),
    )

    found = leave_one_pair_out(phrases, phrases, mean_difference)

    assert min(auroc(seen[:, row], phrases.positive) for row in range(ROWS)) == 1.0
    assert found.auroc == pytest.approx(0.5, abs=NEAR_CHANCE)


def test_the_vector_comes_from_the_build_set_and_the_separation_from_the_test_set():
    towards, away = plant(draw(1), row=2), plant(draw(2), row=2, strength=-6.0)

    found = leave_one_pair_out(towards, away, mean_difference)

    assert found.auroc[2] < 0.01


def test_separation_is_the_mean_over_the_left_out_pairs():
    build, test = draw(1, per_side=4), draw(2, per_side=3)

    found = leave_one_pair_out(build, test, mean_difference)

    folds = []
    for pair in range(PAIRS):
        others, held = build.pair != pair, test.pair == pair
        direction = mean_difference(
            build.activations[others & build.positive], build.activations[others & ~build.positive]
        )
        scores = project(test.activations[held], direction)
        folds.append([auroc(scores[:, row], test.positive[held]) for row in range(ROWS)])
    np.testing.assert_allclose(found.auroc, np.mean(folds, axis=0), rtol=1e-6)


def test_separation_counts_the_rollouts_it_was_measured_on():
    assert leave_one_pair_out(draw(1, per_side=2), draw(2, per_side=3), mean_difference).rollouts == PAIRS * 2 * 3


def test_a_pair_with_one_polarity_is_not_left_out():
    rollouts = draw(1, per_side=2)
    kept = (rollouts.pair != 3) | rollouts.positive
    test = Labelled(rollouts.activations[kept], rollouts.positive[kept], rollouts.pair[kept])

    assert leave_one_pair_out(rollouts, test, mean_difference).rollouts == (PAIRS - 1) * 2 * 2


def test_a_single_pair_gives_no_separation():
    only = draw(1).of_pair(0, there=True)

    assert leave_one_pair_out(only, only, mean_difference) is None


def test_the_row_of_the_best_auroc_is_chosen():
    assert choose_row(separation([0.5, 0.5, 0.6, 0.7, 0.9, 0.8, 0.5, 0.5, 0.5]), rows=9) == 4


def test_a_tie_in_auroc_goes_to_the_larger_d():
    tied = separation([0.9] * 9, d=[9, 9, 1, 2, 3, 5, 4, 9, 9])

    assert choose_row(tied, rows=9) == 5


def test_a_difference_in_auroc_too_small_to_mean_anything_is_a_tie():
    tied = separation([0, 0, 0.9, 0.9, 0.9001, 0.9, 0.9, 0, 0], d=[0, 0, 1, 7, 3, 1, 1, 0, 0])

    assert choose_row(tied, rows=9) == 3


@pytest.mark.parametrize("blocks", [2, 3, 4, 5, 6, 12, 26, 30, 32, 80])
def test_the_chosen_row_stays_within_25_and_75_percent_of_depth(blocks):
    for best in range(blocks + 1):
        row = choose_row(separation([float(row == best) for row in range(blocks + 1)]), rows=blocks + 1)

        assert blocks * 0.25 <= row <= blocks * 0.75
        if blocks * 0.25 <= best <= blocks * 0.75:
            assert row == best


@pytest.mark.parametrize(("rows", "row"), [(31, 15), (27, 13), (5, 2), (2, 1)])
def test_without_a_separation_the_middle_row_is_chosen(rows, row):
    assert choose_row(None, rows) == row


def test_a_model_of_one_block_has_one_row_to_choose():
    assert choose_row(separation([0.9, 0.5]), rows=2) == 1


@pytest.mark.parametrize("evaluation_row", [3, 5])
def test_the_evaluation_rollouts_have_no_say_in_the_row(tmp_path, evaluation_row):
    extraction = plant(plant(draw(1, 6, rows=9), row=4), row=evaluation_row, strength=3.0)
    evaluation = plant(draw(2, 6, rows=9), row=evaluation_row)
    config = Config.model_validate(
        {"model": {"id": "org/tiny"}, "paths": {"runs": tmp_path / "runs", "vectors": tmp_path / "vectors"}}
    )
    run = Run(tmp_path / "runs" / "mine")
    store(run, extraction, "extraction")
    store(run, evaluation, "evaluation")
    evil = load_trait(find_traits(Path("no-such-folder"))["evil"])

    vector = read_vector(build_trait(evil, config, run, "nobody", lambda event: None))

    assert vector.layer == 4
    assert vector.quality["auroc"] < 0.8 < vector.quality["auroc_rows"][evaluation_row]


def store(run, labelled, split):
    """Keep labelled activations as the rollouts of a run; every position holds the same."""
    rollouts = []
    for index, (positive, pair) in enumerate(zip(labelled.positive, labelled.pair, strict=True)):
        polarity = "positive" if positive else "negative"
        name = f"{split}-{index}"
        rollouts.append(
            Rollout(name, "evil", split, polarity, int(pair), index, 0, 0, "p", "r", 1, 1, "stop"),
        )
    activations = {
        rollout.id: dict.fromkeys(POSITIONS, labelled.activations[index]) for index, rollout in enumerate(rollouts)
    }
    run.trait("evil").add_rollouts(rollouts, activations)


@pytest.mark.parametrize(
    ("held_out", "contrast", "trusted", "expected"),
    [
        (0.97, 60.0, True, ("good", "held-out AUROC 0.97")),
        (0.8, 40.0, True, ("good", "held-out AUROC 0.80")),
        (0.97, None, True, ("good", "held-out AUROC 0.97")),
        (0.97, 39.9, True, ("weak", "contrast 39 is below 40: the judge sees little of the trait")),
        (0.79, 60.0, True, ("weak", "held-out AUROC 0.79 is below 0.8")),
        (0.7996, 60.0, True, ("weak", "held-out AUROC 0.7996 is below 0.8")),
        (0.65, 60.0, True, ("weak", "held-out AUROC 0.65 is below 0.8")),
        (0.97, 60.0, False, ("weak", "the judge cannot tell the polarities apart, so nothing was filtered")),
        (None, 60.0, True, ("weak", "no held-out rollouts: nothing shows that it separates what it has not seen")),
        (
            0.64,
            60.0,
            True,
            ("unusable", "held-out AUROC 0.64: near chance on questions and pairs it has not seen"),
        ),
        (
            0.3,
            60.0,
            False,
            ("unusable", "held-out AUROC 0.30: near chance on questions and pairs it has not seen"),
        ),
    ],
)
def test_the_verdict_follows_the_table(held_out, contrast, trusted, expected):
    assert verdict(held_out, contrast, trusted) == expected
