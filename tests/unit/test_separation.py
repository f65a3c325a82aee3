"""Held-out separation and its uncertainty, on activations with a planted direction."""

from __future__ import annotations

import math
import statistics
from itertools import product

import numpy as np
import pytest
from scipy.stats import norm

from tests.unit.planted import LAYERS, PAIRS, draw, plant, plant_phrases, scores
from traitcli.vectors.held_out import HeldOutScores, leave_one_pair_out, score_by_length
from traitcli.vectors.methods import mean_difference, project
from traitcli.vectors.separation import auroc, auroc_interval, measure_auroc, measure_d

NEAR_CHANCE = 0.1
"""Three standard errors of the mean AUROC of five folds of 60 + 60 rollouts of noise."""
SEEDS = 200


def aurocs(held_out):
    return np.array(
        [measure_auroc(held_out, layer).value for layer in range(held_out.scores.shape[1])]
    )


def ds(held_out):
    return np.array([measure_d(held_out, layer).value for layer in range(held_out.scores.shape[1])])


def one_fold(values, positive):
    """Scores of one pair, with a different question for every rollout."""
    indices = np.arange(len(values))
    return HeldOutScores(
        np.array(values, np.float32)[:, None], np.array(positive), indices * 0, indices
    )


@pytest.mark.parametrize("seed", range(5))
def test_auroc_is_the_share_of_pairs_in_order_with_ties_half(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, 30).astype(np.float32)
    positive = np.arange(30) % 3 == 0

    found = auroc(scores, positive)

    pairs = [
        (up > down) + (up == down) / 2 for up, down in product(scores[positive], scores[~positive])
    ]
    assert found == pytest.approx(sum(pairs) / len(pairs))


@pytest.mark.parametrize(
    ("scores", "expected"), [([3, 4, 1, 2], 1.0), ([1, 2, 3, 4], 0.0), ([5, 5, 5, 5], 0.5)]
)
def test_auroc_of_separated_reversed_and_equal_scores(scores, expected):
    assert auroc(np.array(scores, np.float32), np.array([True, True, False, False])) == expected


def test_cohens_d_is_the_difference_of_means_in_pooled_standard_deviations():
    up, down = [4.0, 6.5, 7.0, 5.5, 9.0], [1.0, 3.0, 2.5]
    scores, positive = np.array(up + down, np.float32), np.array([True] * 5 + [False] * 3)

    found = measure_d(one_fold(scores, positive), 0).value

    pooled = math.sqrt((4 * statistics.variance(up) + 2 * statistics.variance(down)) / (5 + 3 - 2))
    assert found == pytest.approx((statistics.mean(up) - statistics.mean(down)) / pooled, rel=1e-6)


def test_cohens_d_is_negative_when_the_negatives_have_higher_scores():
    positive = np.array([True, True, False, False])

    found = measure_d(one_fold([0, 1, 5, 6], positive), 0).value

    assert found == pytest.approx(-5 / math.sqrt(0.5))


@pytest.mark.parametrize(
    ("scores", "positive"),
    [
        ([1, 1, 2, 2], [True, True, False, False]),
        ([1, 2, 3], [True, False, False]),
        ([1, 2, 3], [True, True, False]),
    ],
)
def test_cohens_d_is_zero_without_any_spread(scores, positive):
    assert measure_d(one_fold(scores, positive), 0).value == 0.0


def test_a_planted_direction_is_found_at_its_layer_and_nowhere_else():
    found = leave_one_pair_out(
        plant(draw(1, 60), layer=2), plant(draw(2, 60), layer=2), mean_difference
    )

    assert aurocs(found)[2] > 0.99
    assert ds(found)[2] > 4
    assert aurocs(found)[[0, 1, 3]] == pytest.approx(0.5, abs=NEAR_CHANCE)


def test_pure_noise_separates_at_chance():
    found = leave_one_pair_out(draw(1, 60), draw(2, 60), mean_difference)

    assert aurocs(found) == pytest.approx(0.5, abs=NEAR_CHANCE)
    assert ds(found) == pytest.approx(0, abs=0.2)


