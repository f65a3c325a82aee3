"""Judge quality: scores compared with the instructions and with another judge."""

from __future__ import annotations

import json
import random

import pytest

from traitcli.errors import RunError
from traitcli.inspection.judge_quality import agreement, histogram, judge_quality
from traitcli.judging.identity import choose_judges, judges_by_latest
from traitcli.judging.reasons import merge_reasons
from traitcli.records import Judgement, Rollout, Score

PROMPTED = "openai:gpt-4.1-mini@api.openai.com:0_100+coherence#ab12cd34"
OTHER = "openai:gpt-4o@localhost:8000:0_10#00ff00ff"
NO_COHERENCE = Score(None, "it has none", final=True)


def make_rollout(name):
    """A rollout called `+0`, `-12` and so on."""
    return Rollout(
        id=name,
        trait="evil",
        split="extraction",
        polarity="positive" if name[0] == "+" else "negative",
        pair=0,
        question=int(name[1:]),
        repeat=0,
        seed=0,
        prompt="p",
        response=f"answer {name}",
        prompt_tokens=1,
        response_tokens=5,
        finish_reason="stop",
    )


def judged(scores, judge="fake", coherence=NO_COHERENCE, method=""):
    """Judgements from rollout -> value, or rollout -> the reason of a missing score."""
    return [
        Judgement(
            name,
            judge,
            Score(None, s) if isinstance(s, str) else Score(s, method=method),
            coherence,
        )
        for name, s in scores.items()
    ]


def quality_of(scores, *others, **options):
    """`judge_quality` of the judge `fake` on the rollouts it scored; others: rollout -> score."""
    judgements = judged(scores, **options)
    for number, other in enumerate(others):
        judgements += judged(other, f"other{number}")
    return judge_quality(
        [make_rollout(n) for n in scores], judgements, "fake", lambda rollout: f"asked {rollout.id}"
    )


def doubtful(scores, *others):
    """(rollout, reason) of the doubtful rollouts, in their listed order."""
    return [
        (one["rollout"], one["why"]) for one in quality_of(scores, *others)["doubtful"]["rollouts"]
    ]


def random_scores(count, seed):
    draw = random.Random(seed)
    return {
        f"{draw.choice('+-')}{n}": round(draw.uniform(0, 100), draw.choice([0, 3]))
        for n in range(count)
    }


def test_the_histogram_counts_ten_at_a_time_and_100_with_the_nineties():
    scores = [*random_scores(300, seed=1).values(), *map(float, range(0, 101, 10))]

    counts = histogram(scores)

    for number, count in enumerate(counts):
        low, high = number * 10, number * 10 + 10
        assert count == sum(
            low <= score and (score < high or score == high == 100) for score in scores
        )


def test_each_polarity_has_its_own_histogram():
    quality = quality_of({"+0": 100.0, "+1": 95.0, "-2": 0.0, "-3": 10.0, "-4": "timeout"})

    assert quality["histogram"] == {"positive": [0] * 9 + [2], "negative": [1, 1] + [0] * 8}


def test_missing_scores_are_counted_by_reason_with_their_share_of_all_judged():
    quality = quality_of({"+0": 90.0, "+1": "filtered", "-2": "timeout", "-3": "timeout"})

    assert quality["missing_reasons"] == {
        "timeout": {"count": 2, "share": 0.5},
        "filtered": {"count": 1, "share": 0.25},
    }


@pytest.mark.parametrize(
    ("reasons", "merged"),
    [
        (
            [
                "off-scale: 0.19 of 1 on a number from 0 to 100",
                "off-scale: 0.02 of 1 on a number from 0 to 100",
            ],
            {"off-scale: 0.02–0.19 of 1 on a number from 0 to 100": 2},
        ),
        (
            ["it is no number: 'yes, 5'", 'it is no number: "it\'s"', "it is no number: ''"],
            {"it is no number: …": 3},
        ),
        (["it is no number: 'a \\'b\\' c'", "it is no number: 'd'"], {"it is no number: …": 2}),
        (["HTTP 429: wait 400ms.", "HTTP 429: wait 2ms."], {"HTTP 429: wait ….": 2}),
        (["HTTP 429: slow down", "HTTP 500: slow down"], {"HTTP 429–500: slow down": 2}),
        (["request 9ab-12 failed", "request 7f:3 failed"], {"request … failed": 2}),
        (["the judge's reply isn't it", "the judge's answer isn't it"], None),
        (["", "5", "word"], None),
    ],
)
def test_reasons_that_differ_in_numbers_or_quotes_are_merged(reasons, merged):
    assert merge_reasons(reasons) == (merged or dict.fromkeys(reasons, 1))


def test_equal_reasons_stay_unchanged():
    reason = "refusal or off-scale: 0.19 of the probability is on a whole number from 0 to 100: '…'"

    assert merge_reasons([reason] * 3) == {reason: 3}


def test_the_most_common_reason_comes_first():
    assert list(merge_reasons(["rare", "often", "often"])) == ["often", "rare"]


def test_coherence_is_not_missing_if_the_judge_never_scores_it():
    assert quality_of({"+0": 90.0, "-1": 5.0})["missing_coherence"] == {}


