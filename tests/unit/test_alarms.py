"""Alarms: the forms of a rule, and the token at which an answer meets it."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from statistics import fmean

import pytest

from traitcli.errors import UserError
from traitcli.monitoring.alarms import Alarm, Rule, parse_rule
from traitcli.monitoring.summaries import LENGTH, Summary
from traitcli.records import Crossing

MONITORED = ("evil", "refusal")
FORMS = (
    "expected TRAIT>BOUND, FUNCTION(TRAIT)>BOUND or TRAIT@fpr=RATE%; < works too; functions: "
    "rolling, mean, first, any, ema, run"
)
EXAMPLES = (
    "for example evil>1.5 (mean of 8 tokens in a row), any(evil)>3, run(evil,5)>1 "
    "(5 tokens in a row) or evil@fpr=1%"
)
SCORES = random.Random(7).choices([-2.0, -0.7, 0.1, 0.4, 0.9, 1.7], k=40)


def results(text, scores, action="fail"):
    """Return the crossing or None for each score, and then for the end of the answer."""
    alarm = Alarm(parse_rule(text, action, MONITORED), len(scores))
    return [*map(alarm.add, scores), alarm.end()]


def raised(text, scores, action="fail"):
    """Index in the list of `results` -> crossing."""
    return {
        index: crossing for index, crossing in enumerate(results(text, scores, action)) if crossing
    }


@pytest.mark.parametrize(
    ("text", "summary", "above", "bound"),
    [
        ("evil>1.5", Summary("rolling"), True, 1.5),
        ("rolling(evil)>1.5", Summary("rolling"), True, 1.5),
        ("rolling(evil,16)>1.5", Summary("rolling", 16), True, 1.5),
        ("any(evil)>1.5", Summary("any"), True, 1.5),
        ("mean(evil)>0.8", Summary("mean"), True, 0.8),
        ("first(evil)>0.8", Summary("first"), True, 0.8),
        ("ema(evil,20)>0.8", Summary("ema", 20), True, 0.8),
        ("run(evil,5)>1", Summary("run", 5), True, 1.0),
        ("run(evil,12)<-0.25", Summary("run", 12), False, -0.25),
        ("evil<-1", Summary("rolling"), False, -1.0),
        ("mean(evil)<0", Summary("mean"), False, 0.0),
        ("evil>.5", Summary("rolling"), True, 0.5),
        ("evil>-.5", Summary("rolling"), True, -0.5),
        ("evil>+2", Summary("rolling"), True, 2.0),
        ("evil>2.", Summary("rolling"), True, 2.0),
    ],
)
def test_a_rule_says_what_is_compared_with_which_bound(text, summary, above, bound):
    rule = parse_rule(text, "stop", MONITORED)

    assert rule == Rule(text, "stop", "evil", summary, above, bound)


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
    assert rule == replace(expected, text=spaced)


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
        "evil>1e",
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
        "evil@fpr",
        "evil@fpr=",
        "evil@fpr=-1%",
        "evil@1%",
        "evil>1@fpr=1%",
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

    expected = "error: invalid --fail-on run(evil,0)>1\ncause: run has at least 1 token"
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
    found = raised("any(evil)>1.5", [0.0, 1.4, -9.0, 1.6, 8.0, 0.0, 9.0], action)

    assert found == {3: Crossing("any(evil)>1.5", action, 3, 1.6)}


def test_below_is_raised_at_the_first_token_that_is_lower():
    assert raised("any(evil) < -1", [5.0, -0.9, -1.1, -7.0]) == {
        2: Crossing("any(evil) < -1", "fail", 2, -1.1)
    }


@pytest.mark.parametrize("action", ["stop", "fail"])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_rule_without_a_function_is_about_the_mean_of_8_tokens_in_a_row(sign, action):
    scores = [sign * score for score in (9.0, *[0.0] * 10, *[2.0] * 8, *[0.0] * 5)]
    rule = "evil>1.6" if sign == 1 else "evil<-1.6"

    # 7 tokens of 2 and one of 0 before them have a mean of 1.75.
    assert raised(rule, scores, action) == {17: Crossing(rule, action, 17, sign * 1.75)}


@pytest.mark.parametrize("length", [1, 7])
def test_a_short_answer_fails_by_the_mean_of_all_its_tokens_at_its_end(length):
    assert raised("evil>1", [1.5] * length) == {length: Crossing("evil>1", "fail", length - 1, 1.5)}


def test_an_answer_that_has_ended_is_not_stopped():
    assert raised("evil>1", [1.5] * 7, "stop") == {}


def test_a_moving_average_and_the_first_tokens_are_raised_where_their_value_is_beyond_the_bound():
    assert list(raised("first(evil,3)>1", [2.0, 0.0, 4.0, 9.0])) == [2]
    assert raised("first(evil,3)>1", [0.0, 0.0, 0.0, *[9.0] * 20]) == {}
    ema = Summary("ema", 3)
    # 0.5, 0.25 … are the weights of the newest tokens; the sum of all is 1 − 0.5 ** tokens.
    assert ema([0.0, 0.0, 4.0]) == pytest.approx(4 * 0.5 / (1 - 0.5**3))
    assert raised("ema(evil,3)>2", [0.0, 0.0, 4.0]) == {
        2: Crossing("ema(evil,3)>2", "fail", 2, pytest.approx(ema([0.0, 0.0, 4.0])))
    }


@pytest.mark.parametrize(
    "rule", ["evil>1", "evil<1", "run(evil,1)>1", "mean(evil)>1", "mean(evil)<1"]
)
@pytest.mark.parametrize("action", ["stop", "fail"])
def test_the_bound_itself_raises_nothing(rule, action):
    assert raised(rule, [1.0] * 2 * LENGTH, action) == {}


def test_a_run_is_raised_at_its_last_token_with_its_lowest_score():
    assert raised("run(evil,3)>1", [1.5, 3.0, 2.0, 9.0]) == {
        2: Crossing("run(evil,3)>1", "fail", 2, 1.5)
    }


def test_a_run_restarts_after_a_token_that_is_not_beyond_the_bound():
    assert list(raised("run(evil,3)>1", [2.0, 2.0, 1.0, 2.0, 2.0, 0.0, 2.0, 2.0, 2.0])) == [8]


def test_separate_tokens_beyond_the_bound_are_not_a_run():
    assert raised("run(evil,2)>1", [2.0, 0.0] * 20) == {}


def test_a_run_alarm_is_raised_only_once():
    assert list(raised("run(evil,2)>1", [2.0] * 6 + [0.0] + [2.0] * 6)) == [1]


def test_a_run_alarm_of_one_token_is_raised_where_an_any_alarm_is():
    assert list(raised("run(evil,1)>0.5", SCORES)) == list(raised("any(evil)>0.5", SCORES)) != []


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
    one, other = Alarm(rule, 9), Alarm(rule, 9)

    one.add(2.0)
    early = other.add(2.0)

    assert early is None
    assert one.add(2.0) == Crossing("run(evil,2)>1", "fail", 1, 2.0)


def by_length(trait, summary, rate):
    """Bounds that say what was asked for."""
    assert (trait, summary, rate) == ("evil", Summary("rolling"), 0.01)
    return lambda tokens: tokens / 10


@pytest.mark.parametrize(
    "text", ["evil@fpr=1%", "evil @ fpr = 1 %", "evil@fpr=0.01", "rolling(evil)@fpr=1%"]
)
def test_a_false_positive_rate_gives_the_bound_for_the_length_of_the_answer(text):
    rule = parse_rule(text, "fail", MONITORED, by_length)

    assert (rule.above, rule.bound_at(8), rule.bound_at(20)) == (True, 0.8, 2.0)


def test_the_bound_of_an_answer_that_ends_early_is_that_of_its_own_length():
    rule = replace(parse_rule("mean(evil)>0", "fail", MONITORED), bound=lambda tokens: tokens / 10)
    alarm = Alarm(rule, tokens=500)

    found = [*map(alarm.add, [1.5] * 10), alarm.end()]

    assert found[:-1] == [None] * 10
    assert found[-1] == Crossing("mean(evil)>0", "fail", 9, 1.5)


@pytest.mark.parametrize("rate", ["0%", "50%", "1", "0"])
def test_a_rate_that_is_no_false_positive_rate_is_refused(rate):
    with pytest.raises(UserError) as error:
        parse_rule(f"evil@fpr={rate}", "fail", MONITORED, by_length)

    assert error.value.cause.startswith("a false-positive rate is above 0% and below 50%")


def test_the_rate_of_a_mean_cannot_stop_an_answer():
    with pytest.raises(UserError) as error:
        parse_rule("mean(evil)@fpr=1%", "stop", MONITORED, by_length)

    assert error.value.cause == "the false-positive rate of a mean is known for whole answers only"
    assert error.value.fix == "--stop-on 'evil@fpr=1%', or --fail-on"
