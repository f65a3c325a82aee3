"""Alarms: what a rule may look like, and the token at which an answer crosses it."""

from __future__ import annotations

import math
import random
from statistics import fmean

import pytest

from traitcli.errors import UserError
from traitcli.monitoring.alarms import MEAN_FROM, Alarm, Rule, parse_rule
from traitcli.records import Crossing

WATCHED = ("evil", "refusal")
FORMS = "write evil>1.5 (any token), mean(evil)>0.8, or run(evil,5)>1 (so many tokens in a row); < works too"
UNKNOWN_FORM = "it has no form that is known"
SCORES = random.Random(7).choices([-2.0, -0.7, 0.1, 0.4, 0.9, 1.7], k=40)


def heard(text, scores, action="fail"):
    """What each score raises, and at last what the end of the answer does."""
    alarm = Alarm(parse_rule(text, action, WATCHED))
    return [*map(alarm.take, scores), alarm.end()]


def raised(text, scores, action="fail"):
    """place in the list above -> crossing, of those that were raised."""
    return {
        place: crossing for place, crossing in enumerate(heard(text, scores, action)) if crossing
    }


@pytest.mark.parametrize(
    ("text", "kind", "length", "above", "bound"),
    [
        ("evil>1.5", "any", 1, True, 1.5),
        ("any(evil)>1.5", "any", 1, True, 1.5),
        ("mean(evil)>0.8", "mean", 1, True, 0.8),
        ("run(evil,5)>1", "run", 5, True, 1.0),
        ("run(evil,12)<-0.25", "run", 12, False, -0.25),
        ("evil<-1", "any", 1, False, -1.0),
        ("mean(evil)<0", "mean", 1, False, 0.0),
        ("evil>.5", "any", 1, True, 0.5),
        ("evil>-.5", "any", 1, True, -0.5),
        ("evil>+2", "any", 1, True, 2.0),
        ("evil>2.", "any", 1, True, 2.0),
    ],
)
def test_a_rule_says_what_is_compared_with_which_bound(text, kind, length, above, bound):
    rule = parse_rule(text, "stop", WATCHED)

    assert rule == Rule(text, "stop", "evil", kind, length, above, bound)


@pytest.mark.parametrize(
    ("spaced", "tight"),
    [
        ("evil > 1.5", "evil>1.5"),
        ("evil <\t-1", "evil<-1"),
        ("mean(evil)  >0.8", "mean(evil)>0.8"),
        ("run(evil,  5) > 1", "run(evil,5)>1"),
    ],
)
def test_spaces_around_the_sign_and_behind_the_comma_change_nothing_but_the_text(spaced, tight):
    rule = parse_rule(spaced, "fail", WATCHED)

    expected = parse_rule(tight, "fail", WATCHED)
    assert rule == Rule(
        spaced, "fail", "evil", expected.kind, expected.length, expected.above, expected.bound
    )


def test_spaces_around_a_rule_are_no_part_of_its_text():
    assert parse_rule("  evil>1\n", "fail", WATCHED) == parse_rule("evil>1", "fail", WATCHED)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "evil",
        "evil>",
        ">1",
        "evil=1",
        "evil>=1",
        "evil>1 2",
        "evil>1e3",
        "evil>nan",
        "evil>- 1",
        "evil>1,5",
        "evil>١",  # a digit, and no ASCII one
        "evil,3>1",
        "any(evil,3)>1",
        "mean(evil,3)>1",
        "run(evil)>1",
        "run(evil,-1)>1",
        "run(evil,2.5)>1",
        "max(evil)>1",
        "mean(evil>1",
        "evil)>1",
        "mean()>1",
        "evil>1 refusal>1",
    ],
)
def test_what_has_no_form_of_a_rule_is_refused(text):
    with pytest.raises(UserError) as error:
        parse_rule(text, "stop", WATCHED)

    assert (
        str(error.value)
        == f"error: --stop-on {text} is not an alarm\ncause: {UNKNOWN_FORM}\nfix:   {FORMS}"
    )


def test_a_run_of_no_tokens_is_refused():
    with pytest.raises(UserError) as error:
        parse_rule("run(evil,0)>1", "fail", WATCHED)

    expected = "error: --fail-on run(evil,0)>1 is not an alarm\ncause: a run has at least one token"
    assert str(error.value) == f"{expected}\nfix:   {FORMS}"


@pytest.mark.parametrize(
    ("text", "fix"),
    [("mean(refusl)>1", "did you mean refusal?"), ("xyz>1", "choose one of them")],
    ids=["near", "far"],
)
def test_a_trait_that_is_not_watched_is_refused_with_a_suggestion_where_one_is_near(text, fix):
    with pytest.raises(UserError) as error:
        parse_rule(text, "fail", WATCHED)

    problem = f"error: --fail-on {text} names no trait that is watched"
    assert str(error.value) == f"{problem}\ncause: watched: evil, refusal\nfix:   {fix}"


