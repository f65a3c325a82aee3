"""The filter, which selects the rollouts for a vector."""

from __future__ import annotations

import pytest

from traitcli.config import FilterConfig
from traitcli.pipeline.filtering import select_rollouts
from traitcli.records import Judgement, Rollout, Score

INDEPENDENT = FilterConfig(pairing="independent", min_auroc=0)
PAIRED = FilterConfig(min_auroc=0)


def make_rollout(side, pair=0, question=0, repeat=0, tokens=5):
    polarity = {"+": "positive", "-": "negative"}[side]
    return Rollout(
        id=f"{side}{pair}{question}{repeat}",
        trait="evil",
        split="extraction",
        polarity=polarity,
        pair=pair,
        question=question,
        repeat=repeat,
        seed=0,
        prompt="p",
        response="r" * tokens,
        prompt_tokens=1,
        response_tokens=tokens,
        finish_reason="stop",
    )


def judge(rollout, score, coherence=90.0):
    return Judgement(
        rollout.id,
        "judge",
        Score(score, "" if score is not None else "timeout"),
        Score(coherence, "" if coherence is not None else "not asked"),
    )


def select(scores, config, coherence=90.0, tokens=5):
    """Filter rollouts written as '+012' (side, pair, question, repeat) -> score."""
    rollouts = {name: make_rollout(name[0], *map(int, name[1:]), tokens=tokens) for name in scores}
    judgements = {r.id: judge(r, scores[name], coherence) for name, r in rollouts.items()}
    return select_rollouts(list(rollouts.values()), judgements, config)


def kept(selection):
    return [rollout.id for rollout in selection.kept]


@pytest.mark.parametrize(
    ("threshold", "score", "passes"),
    [
        (50, 50.0, True),
        (50, 49.999, False),
        (70, 70.0, True),
        (70, 69.9, False),
        (0, 0.0, True),
        (1, 0.0, False),
        (100, 100.0, True),
    ],
)
def test_a_positive_rollout_passes_from_the_threshold_on(threshold, score, passes):
    config = FilterConfig(threshold=threshold, pairing="independent", min_auroc=0)

    selection = select({"+000": score, "-010": 0.0}, config)

    assert ("+000" in kept(selection)) == passes


@pytest.mark.parametrize(
    ("threshold", "score", "passes"),
    [
        (50, 50.0, False),
        (50, 49.999, True),
        (70, 30.0, False),
        (70, 29.9, True),
        (100, 0.0, False),
        (0, 99.9, True),
    ],
)
def test_a_negative_rollout_passes_below_100_minus_the_threshold(threshold, score, passes):
    config = FilterConfig(threshold=threshold, pairing="independent", min_auroc=0)

    selection = select({"-000": score, "+010": 100.0}, config)

    assert ("-000" in kept(selection)) == passes


@pytest.mark.parametrize(
    ("coherence", "passes"), [(50.0, True), (49.9, False), (0.0, False), (None, True)]
)
def test_both_polarities_need_coherence_if_the_judge_scores_it(coherence, passes):
    selection = select({"+000": 90.0, "-000": 10.0}, INDEPENDENT, coherence)

    assert kept(selection) == (["+000", "-000"] if passes else [])


def test_a_rollout_without_coherence_fails_if_other_rollouts_have_coherence():
    rollouts = [make_rollout("+"), make_rollout("+", question=1), make_rollout("-")]
    judgements = {
        r.id: judge(r, score) for r, score in zip(rollouts, (90.0, 90.0, 10.0), strict=True)
    }
    judgements["+010"] = judge(rollouts[1], 90.0, coherence=None)

    selection = select_rollouts(rollouts, judgements, INDEPENDENT)

    assert kept(selection) == ["+000", "-000"]


@pytest.mark.parametrize(
    ("config", "coherence", "rule", "coherence_text"),
    [
        (PAIRED, 81.0, "paired, threshold 50, coherence 50", "mean 81"),
        (INDEPENDENT, None, "independent, threshold 50, no coherence scores", "not asked"),
    ],
)
def test_the_rule_and_the_coherence_are_shown_in_words(config, coherence, rule, coherence_text):
    selection = select({"+000": 90.0, "-000": 10.0}, config, coherence)

    assert (selection.filter, selection.coherence, selection.trusted) == (
        rule,
        coherence_text,
        True,
    )


def test_independent_keeps_a_rollout_whose_other_side_failed():
    selection = select({"+000": 90.0, "-000": 60.0, "+010": 90.0, "-010": 10.0}, INDEPENDENT)

    assert kept(selection) == ["+000", "+010", "-010"]