def test_noise_tested_on_itself_separates_at_chance():
    noise = draw(1, 60)

    found = leave_one_pair_out(noise, noise, mean_difference)

    assert aurocs(found) == pytest.approx(0.5, abs=NEAR_CHANCE)


def test_a_direction_of_one_pair_does_not_help_to_separate_that_pair():
    phrases = plant_phrases(draw(1, 60))
    seen = project(
        phrases.activations,
        mean_difference(
            phrases.activations[phrases.positive], phrases.activations[~phrases.positive]
        ),
    )

    found = leave_one_pair_out(phrases, phrases, mean_difference)

    assert min(auroc(seen[:, layer], phrases.positive) for layer in range(LAYERS)) == 1.0
    assert aurocs(found) == pytest.approx(0.5, abs=NEAR_CHANCE)


def test_the_vector_uses_the_build_set_and_the_separation_uses_the_test_set():
    towards, away = plant(draw(1, 60), layer=2), plant(draw(2, 60), layer=2, strength=-6.0)

    found = leave_one_pair_out(towards, away, mean_difference)

    assert aurocs(found)[2] < 0.01


def test_separation_is_the_mean_over_the_left_out_pairs():
    build, test = draw(1, questions=4), draw(2, questions=3)

    found = leave_one_pair_out(build, test, mean_difference)

    folds = []
    for pair in range(PAIRS):
        others, held_out = build.pair != pair, test.pair == pair
        direction = mean_difference(
            build.activations[others & build.positive], build.activations[others & ~build.positive]
        )
        scores = project(test.activations[held_out], direction)
        folds.append([auroc(scores[:, layer], test.positive[held_out]) for layer in range(LAYERS)])
    np.testing.assert_allclose(aurocs(found), np.mean(folds, axis=0), rtol=1e-6)


def test_separation_stores_how_many_rollouts_it_was_measured_on():
    assert leave_one_pair_out(
        draw(1, questions=2), draw(2, questions=3), mean_difference
    ).scores.shape == (
        PAIRS * 2 * 3,
        LAYERS,
    )


def test_a_pair_with_one_polarity_is_not_left_out():
    rollouts = draw(1, questions=2)
    kept = (rollouts.pair != 3) | rollouts.positive
    test = rollouts.select(kept)

    assert np.unique(leave_one_pair_out(rollouts, test, mean_difference).pair).tolist() == [
        0,
        1,
        2,
        4,
    ]


def test_a_single_pair_gives_no_separation():
    only = draw(1, 60)
    only = only.select(only.pair == 0)

    assert leave_one_pair_out(only, only, mean_difference) is None


@pytest.mark.parametrize("seed", range(3))
def test_a_measured_auroc_is_the_mean_of_scikit_learn_s_auroc_of_each_pair(seed):
    held_out = scores(seed)
    tied = HeldOutScores(
        np.round(held_out.scores), held_out.positive, held_out.pair, held_out.question
    )

    found = measure_auroc(tied, 0)

    folds = [
        auroc(tied.scores[tied.pair == pair, 0], tied.positive[tied.pair == pair])
        for pair in range(PAIRS)
    ]
    assert found.by_pair == pytest.approx(folds)
    assert found.value == pytest.approx(np.mean(folds))


@pytest.mark.parametrize("measure", [measure_auroc, measure_d])
def test_the_standard_error_matches_the_spread_over_samples_of_questions(measure):
    """One pair, so that only questions vary. The oracle is the spread over samples."""
    samples = [
        measure(scores(seed, questions=60, pairs=1, between_pairs=0.0), 0) for seed in range(400)
    ]

    claimed = np.sqrt(np.mean([sample.error**2 for sample in samples]))
    seen = np.std([sample.value for sample in samples])
    assert claimed == pytest.approx(seen, rel=0.12)


def test_the_standard_error_is_between_pairs_if_pairs_differ_more():
    alike = measure_auroc(scores(1, between_pairs=0.0), 0)
    different = measure_auroc(scores(1, between_pairs=2.0), 0)

    assert alike.degrees_of_freedom == 19
    assert different.degrees_of_freedom == PAIRS - 1
    assert different.error == pytest.approx(np.std(different.by_pair, ddof=1) / math.sqrt(PAIRS))


