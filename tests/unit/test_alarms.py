"""Alarms: the forms of a rule, and the token at which an answer meets it."""

from __future__ import annotations

import math
import random
from statistics import fmean

import pytest

from traitcli.errors import UserError
from traitcli.monitoring.alarms import MEAN_FROM, Alarm, Rule, parse_rule
from traitcli.records import Crossing

MONITORED = ("evil", "refusal")
FORMS = "expected TRAIT>BOUND, mean(TRAIT)>BOUND or run(TRAIT,TOKENS)>BOUND; < works too"
EXAMPLES = "for example evil>1.5, mean(evil)>0.8 or run(evil,5)>1 (5 tokens in a row)"
SCORES = random.Random(7).choices([-2.0, -0.7, 0.1, 0.4, 0.9, 1.7], k=40)


def results(text, scores, action="fail"):
    """Return the crossing or None for each score, and then for the end of the answer."""
    alarm = Alarm(parse_rule(text, action, MONITORED))
    return [*map(alarm.add, scores), alarm.end()]


def raised(text, scores, action="fail"):
    """Index in the list of `results` -> crossing."""
    return {
        index: crossing for index, crossing in enumerate(results(text, scores, action)) if crossing
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
    rule = parse_rule(text, "stop", MONITORED)

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
def test_spaces_around_the_sign_and_after_the_comma_change_only_the_text(spaced, tight):
    rule = parse_rule(spaced, "fail", MONITORED)

    expected = parse_rule(tight, "fail", MONITORED)
    assert rule == Rule(
        spaced, "fail", "evil", expected.kind, expected.length, expected.above, expected.bound
    )


def test_spaces_around_a_rule_are_not_part_of_its_text():
    assert parse_rule("  evil>1\n", "fail", MONITORED) == parse_rule("evil>1", "fail", MONITORED)


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
        "evil>١",  # A digit that is not ASCII.
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
def test_a_rule_of_another_form_is_refused_with_examples(text):
    with pytest.raises(UserError) as error:
        parse_rule(text, "stop", MONITORED)

    expected = f"error: invalid --stop-on {text}\ncause: {FORMS}\nfix:   {EXAMPLES}"
    assert str(error.value) == expected


def test_a_run_of_no_tokens_is_refused():
    with pytest.raises(UserError) as error:
        parse_rule("run(evil,0)>1", "fail", MONITORED)

    expected = "error: invalid --fail-on run(evil,0)>1\ncause: a run has at least 1 token"
    assert str(error.value) == f"{expected}\nfix:   {EXAMPLES}"


@pytest.mark.parametrize(
    ("text", "trait", "fix"),
    [
        ("mean(refusl)>1", "refusl", "did you mean refusal?"),
        ("xyz>1", "xyz", "choose one of these"),
    ],
    ids=["near", "far"],
)
def test_a_trait_that_is_not_monitored_is_refused_with_a_suggestion(text, trait, fix):
    with pytest.raises(UserError) as error:
        parse_rule(text, "fail", MONITORED)

    problem = f"error: --fail-on {text}: the trait {trait} is not monitored"
    assert str(error.value) == f"{problem}\ncause: monitored: evil, refusal\nfix:   {fix}"


@pytest.mark.parametrize("action", ["stop", "fail"])
def test_any_is_raised_at_the_first_token_beyond_the_bound_and_not_again(action):
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
def test_the_bound_itself_raises_nothing(rule, action):
    assert raised(rule, [1.0] * 2 * MEAN_FROM, action) == {}


def test_a_run_is_raised_at_its_last_token_with_its_score():
    assert raised("run(evil,3)>1", [2.0, 3.0, 1.5, 9.0]) == {
        2: Crossing("run(evil,3)>1", "fail", 2, 1.5)
    }


def test_a_run_restarts_after_a_token_that_is_not_beyond_the_bound():
    assert list(raised("run(evil,3)>1", [2.0, 2.0, 1.0, 2.0, 2.0, 0.0, 2.0, 2.0, 2.0])) == [8]


def test_separate_tokens_beyond_the_bound_are_not_a_run():
    assert raised("run(evil,2)>1", [2.0, 0.0] * 20) == {}


def test_a_run_alarm_is_raised_only_once():
    assert list(raised("run(evil,2)>1", [2.0] * 6 + [0.0] + [2.0] * 6)) == [1]


def test_a_run_alarm_of_one_token_is_raised_where_an_any_alarm_is():
    assert list(raised("run(evil,1)>0.5", SCORES)) == list(raised("evil>0.5", SCORES)) != []


@pytest.mark.parametrize("sign", [1, -1])
def test_a_mean_stops_an_answer_at_the_first_running_mean_from_token_8_on(sign):
    scores = [sign * score for score in (5.0, 5.0, 5.0, *[-3.0] * 7, *[2.0] * 20)]
    rule = "mean(evil)>0.6" if sign == 1 else "mean(evil)<-0.6"

    found = raised(rule, scores, "stop")

    means = [fmean(scores[: count + 1]) for count in range(len(scores))]
    index = next(i for i, mean in enumerate(means) if i + 1 >= 8 and sign * mean > 0.6)
    assert sign * means[2] > 0.6
    assert found == {index: Crossing(rule, "stop", index, pytest.approx(means[index]))}


def test_a_mean_stops_an_answer_at_token_8_at_the_earliest():
    assert list(raised("mean(evil)>1", [9.0] * 20, "stop")) == [7]


def test_a_mean_that_stops_is_not_raised_at_the_end_of_seven_tokens():
    assert raised("mean(evil)>1", [9.0] * 7, "stop") == {}


def test_a_mean_that_stops_is_not_raised_again_at_the_end():
    assert results("mean(evil)>1", [9.0] * 8, "stop")[-1] is None


@pytest.mark.parametrize("tokens", [1, 7, 40])
def test_a_mean_that_fails_is_that_of_the_whole_answer(tokens):
    scores = SCORES[:tokens]
    bound = round(fmean(scores) - 0.01, 4)

    found = raised(f"mean(evil)>{bound}", scores)

    crossing = Crossing(f"mean(evil)>{bound}", "fail", tokens - 1, pytest.approx(fmean(scores)))
    assert found == {tokens: crossing}


def test_a_running_mean_beyond_the_bound_does_not_fail():
    assert raised("mean(evil)>1", [9.0] * 10 + [-9.0] * 10) == {}


@pytest.mark.parametrize("rule", ["evil>1", "run(evil,2)>1", "mean(evil)>-1", "mean(evil)<1"])
def test_an_answer_without_tokens_meets_no_rule(rule):
    assert results(rule, []) == [None]


@pytest.mark.parametrize("action", ["stop", "fail"])
@pytest.mark.parametrize(
    "rule", ["evil>-9", "evil<9", "run(evil,1)>-9", "mean(evil)>-9", "mean(evil)<9"]
)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_meets_every_rule(rule, action, value):
    assert len(raised(rule, [value] * 10, action)) == 1


def test_one_nan_among_scores_fails_a_mean():
    assert len(raised("mean(evil)>5", [0.0, math.nan, 0.0])) == 1


def test_two_alarms_of_one_rule_are_independent():
    rule = parse_rule("run(evil,2)>1", "fail", MONITORED)
    one, other = Alarm(rule), Alarm(rule)

    one.add(2.0)
    early = other.add(2.0)

    assert early is None
    assert one.add(2.0) == Crossing("run(evil,2)>1", "fail", 1, 2.0)