def test_a_coherence_without_a_score_is_missing():
    quality = quality_of({"+0": 90.0, "-1": 5.0}, coherence=Score(None, "timeout"))

    assert quality["missing_coherence"] == {"timeout": {"count": 2, "share": 1.0}}


def test_methods_are_counted():
    scores = {f"+{n}": 60.0 for n in range(5)}
    judgements = judged(dict(list(scores.items())[:3]), method="logprobs") + judged(
        {"+3": 1.0}, method="text"
    )
    judgements += judged({"+4": "timeout"})

    quality = judge_quality(
        [make_rollout(name) for name in scores], judgements, "fake", lambda rollout: ""
    )

    assert quality["methods"] == {"logprobs": 3, "text": 1}


def test_a_judge_without_methods_counts_none():
    assert quality_of({"+0": 90.0, "-1": 5.0})["methods"] == {}


def test_the_rank_correlation_is_that_of_the_formula():
    ours = {"a": 10.0, "b": 20.0, "c": 30.0, "d": 40.0, "e": 90.0}
    theirs = {"a": 2.0, "b": 1.0, "c": 8.0, "d": 99.0, "e": 98.0}
    moved = [1, 1, 0, 1, 1]

    found = agreement(ours, theirs)

    assert found["spearman"] == pytest.approx(1 - 6 * sum(d * d for d in moved) / (5 * (5**2 - 1)))


def test_equal_scores_share_a_rank():
    ours = {"a": 10.0, "b": 10.0, "c": 30.0}
    theirs = {"a": 1.0, "b": 2.0, "c": 3.0}

    found = agreement(ours, theirs)

    # Ranks 1.5, 1.5, 3 and 1, 2, 3: covariance 1.5 over the root of 1.5 · 2.
    assert found["spearman"] == pytest.approx(1.5 / (1.5 * 2) ** 0.5)


@pytest.mark.parametrize(
    "ours", [{}, {"a": 1.0, "b": 99.0}, {"a": 7.0, "b": 7.0, "c": 7.0, "d": 7.0}]
)
def test_equal_scores_have_no_rank_correlation(ours):
    theirs = {"a": 5.0, "b": 6.0, "c": 70.0, "d": 8.0}

    assert agreement(ours, theirs)["spearman"] is None
    assert agreement(theirs, ours)["spearman"] is None


def test_kappa_is_agreement_on_sides_beyond_chance():
    table = {(90.0, 80.0): 20, (90.0, 20.0): 5, (10.0, 80.0): 10, (10.0, 20.0): 15}
    pairs = [pair for pair, count in table.items() for _ in range(count)]
    ours, theirs = ({str(n): pair[side] for n, pair in enumerate(pairs)} for side in (0, 1))

    found = agreement(ours, theirs)

    by_chance = 25 / 50 * 30 / 50 + 25 / 50 * 20 / 50
    assert found["same_side"] == pytest.approx(35 / 50)
    assert found["kappa"] == pytest.approx((35 / 50 - by_chance) / (1 - by_chance))


def test_kappa_is_undefined_if_both_judges_score_one_polarity_only():
    assert agreement({"a": 60.0, "b": 70.0}, {"a": 90.0, "b": 50.0})["kappa"] is None


def test_a_judge_that_sees_one_side_only_agrees_by_chance():
    assert agreement({"a": 60.0, "b": 70.0}, {"a": 90.0, "b": 10.0})["kappa"] == 0


def test_fifty_is_on_the_positive_side():
    assert agreement({"a": 50.0, "b": 49.9}, {"a": 51.0, "b": 50.0})["same_side"] == 0.5


def test_two_judges_are_compared_on_what_both_have_scored():
    found = agreement({"a": 10.0, "b": 90.0, "c": 30.0}, {"b": 70.0, "c": 40.0, "d": 0.0})

    assert (found["both"], found["mean_difference"]) == (2, 15.0)


def test_judges_with_nothing_in_common_are_not_compared():
    assert agreement({"a": 10.0}, {"b": 10.0}) == {
        "both": 0,
        "spearman": None,
        "same_side": None,
        "kappa": None,
        "mean_difference": None,
    }


def test_every_other_judge_is_compared_with_the_one_shown():
    quality = quality_of({"+0": 90.0, "-1": 5.0}, {"+0": 80.0}, {"+0": "timeout"})

    assert {one["judge"]: one["both"] for one in quality["agreement"]} == {"other0": 1, "other1": 0}


def test_scores_on_the_wrong_side_are_doubtful_the_worst_first():
    scores = random_scores(60, seed=2)
    doubts = {name: 100 - score if name[0] == "+" else score for name, score in scores.items()}

    listed = quality_of(scores)["doubtful"]

    worst = sorted((name for name in doubts if doubts[name] >= 50), key=lambda name: -doubts[name])
    assert listed["total"] == len(worst) > 10
    assert [one["rollout"] for one in listed["rollouts"]] == worst[:10]
    assert [one["doubt"] for one in listed["rollouts"]] == [doubts[name] for name in worst[:10]]


