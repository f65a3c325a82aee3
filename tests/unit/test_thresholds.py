"""Thresholds of false-positive rates: planted distributions, lengths, files and other texts."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binom, norm

from traitcli.errors import VectorError
from traitcli.monitoring.realized_rates import RealizedRate, realized_rates
from traitcli.monitoring.summaries import SUMMARIES, Summary
from traitcli.monitoring.thresholds import (
    Threshold,
    Thresholds,
    fewest_texts,
    measure,
    read_thresholds,
    summed_at,
    thresholds_path,
    write_thresholds,
)
from traitcli.records import TraitVector
from traitcli.vectors.fingerprint import fingerprint

ROLLING = Summary("rolling")
DIRECTIONS = np.arange(12, dtype=np.float32).reshape(3, 4) + 1
VECTOR = TraitVector("evil", "tiny", "mean_difference", 1, {"response_avg": DIRECTIONS}, {})
OWN = fingerprint(VECTOR, "response_avg", 1)


def draw(seed, count, tokens=40, shift=0.0):
    """Texts of independent normal token scores."""
    return np.random.default_rng(seed).normal(shift, 1, (count, tokens)).tolist()


def stored(*points):
    return Thresholds("evil", OWN, "response_avg", 1, "benign.jsonl", points)


def point(tokens, value, rate=0.01, summary=ROLLING):
    return Threshold(summary, tokens, 400, rate, value, value - 1, value + 1)


def of(points, summary, tokens, rate):
    [found] = [p for p in points if (p.summary, p.tokens, p.rate) == (summary, tokens, rate)]
    return found


@pytest.mark.parametrize("summary", SUMMARIES)
def test_one_pass_over_a_text_sums_up_each_of_its_beginnings(summary):
    [scores] = draw(0, 1, 150)

    found = summed_at(summary, scores, [8, 32, 128, 512])

    assert found == {n: pytest.approx(summary(scores[:n])) for n in (8, 32, 128)}


def test_a_threshold_is_exceeded_by_new_texts_at_its_rate():
    realized = []
    for seed in range(60):
        values = draw(seed, 400, 8)
        threshold = of(measure(values, [0.05]), Summary("mean"), 8, 0.05)
        # The mean of 8 normal scores is normal, so the exact rate is known.
        realized.append(norm.sf(threshold.value * np.sqrt(8)))

    assert np.mean(realized) == pytest.approx(0.05, abs=0.004)


def test_the_interval_contains_the_true_threshold_in_95_of_100_cases():
    true = norm.isf(0.05) / np.sqrt(8)

    hits = 0
    for seed in range(300):
        threshold = of(measure(draw(seed, 120, 8), [0.05]), Summary("mean"), 8, 0.05)
        hits += threshold.low <= true <= threshold.high
        assert threshold.low <= threshold.value <= threshold.high

    # Fewer than 273 of 300 would come of 95 % once in a thousand times.
    assert hits >= binom.ppf(0.001, 300, 0.95)


@pytest.mark.parametrize(("rate", "texts"), [(0.01, 368), (0.05, 72)])
def test_a_rate_needs_so_many_texts_that_the_highest_is_above_its_threshold(rate, texts):
    assert fewest_texts(rate) == texts
    assert (1 - rate) ** texts <= 0.025 < (1 - rate) ** (texts - 1)
    assert measure(draw(0, texts - 1), [rate]) == ()
    assert {one.rate for one in measure(draw(0, texts), [rate])} == {rate}


def test_texts_are_cut_at_each_length_that_enough_of_them_reach():
    texts = [*draw(0, 80, 100), *draw(1, 30, 40), *draw(2, 9, 600)]

    points = [one for one in measure(texts, [0.05]) if one.summary == ROLLING]

    # 100 is the longest length that 72 texts have. Only 9 have 128 tokens.
    assert [(one.tokens, one.texts) for one in points] == [(8, 119), (32, 119), (100, 89)]


def test_short_texts_count_for_no_length_that_they_do_not_reach():
    assert measure(draw(0, 500, 7), [0.05]) == ()


def test_between_two_lengths_a_bound_follows_the_logarithm_of_the_length():
    bound = stored(point(8, 1.0), point(32, 2.0)).bound(ROLLING, 0.01)

    assert [bound(n) for n in (0, 8, 16, 32, 5000)] == pytest.approx([1, 1, 1.5, 2, 2])


@pytest.mark.parametrize(
    ("summary", "rate", "cause"),
    [
        (ROLLING, 0.002, "stored: 1%, 5%"),
        (Summary("rolling", 16), 0.01, "there are some by rolling mean of 8"),
        (Summary("run", 5), 0.01, "there are some by rolling mean of 8"),
    ],
)
def test_a_threshold_that_was_not_measured_is_refused_with_those_that_were(summary, rate, cause):
    with pytest.raises(VectorError) as error:
        stored(point(8, 1.0), point(8, 0.5, 0.05)).bound(summary, rate)

    assert error.value.cause == cause


def test_a_file_gives_back_what_was_written(tmp_path):
    thresholds = stored(*measure(draw(0, 400), [0.01, 0.05]))
    path = thresholds_path(tmp_path, "evil")

    write_thresholds(path, thresholds)

    assert path.name == "evil.thresholds.json"
    assert read_thresholds(path, "evil") == thresholds


def test_a_missing_file_is_an_error_that_says_how_to_make_it(tmp_path):
    with pytest.raises(VectorError) as error:
        read_thresholds(thresholds_path(tmp_path, "evil"), "evil")

    assert error.value.fix == "measure them: traitcli calibrate FILE, with benign texts"


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"points": [{"rate": 1}]},
        {"points": 3},
        {
            "points": [
                {
                    "rate": 0.1,
                    "value": 1,
                    "low": 0,
                    "high": 2,
                    "summary": {"kind": "max", "length": 8},
                }
            ]
        },
        {"layer": "x"},
    ],
)
def test_a_damaged_file_is_refused(tmp_path, change):
    path = thresholds_path(tmp_path, "evil")
    write_thresholds(path, stored(point(8, 1.0)))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    with pytest.raises(VectorError) as error:
        read_thresholds(path, "evil")

    assert error.value.problem == f"cannot read {path}"


@pytest.mark.parametrize("text", ["", "[]", "no json", "null"])
def test_a_file_that_holds_something_else_is_refused(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)

    with pytest.raises(VectorError):
        read_thresholds(path, "evil")


@pytest.mark.parametrize("key", ["value", "low", "rate"])
def test_a_threshold_that_is_not_finite_is_refused(tmp_path, key):
    path = thresholds_path(tmp_path, "evil")
    write_thresholds(path, stored(replace(point(8, 1.0), **{key: float("nan")})))

    with pytest.raises(VectorError) as error:
        read_thresholds(path, "evil")

    assert error.value.cause == "a threshold is not finite"


def test_thresholds_belong_to_one_direction(tmp_path):
    thresholds, path = stored(point(8, 1.0)), tmp_path / "evil.thresholds.json"
    rebuilt = replace(VECTOR, directions={"response_avg": DIRECTIONS * np.float32(1.001)})
    elsewhere = DIRECTIONS.copy()
    elsewhere[2] += 1

    thresholds.check(VECTOR, "response_avg", 1, path)
    thresholds.check(
        replace(VECTOR, directions={"response_avg": elsewhere}), "response_avg", 1, path
    )
    with pytest.raises(VectorError) as other:
        thresholds.check(rebuilt, "response_avg", 1, path)
    with pytest.raises(VectorError) as layer:
        thresholds.check(VECTOR, "response_avg", 2, path)

    assert other.value.cause == "the vector was built again after they were measured"
    assert other.value.fix.startswith("measure them again: traitcli calibrate")
    assert layer.value.cause == (
        "they are of response_avg at layer 1, and the monitor reads response_avg at layer 2"
    )


@pytest.mark.parametrize(("position", "layer"), [("prompt_last", 1), ("response_avg", 3)])
def test_a_direction_that_the_vector_lacks_is_refused(position, layer):
    with pytest.raises(VectorError) as error:
        fingerprint(VECTOR, position, layer)

    assert error.value.cause == "it has response_avg at layers 0 to 2"


def realized_of(thresholds, texts, summary=ROLLING):
    [found] = [one for one in realized_rates(thresholds, texts) if one.summary == summary]
    return found


def test_benign_texts_of_the_same_kind_confirm_a_rate():
    thresholds = stored(*measure(draw(0, 2000), [0.05]))

    found = realized_of(thresholds, draw(1, 1000))

    assert (found.texts, found.outcome) == (1000, "holds")
    assert found.low < 0.05 < found.high


@pytest.mark.parametrize("shift", [0.5, -0.5])
def test_texts_that_score_otherwise_do_not_confirm_a_rate(shift):
    thresholds = stored(*measure(draw(0, 2000), [0.05]))

    assert realized_of(thresholds, draw(1, 1000, shift=shift)).outcome == "differs"


def test_each_text_is_compared_at_its_own_length():
    thresholds = stored(point(8, 1.0), point(32, 2.0))

    found = realized_of(thresholds, [[1.5] * 8, [1.5] * 32, [2.5] * 32, [0.5] * 3])

    assert (found.texts, found.alarms) == (4, 2)


@pytest.mark.parametrize(
    ("texts", "alarms", "low", "high", "outcome"),
    [
        (300, 1, 0.0, 0.02, "holds"),
        (300, 6, 0.01, 0.04, "holds"),
        (1000, 2, 0.0, 0.01, "differs"),
        (1000, 21, 0.01, 0.03, "differs"),
        (299, 3, 0.0, 0.03, "too few texts"),
        (250, 16, 0.037, 0.102, "differs"),
        (0, 0, 0.0, 1.0, "too few texts"),
    ],
)
def test_a_rate_holds_within_a_third_and_twice_of_what_it_says(texts, alarms, low, high, outcome):
    assert RealizedRate("evil", ROLLING, 0.01, texts, alarms, low, high).outcome == outcome
