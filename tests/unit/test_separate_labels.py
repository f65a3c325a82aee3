"""AUROC of labelled answers, its intervals over prompts, and rates; against naive loops."""

from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from traitcli.monitoring.separate_labels import (
    DRAWS,
    _draw,
    resample,
    true_positive_rate,
    weighted_auroc,
)


def draw(seed, count=60, gap=1.0):
    """Rounded, so that there are ties."""
    rng = np.random.default_rng(seed)
    positive = np.arange(count) % 3 == 0
    return np.round(rng.normal(0, 1, count) + gap * positive, 1), positive


def test_a_weighted_auroc_is_that_of_the_texts_repeated():
    scores, positive = draw(0)
    weights = np.random.default_rng(1).integers(0, 4, (5, len(scores))).astype(float)

    found = weighted_auroc(scores, positive, weights)

    for value, row in zip(found, weights.astype(int), strict=True):
        expected = roc_auc_score(np.repeat(positive, row), np.repeat(scores, row))
        assert value == pytest.approx(expected)


def test_a_draw_without_both_labels_is_not_a_number():
    weights = np.array([[1.0, 0.0], [1.0, 1.0]])

    found = weighted_auroc(np.array([1.0, 0.0]), np.array([True, False]), weights)

    assert np.isnan(found[0])
    assert found[1] == 1


def test_the_bootstrap_over_prompts_is_that_of_a_naive_loop():
    scores, positive = draw(2)
    prompts = [f"prompt {index // 4}" for index in range(len(scores))]

    found = resample({"own": scores}, positive, prompts)["own"]

    counts = _draw(np.random.default_rng(0), DRAWS, 15).astype(int)
    for value, count in list(zip(found.draws, counts, strict=True))[:100]:
        assert count.sum() == 15
        chosen = [
            text
            for prompt, times in enumerate(count)
            for _ in range(times)
            for text in range(4 * prompt, 4 * prompt + 4)
        ]
        assert value == pytest.approx(roc_auc_score(positive[chosen], scores[chosen]))
    assert found.interval().low == pytest.approx(np.quantile(found.draws, 0.025))
    assert found.auroc == pytest.approx(roc_auc_score(positive, scores))


def test_the_draws_do_not_depend_on_how_many_fit_in_memory(monkeypatch):
    scores, positive = draw(3)
    whole = resample({"own": scores}, positive, range(60))["own"]
    monkeypatch.setattr("traitcli.monitoring.separate_labels._NUMBERS_AT_ONCE", 60 * 7)

    parts = resample({"own": scores}, positive, range(60))["own"]

    assert np.array_equal(whole.draws, parts.draws)


def test_answers_that_repeat_a_prompt_widen_the_interval():
    rng = np.random.default_rng(4)
    positive = np.repeat(np.arange(40) % 2 == 0, 10)
    scores = np.repeat(rng.normal(0, 1, 40), 10) + positive

    of_prompts = resample({"own": scores}, positive, list(np.repeat(range(40), 10)))["own"]
    of_texts = resample({"own": scores}, positive, range(400))["own"]

    widths = [one.interval().high - one.interval().low for one in (of_prompts, of_texts)]
    assert widths[0] > 2 * widths[1]


def test_intervals_contain_the_planted_auroc_about_as_often_as_they_say():
    # Two normal distributions one standard deviation apart: Φ(1 / √2).
    true, inside = 0.7602, 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        positive = np.arange(200) < 100
        found = resample({"own": rng.normal(0, 1, 200) + positive}, positive, range(200))["own"]
        inside += found.interval().low <= true <= found.interval().high

    assert inside >= 88


def test_a_lead_over_an_equal_score_is_exactly_zero():
    scores, positive = draw(5)
    drawn = resample({"own": scores, "same": 2 * scores + 1}, positive, range(60))

    assert drawn["own"].lead(drawn["same"]) == (0, 0, 0)


def test_a_lead_over_length_counts_short_answers_as_much_as_long_ones():
    scores, positive = draw(6)
    noise = np.random.default_rng(7).normal(0, 1, 60)
    drawn = resample({"own": noise, "long": scores, "short": -scores}, positive, range(60))

    long, short = (drawn["own"].lead(drawn[one], either_way=True) for one in ("long", "short"))

    assert long == pytest.approx(short)
    assert long.value < 0 < drawn["own"].lead(drawn["short"]).value


@pytest.mark.parametrize("rate", [0.01, 0.05])
def test_a_true_positive_rate_is_that_of_the_best_threshold_within_the_rate(rate):
    rng = np.random.default_rng(8)
    positive = np.arange(400) < 150
    scores = np.round(rng.normal(0, 1, 400) + 1.5 * positive, 1)

    found = true_positive_rate(scores, positive, rate)

    allowed = [
        (scores[positive] > bound).mean()
        for bound in scores
        if (scores[~positive] > bound).mean() <= rate
    ]
    assert found == pytest.approx(max(allowed))


def test_a_rate_that_no_negative_may_exceed_has_no_true_positive_rate():
    scores = np.arange(60.0)

    assert true_positive_rate(scores, np.arange(60) >= 20, 0.05) == 1
    assert true_positive_rate(scores, np.arange(60) >= 19, 0.05) is None


def test_a_thousand_texts_by_six_scores_take_less_than_two_seconds():
    rng = np.random.default_rng(9)
    positive = np.arange(1000) % 2 == 0
    scores = {str(kind): rng.normal(0, 1, 1000) for kind in range(6)}
    start = time.process_time()

    resample(scores, positive, range(1000))

    assert time.process_time() - start < 2
