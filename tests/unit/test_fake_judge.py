"""The fake judge, with which the code around a judge is tested."""

from __future__ import annotations

from typing import Literal

from traitcli.judging.backend import Answer, Judge
from traitcli.judging.fake import FakeJudge
from traitcli.records import Contrast, Judgement, Trait

TRAIT = Trait(
    name="evil",
    description="",
    meaning=Contrast("", ""),
    adjectives=Contrast("", ""),
    pairs=(),
    questions=(),
    evaluation_questions=(),
    judge_prompt="",
)


def answers_of(polarity: Literal["positive", "negative"], count: int) -> list[Answer]:
    return [
        Answer(f"{polarity}-{i}", polarity, 0, f"question {i}", f"answer {i}") for i in range(count)
    ]


def judge(answers: list[Answer]) -> list[Judgement]:
    judged: list[Judgement] = []
    fake: Judge = FakeJudge()
    fake.score(TRAIT, answers, judged.extend)
    return judged


def values(judged: list[Judgement]) -> list[float]:
    return [one.score.value for one in judged if one.score.value is not None]


def test_every_answer_is_judged_in_order_under_the_name_fake():
    judged = judge(answers_of("positive", 3))

    assert [(one.rollout, one.judge) for one in judged] == [
        (f"positive-{i}", "fake") for i in range(3)
    ]


def test_the_same_text_gets_the_same_score_every_time():
    assert judge(answers_of("positive", 20)) == judge(answers_of("positive", 20))


def test_about_a_tenth_of_either_polarity_lands_on_the_wrong_side():
    high = values(judge(answers_of("positive", 1000)))
    low = values(judge(answers_of("negative", 1000)))

    assert 60 <= sum(value <= 40 for value in high) <= 140
    assert 60 <= sum(value >= 60 for value in low) <= 140


def test_scores_fill_both_sides_and_leave_the_middle_empty():
    both = values(judge(answers_of("positive", 1000) + answers_of("negative", 1000)))

    assert min(both) < 2
    assert max(both) > 98
    assert not [value for value in both if 40 < value < 60]


def test_coherence_is_about_ninety():
    judged = judge(answers_of("negative", 200))

    assert all(
        one.coherence.value is not None and 85 <= one.coherence.value <= 95 for one in judged
    )


def test_an_empty_answer_gets_no_score():
    [judged] = judge([Answer("a", "positive", 0, "question", " \n")])

    assert (judged.score.value, judged.score.reason) == (None, "empty answer")
    assert (judged.coherence.value, judged.coherence.reason) == (None, "empty answer")