@pytest.mark.parametrize("action", ["stop", "fail"])
def test_any_is_raised_at_the_first_token_beyond_the_bound_and_never_again(action):
    found = raised("evil>1.5", [0.0, 1.4, -9.0, 1.6, 8.0, 0.0, 9.0], action)

    assert found == {3: Crossing("evil>1.5", action, 3, 1.6)}


def test_below_is_raised_at_the_first_token_that_is_lower():
    assert raised("evil < -1", [5.0, -0.9, -1.1, -7.0]) == {
        2: Crossing("evil < -1", "fail", 2, -1.1)
    }


@pytest.mark.parametrize(
    "rule", ["evil>1", "evil<1", "run(evil,1)>1", "mean(evil)>1", "mean(evil)<1"]
)
@pytest.mark.parametrize("action", ["stop", "fail"])
def test_the_bound_itself_lies_on_neither_side(rule, action):
    assert raised(rule, [1.0] * 2 * MEAN_FROM, action) == {}


def test_a_run_is_raised_at_its_last_token_with_that_ones_score():
    assert raised("run(evil,3)>1", [2.0, 3.0, 1.5, 9.0]) == {
        2: Crossing("run(evil,3)>1", "fail", 2, 1.5)
    }


def test_a_run_begins_anew_behind_a_token_that_is_not_beyond():
    assert list(raised("run(evil,3)>1", [2.0, 2.0, 1.0, 2.0, 2.0, 0.0, 2.0, 2.0, 2.0])) == [8]


def test_tokens_beyond_the_bound_here_and_there_are_no_run():
    assert raised("run(evil,2)>1", [2.0, 0.0] * 20) == {}


def test_a_run_is_raised_once_however_long_it_is_and_however_often_it_comes():
    assert list(raised("run(evil,2)>1", [2.0] * 6 + [0.0] + [2.0] * 6)) == [1]


def test_a_run_of_one_is_raised_where_any_is():
    assert list(raised("run(evil,1)>0.5", SCORES)) == list(raised("evil>0.5", SCORES)) != []


@pytest.mark.parametrize("sign", [1, -1])
def test_a_mean_stops_an_answer_at_the_first_running_mean_beyond_from_the_eighth_token_on(sign):
    scores = [sign * score for score in (5.0, 5.0, 5.0, *[-3.0] * 7, *[2.0] * 20)]
    rule = "mean(evil)>0.6" if sign == 1 else "mean(evil)<-0.6"

    found = raised(rule, scores, "stop")

    means = [fmean(scores[: count + 1]) for count in range(len(scores))]
    place = next(i for i, mean in enumerate(means) if i + 1 >= 8 and sign * mean > 0.6)
    assert sign * means[2] > 0.6
    assert found == {place: Crossing(rule, "stop", place, pytest.approx(means[place]))}


def test_a_mean_does_not_stop_an_answer_at_its_seventh_token_and_does_at_its_eighth():
    assert list(raised("mean(evil)>1", [9.0] * 20, "stop")) == [7]


def test_a_mean_that_stops_says_nothing_at_the_end_of_an_answer_of_seven_tokens():
    assert raised("mean(evil)>1", [9.0] * 7, "stop") == {}


def test_a_mean_that_stops_is_not_raised_again_at_the_end():
    assert heard("mean(evil)>1", [9.0] * 8, "stop")[-1] is None


@pytest.mark.parametrize("tokens", [1, 7, 40])
def test_a_mean_that_fails_is_raised_at_the_end_only_and_is_the_whole_answers(tokens):
    scores = SCORES[:tokens]
    bound = round(fmean(scores) - 0.01, 4)

    found = raised(f"mean(evil)>{bound}", scores)

    crossing = Crossing(f"mean(evil)>{bound}", "fail", tokens - 1, pytest.approx(fmean(scores)))
    assert found == {tokens: crossing}


def test_a_mean_that_was_beyond_the_bound_only_on_the_way_fails_nothing():
    assert raised("mean(evil)>1", [9.0] * 10 + [-9.0] * 10) == {}


@pytest.mark.parametrize("rule", ["evil>1", "run(evil,2)>1", "mean(evil)>-1", "mean(evil)<1"])
def test_an_answer_without_a_token_crosses_nothing(rule):
    assert heard(rule, []) == [None]


@pytest.mark.parametrize("action", ["stop", "fail"])
@pytest.mark.parametrize(
    "rule", ["evil>-9", "evil<9", "run(evil,1)>-9", "mean(evil)>-9", "mean(evil)<9"]
)
def test_a_score_that_is_no_number_never_crosses(rule, action):
    assert raised(rule, [math.nan] * 10, action) == {}


def test_a_score_that_is_no_number_ends_a_run():
    assert raised("run(evil,3)>1", [2.0, 2.0, math.nan, 2.0, 2.0]) == {}


def test_two_alarms_of_one_rule_know_nothing_of_each_other():
    rule = parse_rule("run(evil,2)>1", "fail", WATCHED)
    one, other = Alarm(rule), Alarm(rule)

    one.take(2.0)
    early = other.take(2.0)

    assert early is None
    assert one.take(2.0) == Crossing("run(evil,2)>1", "fail", 1, 2.0)
