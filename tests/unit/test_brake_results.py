"""What a brake costs against a push of the same effect, calculated by hand."""

from __future__ import annotations

import math

import pytest

from traitcli.interventions import Ablate, Cap, Condition, Gate, Push
from traitcli.steering.brake_results import measure_brake, push_of_equal_effect, wanted_sign
from traitcli.steering.dose_response import ScoredAnswer, measure_dose_response


def answers(scores, coherence=None, likelihood=-1.0, repeated=0.0):
    return [
        ScoredAnswer(f"q{number}", False, score, coherence, likelihood, repeated)
        for number, score in enumerate(scores)
    ]


BASE = [60.0, 50.0, 40.0, 55.0, 45.0]


def shifted(by):
    return [score + by for score in BASE]


PUSHES = {
    -4.0: answers(shifted(-30), likelihood=-3.0, repeated=0.4),
    -2.0: answers(shifted(-10), likelihood=-2.0, repeated=0.2),
    0.0: answers(BASE),
    2.0: answers(shifted(5), likelihood=-1.5),
}


@pytest.fixture
def pushes():
    return measure_dose_response(PUSHES, dose=0.1, least_coherence=50)


def test_between_two_coefficients_the_cost_is_interpolated(pushes):
    found = push_of_equal_effect(pushes.steps, -15.0)

    # A quarter of the way from -2 to -4.
    assert found.coefficient == pytest.approx(-2.5)
    assert found.dose == pytest.approx(-0.25)
    assert found.repetition == pytest.approx(0.25)
    assert found.perplexity == pytest.approx(math.exp(2.25))
    assert found.coherence is None


def test_the_push_nearest_to_0_counts(pushes):
    assert push_of_equal_effect(pushes.steps, -5.0).coefficient == pytest.approx(-1.0)
    assert push_of_equal_effect(pushes.steps, 2.5).coefficient == pytest.approx(1.0)


@pytest.mark.parametrize("effect", [0.0, -31.0, 6.0])
def test_without_effect_or_beyond_all_pushes_there_is_none(pushes, effect):
    assert push_of_equal_effect(pushes.steps, effect) is None


def test_where_the_vector_steers_the_wrong_way_the_other_side_is_found():
    wrong = {-2.0: answers(shifted(10)), 0.0: answers(BASE), 2.0: answers(shifted(-10))}
    steps = measure_dose_response(wrong, dose=0.1, least_coherence=50).steps

    assert push_of_equal_effect(steps, -5.0).coefficient == pytest.approx(1.0)


def test_a_brake_has_an_effect_a_wrong_share_and_a_verdict_on_coherence(pushes):
    own = answers([50.0, 40.0, 45.0, 35.0, 30.0], likelihood=-1.9)

    found = measure_brake("evil<=0@2", -1, own, PUSHES[0.0], pushes, 50)

    assert found.score == pytest.approx(40.0)
    assert found.effect.mean == pytest.approx(-10.0)
    assert found.wrong == pytest.approx(1 / 5)
    assert found.perplexity == pytest.approx(math.exp(1.9))
    assert found.kept
    assert found.equal.coefficient == pytest.approx(-2.0)
    worse = answers(BASE, likelihood=-2.1)
    assert not measure_brake("evil<=0@2", -1, worse, PUSHES[0.0], pushes, 50).kept


def test_coherence_of_a_judge_decides_where_there_is_one():
    judged = {0.0: answers(BASE, coherence=90), -2.0: answers(shifted(-10), coherence=70)}
    pushes = measure_dose_response(judged, dose=0.1, least_coherence=50)
    own = answers(shifted(-5), coherence=40)

    found = measure_brake("evil<=0@2", -1, own, judged[0.0], pushes, 50)

    assert not found.kept
    assert found.equal.coherence == pytest.approx(80)


@pytest.mark.parametrize(
    ("interventions", "sign"),
    [
        ([Ablate("evil", 2)], -1),
        ([Cap("evil", 0.0, True, 2)], -1),
        ([Cap("evil", 0.0, False, 2)], 1),
        ([Gate("evil", 2.0, 2, Condition("evil", False, 0.0))], 1),
        ([Gate("refusal", 2.0, 2, Condition("evil", True, 0.0))], -1),
        ([Ablate("evil", None), Push("evil", 1.0, 2)], 1),
    ],
)
def test_a_brake_should_lower_a_trait_unless_it_pushes_or_caps_it_upward(interventions, sign):
    assert wanted_sign("evil", interventions) == sign
