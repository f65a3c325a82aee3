"""The effect of steering, on planted scores."""

from __future__ import annotations

import math
import random
from statistics import fmean, stdev

import pytest

from traitcli.steering.dose_response import (
    MAX_LIKELIHOOD_DROP,
    MAX_REPETITION_RISE,
    MIN_QUESTIONS,
    ScoredAnswer,
    measure_dose_response,
    repetition,
)

QUESTIONS = [f"q{number}" for number in range(12)]
NOISE = [math.sin(7 * number) for number in range(12)]
"""Noise with mean zero, approximately, and size 1."""


def judged(mean, coherence=90.0, noise=3.0, shift=0, empty=0):
    """Answers with scores around a mean; `shift` selects different noise for each coefficient."""
    return [
        ScoredAnswer(
            question,
            number < empty,
            None if number < empty else mean + noise * NOISE[number - shift],
            coherence,
        )
        for number, question in enumerate(QUESTIONS)
    ]


def unjudged(mean, log_probability=-1.0, repeated=0.05, empty=0):
    """Answers from a judge without coherence."""
    return [
        ScoredAnswer(
            question, number < empty, mean + NOISE[number], None, log_probability, repeated
        )
        for number, question in enumerate(QUESTIONS)
    ]


def planted(means, **options):
    """Scores by coefficient, each with different noise."""
    return {
        c: judged(mean, shift=number, **options) for number, (c, mean) in enumerate(means.items())
    }


RISING = {-2.0: 20, -1.0: 30, 0.0: 40, 1.0: 55, 2.0: 70}


def test_a_score_that_always_rises_is_monotone_and_steers_in_both_directions():
    found = measure_dose_response(planted(RISING), 0.25, 50)

    assert (found.kept, found.rising, found.is_monotone) == ((-2.0, 2.0), (-2.0, 2.0), True)
    assert found.verdict == "steers both ways"
    assert [step.dose for step in found.steps] == [-0.5, -0.25, 0.0, 0.25, 0.5]


def test_means_standard_errors_and_the_rise_follow_their_formulas():
    answers_by_coefficient = planted(RISING)
    scores = {c: [one.score for one in answers] for c, answers in answers_by_coefficient.items()}
    pairs = [b - a for a, b in zip(scores[-2.0], scores[2.0], strict=True)]

    found = measure_dose_response(answers_by_coefficient, 0.25, 50)

    for step in found.steps:
        own = scores[step.coefficient]
        assert step.score == pytest.approx(fmean(own))
        assert step.error == pytest.approx(stdev(own) / 12**0.5)
        assert step.coherence == 90
    assert (found.rise.mean, found.rise.questions) == (pytest.approx(fmean(pairs)), 12)
    assert found.rise.error == pytest.approx(stdev(pairs) / 12**0.5)


def test_differences_are_paired_by_question_so_hard_questions_do_not_hide_a_rise():
    answers_by_coefficient = {
        c: [
            ScoredAnswer(q, False, 8.0 * number + c + 0.1 * NOISE[number - c], 90)
            for number, q in enumerate(QUESTIONS)
        ]
        for c in (0, 1)
    }

    found = measure_dose_response(
        {float(c): answers for c, answers in answers_by_coefficient.items()}, 0.25, 50
    )

    assert found.steps[0].error > 5
    assert found.verdict == "steers up only"


@pytest.mark.parametrize(
    ("means", "verdict"),
    [
        ({-1.0: 40, 0.0: 40, 1.0: 70}, "steers up only"),
        ({-1.0: 10, 0.0: 40, 1.0: 40}, "steers down only"),
        ({-1.0: 38.9, 0.0: 40, 1.0: 41.1}, "steers"),
        ({-1.0: 40, 0.0: 40, 1.0: 40}, "does not steer"),
        ({-1.0: 70, 0.0: 40, 1.0: 10}, "steers the wrong way"),
    ],
)
def test_the_verdict_names_the_direction_in_which_a_vector_steers(means, verdict):
    assert measure_dose_response(planted(means), 0.25, 50).verdict == verdict


def test_only_a_drop_that_is_not_chance_ends_the_rising_range():
    chance = measure_dose_response(planted({**RISING, 3.0: 69.5}), 0.25, 50)
    certain = measure_dose_response(planted({**RISING, 3.0: 60, 4.0: 90}), 0.25, 50)

    assert (chance.rising, chance.is_monotone) == ((-2.0, 3.0), True)
    assert (certain.rising, certain.kept, certain.is_monotone) == ((-2.0, 2.0), (-2.0, 4.0), False)
    assert certain.verdict == "steers both ways"
    assert certain.rise.mean == pytest.approx(50, abs=2)