@pytest.mark.parametrize(
    "failing",
    [
        {"+000": 40.0, "-000": 10.0},
        {"+000": 90.0, "-000": 60.0},
        {"+000": 90.0, "-000": None},
        {"+000": 90.0},
    ],
)
def test_paired_drops_both_sides_when_one_fails(failing):
    selection = select(failing | {"+100": 90.0, "-100": 10.0}, PAIRED)

    assert kept(selection) == ["+100", "-100"]


@pytest.mark.parametrize("other", ["-100", "-010", "-001"])
def test_paired_compares_pair_question_and_repeat_together(other):
    selection = select({"+000": 90.0, other: 10.0}, PAIRED)

    assert kept(selection) == []


def test_empty_answers_are_never_kept():
    empty, full, other = (
        make_rollout("+", question=1, tokens=0),
        make_rollout("+"),
        make_rollout("-"),
    )
    judgements = {
        r.id: judge(r, score) for r, score in ((empty, 95.0), (full, 90.0), (other, 10.0))
    }

    selection = select_rollouts([empty, full, other], judgements, INDEPENDENT)

    assert kept(selection) == ["+000", "-000"]
    assert (selection.counts["empty"], selection.counts["missing"]) == (1, 0)


def test_empty_answers_are_not_kept_when_nothing_is_filtered():
    empty, full = make_rollout("+", question=1, tokens=0), make_rollout("+")

    selection = select_rollouts([empty, full], {}, INDEPENDENT)

    assert kept(selection) == ["+000"]


def test_a_rollout_whose_score_is_missing_is_not_kept_and_counted():
    unjudged = make_rollout("+", question=2)
    rest = {"+000": 90.0, "-000": 10.0, "+010": None}
    rollouts = [make_rollout(name[0], *map(int, name[1:])) for name in rest]
    judgements = {r.id: judge(r, score) for r, score in zip(rollouts, rest.values(), strict=True)}

    selection = select_rollouts([*rollouts, unjudged], judgements, INDEPENDENT)

    assert kept(selection) == ["+000", "-000"]
    assert selection.counts["missing"] == 2


def test_a_score_of_zero_is_a_score():
    selection = select({"+000": 90.0, "-000": 0.0}, PAIRED)

    assert kept(selection) == ["+000", "-000"]
    assert selection.counts["missing"] == 0


def test_the_counts_show_what_was_scored():
    selection = select(
        {"+000": 90.0, "+010": 60.0, "+020": 75.0, "-000": 10.0, "-010": None}, PAIRED
    )

    assert selection.counts == {
        "positive_total": 3,
        "negative_total": 2,
        "empty": 0,
        "missing": 1,
        "positive_score": 75.0,
        "negative_score": 10.0,
        "contrast": 65.0,
    }


def test_a_judge_at_chance_filters_nothing_and_the_rule_explains_it():
    scores = {"+000": 90.0, "+010": 10.0, "-000": 90.0, "-010": 10.0}

    selection = select(scores, FilterConfig())

    assert (kept(selection), selection.trusted, selection.judge_auroc) == (list(scores), False, 0.5)
    assert selection.filter == (
        "NOT FILTERED: the judge cannot tell the polarities apart (AUROC 0.50 < 0.6), "
        "so every answer was kept. Use a stronger judge (judge.backend: openai), "
        "a model that shows the trait, or more questions"
    )


def test_a_judge_with_reversed_scores_filters_nothing():
    selection = select({"+000": 10.0, "-000": 90.0}, FilterConfig())

    assert (kept(selection), selection.trusted, selection.judge_auroc) == (
        ["+000", "-000"],
        False,
        0.0,
    )


@pytest.mark.parametrize(("least", "trusted"), [(0.75, True), (0.76, False)])
def test_a_judge_is_trusted_from_min_auroc_on(least, trusted):
    scores = {"+000": 90.0, "+010": 40.0, "-000": 50.0, "-010": 10.0}

    selection = select(scores, FilterConfig(min_auroc=least))

    assert (selection.judge_auroc, selection.trusted) == (0.75, trusted)


def test_a_trusted_judge_may_reject_everything():
    selection = select({"+000": 40.0, "-000": 30.0}, FilterConfig())

    assert (kept(selection), selection.trusted) == ([], True)


@pytest.mark.parametrize("scores", [{"+000": None, "-000": None}, {"+000": 90.0, "-000": None}])
def test_without_scores_of_both_polarities_nothing_is_filtered(scores):
    selection = select(scores, PAIRED)

    assert (kept(selection), selection.trusted, selection.judge_auroc) == (
        ["+000", "-000"],
        False,
        None,
    )
    assert selection.filter == (
        "NOT FILTERED: one polarity or both have no scores; run traitcli judge"
    )
    assert selection.counts["contrast"] is None