def test_a_score_of_50_is_doubtful_on_either_side():
    assert [name for name, _ in doubtful({"+0": 50.0, "+1": 50.1, "-2": 50.0, "-3": 49.9})] == [
        "+0",
        "-2",
    ]


def test_a_disagreement_of_judges_is_a_doubt():
    scores, other = {"+0": 88.0, "+1": 88.0, "-2": 3.0}, {"+0": 12.4, "+1": 60.0, "-2": "timeout"}

    assert doubtful(scores, other) == [("+0", "judges disagree 88 ↔ 12")]


def test_the_reason_names_the_judge_that_differs_most():
    assert doubtful({"+0": 88.0}, {"+0": 30.0}, {"+0": 20.0}) == [("+0", "judges disagree 88 ↔ 20")]


def test_all_reasons_for_doubt_are_listed_the_strongest_first():
    scores, other = {"+0": 40.0, "-1": 70.0}, {"+0": 100.0, "-1": 0.0}

    assert doubtful(scores, other) == [
        ("-1", "against its instruction, judges disagree 70 ↔ 0"),
        ("+0", "against its instruction, judges disagree 40 ↔ 100"),
    ]


def test_a_doubtful_rollout_comes_with_its_question_and_scores():
    quality = quality_of({"+7": 8.0}, {"+7": 90.0}, coherence=Score(77.0))

    assert quality["doubtful"]["rollouts"] == [
        {
            "rollout": "+7",
            "polarity": "positive",
            "score": 8.0,
            "coherence": 77.0,
            "other_scores": {"other0": 90.0},
            "doubt": 92.0,
            "why": "against its instruction, judges disagree 8 ↔ 90",
            "question": "asked +7",
            "response": "answer +7",
        }
    ]


def test_a_missing_score_is_not_doubtful():
    assert doubtful({"+0": "timeout"}, {"+0": 5.0}) == []


def test_the_quality_is_json():
    quality = quality_of({"+0": 8.0, "-1": "timeout"}, {"+0": 90.0})

    assert json.loads(json.dumps(quality)) == quality


def test_the_judge_that_judged_last_is_the_latest():
    judgements = [
        *judged({"+0": 1.0}, "first"),
        *judged({"+0": 1.0}, "second"),
        *judged({"+1": 1.0}, "first"),
    ]

    assert judges_by_latest(judgements) == ["first", "second"]


def test_the_latest_judge_of_each_trait_is_shown_by_default():
    judges_by_trait = {"evil": ["fake", "likelihood:m"], "refusal": ["likelihood:m"], "mine": []}

    assert choose_judges(judges_by_trait, None, "tiny") == {
        "evil": "fake",
        "refusal": "likelihood:m",
        "mine": "",
    }


@pytest.mark.parametrize("asked", [PROMPTED, "gpt-4.1", "openai", "+coherence"])
def test_a_part_of_its_name_picks_a_judge_whose_prompt_differs_by_trait(asked):
    judges_by_trait = {
        "evil": ["fake", f"{PROMPTED}~111111"],
        "refusal": [f"{PROMPTED}~222222"],
        "mine": ["fake"],
    }

    assert choose_judges(judges_by_trait, asked, "tiny") == {
        "evil": f"{PROMPTED}~111111",
        "refusal": f"{PROMPTED}~222222",
        "mine": "",
    }


def test_a_full_name_selects_its_judge_even_if_another_name_contains_it():
    assert choose_judges({"evil": ["fake:2", "fake"]}, "fake", "tiny") == {"evil": "fake"}


def test_the_latest_of_two_judge_prompts_is_shown_by_default():
    judges_by_trait = {"evil": [f"{PROMPTED}~222222", f"{PROMPTED}~111111"]}

    assert choose_judges(judges_by_trait, "openai", "tiny") == {"evil": f"{PROMPTED}~222222"}
    assert choose_judges(judges_by_trait, f"{PROMPTED}~111111", "tiny") == {
        "evil": f"{PROMPTED}~111111"
    }


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            "openai",
            "error: 'openai' matches 2 judges of the run tiny\n"
            f"cause: the run has scores by\n       {PROMPTED}\n       {OTHER}\n"
            "fix:   give more of the name, or all of it",
        ),
        (
            "gpt-5",
            "error: no judge 'gpt-5' in the run tiny\n"
            f"cause: the run has scores by\n       fake\n       {PROMPTED}\n       {OTHER}\n"
            "fix:   name one of these judges, or a part of the name that no other has",
        ),
    ],
)
def test_a_name_of_no_judge_or_of_several_is_an_error(asked, message):
    judges_by_trait = {
        "evil": [f"{PROMPTED}~111111", OTHER],
        "refusal": [f"{PROMPTED}~222222", "fake"],
    }

    with pytest.raises(RunError) as error:
        choose_judges(judges_by_trait, asked, "tiny")

    assert str(error.value) == message


def test_no_judge_can_be_picked_before_anything_is_judged():
    with pytest.raises(RunError, match="no judge 'fake'") as error:
        choose_judges({"evil": []}, "fake", "tiny")

    assert error.value.fix == "run traitcli judge"