def test_one_question_of_one_pair_gives_no_standard_error():
    held_out = HeldOutScores(
        np.array([[1.0], [0.0]], np.float32),
        np.array([True, False]),
        np.zeros(2, int),
        np.zeros(2, int),
    )

    found = measure_auroc(held_out, 0)

    low, high = auroc_interval(found, held_out)
    assert found.error == math.inf
    assert (low < 0.2, high) == (True, 1.0)


@pytest.mark.parametrize(
    ("gap", "between_pairs", "of_question"),
    [
        (0.0, 0.0, 0.0),
        (0.0, 0.5, 0.5),
        (1.2, 0.4, 0.5),
        (2.0, 0.5, 0.5),
        (1.0, 0.0, 1.0),
        (3.5, 0.5, 0.5),
    ],
)
def test_intervals_contain_the_truth_as_often_as_promised(gap, between_pairs, of_question):
    """Count over 200 seeds how often the interval covers the value of the whole population.

    The nominal share is 95 %. In 200 trials, the share is below 91 % only once in 100 times.
    """
    gaps = np.random.default_rng(99).normal(gap, between_pairs, 20_000)
    # The standard deviation of a score within its class.
    spread = math.sqrt(1 + of_question**2 + of_question**2 / 4)
    truth = norm.cdf(gaps / (spread * math.sqrt(2))).mean(), gap / spread

    covered = np.zeros(2)
    for seed in range(SEEDS):
        held_out = scores(seed, gap=gap, between_pairs=between_pairs, of_question=of_question)
        bounds = (
            auroc_interval(measure_auroc(held_out, 0), held_out),
            measure_d(held_out, 0).interval(),
        )
        covered += [low <= true <= high for true, (low, high) in zip(truth, bounds, strict=True)]

    assert (covered / SEEDS >= 0.91).all()


def test_intervals_are_narrow_enough_to_be_useful():
    widths = []
    for seed in range(SEEDS):
        held_out = scores(seed)
        low, high = auroc_interval(measure_auroc(held_out, 0), held_out)
        widths.append(high - low)

    assert np.mean(widths) < 0.3


def test_a_perfect_order_still_has_an_interval_that_more_questions_narrow():
    few, many = (scores(1, questions=count, gap=50.0) for count in (5, 100))

    bounds = [auroc_interval(measure_auroc(held_out, 0), held_out) for held_out in (few, many)]

    assert [high for _, high in bounds] == [1.0, 1.0]
    assert 0.5 < bounds[0][0] < 0.8 < 0.95 < bounds[1][0] < 1.0


def test_reversed_scores_reverse_the_interval():
    held_out = scores(3)
    turned = HeldOutScores(-held_out.scores, held_out.positive, held_out.pair, held_out.question)

    low, high = auroc_interval(measure_auroc(held_out, 0), held_out)

    assert auroc_interval(measure_auroc(turned, 0), turned) == pytest.approx(
        (1 - high, 1 - low), abs=0.02
    )


def test_a_difference_of_scores_on_the_same_rollouts_has_a_smaller_error():
    held_out = scores(4)
    noise = np.random.default_rng(0).normal(0, 0.1, held_out.scores.shape)
    nearly = HeldOutScores(
        (held_out.scores + noise).astype(np.float32),
        held_out.positive,
        held_out.pair,
        held_out.question,
    )
    one, other = measure_auroc(held_out, 0), measure_auroc(nearly, 0)

    ahead = one.minus(other, held_out)

    assert ahead.value == pytest.approx(one.value - other.value)
    assert ahead.error < one.error / 3


def test_the_other_pairs_decide_whether_long_answers_count_as_positive():
    longer, shorter = draw(1), draw(2)
    longer.length[:] = np.where(longer.positive, 50, 10)
    shorter.length[:] = np.where(shorter.positive, 10, 50)

    assert aurocs(score_by_length(longer, longer)) == [1.0]
    assert aurocs(score_by_length(shorter, shorter)) == [1.0]
    assert aurocs(score_by_length(longer, shorter)) == [0.0]