def test_a_slow_decline_is_found_although_each_step_may_be_chance():
    means = {0.0: 50, 1.0: 70, 2.0: 69, 3.0: 68, 4.0: 67, 5.0: 66}

    found = measure_dose_response(planted(means), 0.25, 50)

    assert found.rising[0] == 0
    assert 1 < found.rising[1] < 5


def test_noise_is_rarely_called_a_drop_or_an_effect():
    draw = random.Random(0)
    doses = (-0.4, -0.2, 0.0, 0.2, 0.4, 0.6)
    flat = [
        measure_dose_response(
            {c: [ScoredAnswer(q, False, draw.gauss(50, 20), 90) for q in QUESTIONS] for c in doses},
            1,
            50,
        )
        for _ in range(200)
    ]

    assert sum(found.is_monotone for found in flat) > 140
    assert sum(found.verdict == "does not steer" for found in flat) > 185


@pytest.mark.parametrize(
    ("bad", "kept"),
    [
        ({}, (-2.0, 2.0)),
        ({2.0}, (-2.0, 1.0)),
        ({1.0}, (-2.0, 0.0)),
        ({-1.0}, (0.0, 2.0)),
        ({-1.0, 1.0}, (0.0, 0.0)),
        ({0.0}, None),
    ],
)
def test_a_side_is_kept_up_to_the_first_incoherent_coefficient(bad, kept):
    answers_by_coefficient = {
        c: judged(mean, coherence=49.9 if c in bad else 50.0) for c, mean in RISING.items()
    }

    found = measure_dose_response(answers_by_coefficient, 0.25, 50)

    assert found.kept == kept
    inside = {c for c in answers_by_coefficient if kept and kept[0] <= c <= kept[1]}
    assert {step.coefficient for step in found.steps if step.kept} == inside
    assert (found.verdict == "falls apart") == (kept in (None, (0.0, 0.0)))


def test_a_rise_among_incoherent_answers_does_not_count():
    answers_by_coefficient = {
        0.0: judged(40),
        1.0: judged(41, shift=1),
        2.0: judged(99, coherence=10, shift=2),
    }

    found = measure_dose_response(answers_by_coefficient, 0.25, 50)

    assert (found.rising, found.verdict) == ((0.0, 1.0), "does not steer")


@pytest.mark.parametrize(
    ("answers", "is_kept"),
    [
        (unjudged(70, -1.0 - MAX_LIKELIHOOD_DROP + 0.01), True),
        (unjudged(70, -1.0 - MAX_LIKELIHOOD_DROP - 0.01), False),
        (unjudged(70, repeated=0.05 + MAX_REPETITION_RISE - 0.01), True),
        (unjudged(70, repeated=0.05 + MAX_REPETITION_RISE + 0.01), False),
        (unjudged(70, empty=6), True),
        (unjudged(70, empty=7), False),
    ],
)
def test_without_coherence_likelihood_and_repetition_replace_it(answers, is_kept):
    found = measure_dose_response({0.0: unjudged(40), 1.0: answers}, 0.25, 50)

    assert found.coherence_by == "stand-ins"
    assert (found.kept == (0.0, 1.0)) == is_kept
    assert found.steps[0].coherence is None
    assert found.steps[0].perplexity == pytest.approx(math.e)


def test_empty_answers_and_missing_scores_are_counted_and_are_not_zero():
    missing = [ScoredAnswer("q3", False, None, None), ScoredAnswer("q4", False, None, None)]
    answers_by_coefficient = {0.0: judged(40), 1.0: [*judged(60, empty=3, noise=0)[:8], *missing]}

    [_, step] = measure_dose_response(answers_by_coefficient, 0.25, 50).steps

    assert (step.answers, step.empty, step.missing, step.score) == (10, 3, 2, 60)


def test_fewer_than_five_scored_questions_give_no_verdict():
    enough, few = (
        {c: judged(mean)[:n] for c, mean in RISING.items()}
        for n in (MIN_QUESTIONS, MIN_QUESTIONS - 1)
    )

    assert measure_dose_response(enough, 0.25, 50).verdict == "steers both ways"
    assert (
        measure_dose_response(few, 0.25, 50).verdict,
        measure_dose_response(few, 0.25, 50).rise,
    ) == ("cannot tell", None)


def test_repetition_is_the_share_of_three_token_runs_that_occurred_before():
    assert repetition([1, 2, 3, 4]) == 0
    assert repetition([7, 7, 7, 7, 7]) == pytest.approx(2 / 3)
    assert repetition([1, 2, 3, 1, 2, 3]) == pytest.approx(1 / 4)
    assert repetition([1, 2]) == 0
