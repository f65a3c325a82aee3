"""Ways to sum up an answer, against the formulas computed at once by numpy."""

import math

import numpy as np
import pytest

from traitcli.monitoring.summaries import SUMMARIES, Kind, Running, Summary

SCORES = np.random.default_rng(0).normal(size=50)


def _windows(length: int) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(SCORES, length)


def _moving_averages(span: int) -> np.ndarray:
    """Each token's average of all before it, weighted by (1 - 2 / (span + 1)) ** distance."""
    averages = []
    for end in range(1, len(SCORES) + 1):
        weights = (1 - 2 / (span + 1)) ** np.arange(end)[::-1]
        averages.append(np.average(SCORES[:end], weights=weights))
    return np.array(averages)


@pytest.mark.parametrize(
    ("summary", "expected"),
    [
        (Summary("rolling"), _windows(8).mean(1).max()),
        (Summary("rolling", 3), _windows(3).mean(1).max()),
        (Summary("mean"), SCORES.mean()),
        (Summary("first"), SCORES[:8].mean()),
        (Summary("any"), SCORES.max()),
        (Summary("ema"), _moving_averages(8)[7:].max()),
        (Summary("run", 4), _windows(4).min(1).max()),
    ],
)
def test_a_summary_is_its_formula(summary: Summary, expected: float) -> None:
    assert summary(SCORES) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["rolling", "mean", "first"])
def test_an_answer_shorter_than_the_window_is_summed_up_by_all_its_tokens(kind: Kind) -> None:
    assert Summary(kind)([1.0, 2.0, 6.0]) == 3.0


@pytest.mark.parametrize("summary", SUMMARIES)
def test_an_answer_without_tokens_has_no_number(summary: Summary) -> None:
    assert math.isnan(summary([]))


@pytest.mark.parametrize("summary", SUMMARIES)
def test_a_score_that_is_not_finite_is_never_passed_over(summary: Summary) -> None:
    assert not math.isfinite(summary([0.0, math.nan, 0.0, 5.0]))


@pytest.mark.parametrize("summary", [one for one in SUMMARIES if one.kind != "mean"])
def test_each_token_gives_the_value_that_is_known_by_then(summary: Summary) -> None:
    running = Running(summary)
    known = [running.add(score) for score in SCORES]
    so_far = [value for value in known if value is not None]
    assert max(so_far) == summary(SCORES)
    assert running.end() is None
