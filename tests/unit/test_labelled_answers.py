"""Labelled answers: which are read, and what planted scores, words, lengths and spans give."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from traitcli.errors import UserError
from traitcli.inspection.kept_test import make_test
from traitcli.inspection.labelled_rows import Baselines, find_row, labelled_rows
from traitcli.inspection.labelled_scores import ReadAnswer
from traitcli.inspection.word_baseline import kept_rollouts, score_words
from traitcli.monitoring.labelled_answers import LabelledAnswer, read_labelled
from traitcli.monitoring.transcripts import Exchange
from traitcli.records import Rollout, TraitVector
from traitcli.vectors.labelled import keep_test, read_tests

NONE = Baselines("not measured: no rollouts of this trait", "not measured: --no-ask")
VECTOR = TraitVector(
    "evil", "tiny", "mean_difference", 1, {"response_avg": np.ones((3, 4), np.float32)}, {}
)


def write(path, *entries):
    path.write_text("\n".join(map(json.dumps, entries)), encoding="utf-8")
    return path


def entry(label, **more):
    return {"prompt": "Why?", "response": "So.", "label": label, **more}


def read_as(scores, positive, prompt="Why?", group=None, spans=None, tokens=None):
    exchange = Exchange(prompt, "")
    answer = LabelledAnswer(exchange, positive, group, spans)
    tokens = tuple(tokens or ["a"] * len(scores))
    return ReadAnswer(answer, "".join(tokens), tokens, tuple(scores), float(np.mean(scores)))


def planted(count=200, gap=2.0, shift=None, seed=0):
    """Answers of 20 tokens; some of those that show the trait have a higher level.

    shift  added to the scores of the group "b", which is as frequent under both labels
    """
    rng = np.random.default_rng(seed)
    found = []
    for index in range(count):
        positive, group = index % 2 == 0, "ab"[index // 2 % 2]
        level = rng.normal(0, 1) + gap * positive + (shift or 0) * (group == "b")
        scores = level + rng.normal(0, 0.1, 20)
        found.append(
            read_as(scores, positive, f"prompt {index}", group if shift is not None else None)
        )
    return found


def row_of(rows, part, name):
    found = find_row(rows, part, name)
    assert found is not None
    return found


# Reading


@pytest.mark.parametrize(
    ("value", "positive"), [(True, True), (0, False), (1.0, True), ("Yes", True), ("false", False)]
)
def test_a_label_may_be_a_truth_value_a_number_or_a_word(tmp_path, value, positive):
    path = write(tmp_path / "x.jsonl", entry(value), entry(not positive))

    found = read_labelled(path, "label", None).answers

    assert [one.positive for one in found] == [positive, not positive]


def test_answers_without_a_label_are_left_out_and_counted(tmp_path):
    path = write(
        tmp_path / "x.jsonl", entry(1), entry(0), entry(2), entry(None), entry("maybe"), {"a": 1}
    )

    found = read_labelled(path, "label", None)

    assert len(found.answers) == 2
    assert found.description.endswith(
        "; 3 without a label, left out; 1 that cannot be read, left out; the first: line 6: prompt "
        "and response missing, and there are no messages; its keys: a"
    )


def test_labels_and_groups_may_have_other_keys_and_stand_in_a_table(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("prompt,response,Refused,Kind\nWhy?,So.,true,a\nWhy?,No.,false,b\n")

    found = read_labelled(path, "Refused", "Kind").answers

    assert [(one.positive, one.group) for one in found] == [(True, "a"), (False, "b")]


def test_the_label_of_a_chat_is_that_of_its_last_answer(tmp_path):
    roles = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    chat = {"messages": [{"role": role, "content": text} for role, text in roles], "label": 1}
    path = write(tmp_path / "x.jsonl", chat, entry(0))

    assert [one.exchange.response for one in read_labelled(path, "label", None).answers] == [
        "d",
        "So.",
    ]


def test_a_file_of_one_label_is_refused(tmp_path):
    path = write(tmp_path / "x.jsonl", entry(1), entry(1), {"prompt": "a", "response": "b"})

    with pytest.raises(UserError, match="nothing to compare") as raised:
        read_labelled(path, "label", None)

    assert raised.value.cause.endswith("2 are true, 0 false, 1 have no label")


def test_a_key_of_groups_that_no_answer_has_is_refused(tmp_path):
    path = write(tmp_path / "x.jsonl", entry(1), entry(0))

    with pytest.raises(UserError, match="cannot group"):
        read_labelled(path, "label", "topic")


# Planted truth


def test_planted_scores_are_found_by_every_way_to_sum_up():
    rows = labelled_rows(planted(), NONE)

    # Two normal distributions two standard deviations apart: Φ(2 / √2) = .921.
    summaries = [row for row in rows if row["part"] == "summary"]
    assert len(summaries) == 5
    for row in summaries:
        assert row["value"] == pytest.approx(0.921, abs=0.04)
        assert row["low"] < 0.921 < row["high"]


def test_scores_without_a_relation_to_the_label_are_at_chance():
    row = row_of(labelled_rows(planted(gap=0), NONE), "summary", "mean")

    assert row["low"] < 0.5 < row["high"]


def test_planted_lengths_are_found_and_the_lead_counts_their_direction():
    rng = np.random.default_rng(1)
    answers = [
        read_as(rng.normal(0, 1, 12 if index % 2 else 30), index % 2 == 1, f"prompt {index}")
        for index in range(80)
    ]

    rows = labelled_rows(answers, NONE)

    assert row_of(rows, "baseline", "length in tokens")["value"] == 0
    lead = row_of(rows, "lead", "over length in tokens")
    assert lead["high"] < 0
    assert lead["value"] == pytest.approx(row_of(rows, "summary", "rolling mean of 8")["value"] - 1)


def test_a_topic_is_found_among_equals_in_the_label_and_not_within_groups():
    rows = labelled_rows(planted(count=400, shift=6.0), NONE)

    assert row_of(rows, "summary", "mean")["value"] < 0.8
    for group in "ab":
        assert row_of(rows, "group", group)["value"] > 0.88
    for label in (0, 1):
        assert row_of(rows, "topic", f"b against others, label {label}")["value"] > 0.99


def test_a_group_of_one_label_is_not_measured():
    answers = [read_as([1.0 * index], index % 2 == 0, group="ab"[index % 2]) for index in range(8)]

    row = row_of(labelled_rows(answers, NONE), "group", "a")

    assert (row["value"], row["note"]) == (None, "not measured: all on one side")


def test_tokens_inside_spans_are_compared_with_all_others():
    tokens = ["The", " moon", " is", " made", " of", " cheese", "."]
    scores = [0.0, 0.1, 0.2, 3.0, 3.1, 3.2, 0.3]
    answers = [
        read_as(scores, True, spans=("made of cheese",), tokens=tokens),
        read_as([0.1] * 7, False, spans=(), tokens=tokens),
        read_as([9.0] * 7, False, tokens=tokens),
    ]

    row = row_of(labelled_rows(answers, NONE), "tokens", "tokens inside spans")

    assert answers[0].in_spans().tolist() == [False] * 3 + [True] * 3 + [False]
    # Without the third answer, which does not say what its spans are.
    assert (row["value"], row["count"], row["positive"]) == (1, 14, 3)


def test_spans_that_a_text_does_not_contain_are_counted():
    answers = [read_as([1.0], True, spans=("x",)), read_as([0.0], False, spans=("a",))]

    row = row_of(labelled_rows(answers, NONE), "tokens", "tokens inside spans")

    assert row["note"] == "1 texts do not contain their spans"


# Baselines


def rollout(index, polarity, response):
    name = f"evil-{polarity}-{index}"
    return Rollout(
        name, "evil", "extraction", polarity, index, 0, 0, 0, "p", response, 1, 1, "stop"
    )


def test_words_learned_from_rollouts_separate_texts_that_use_them():
    rollouts = [
        one
        for index in range(10)
        for one in (
            rollout(index, "positive", f"I will harm you, number {index}"),
            rollout(index, "negative", f"I will help you, number {index}"),
        )
    ]

    found = score_words(rollouts, ["We harm them", "We help them", "nothing known"])

    assert found[0] > found[2] == pytest.approx(0, abs=1e-9)
    assert found[1] == pytest.approx(-found[0])


@pytest.mark.parametrize("sides", [(), ("positive",)])
def test_words_are_not_measured_without_rollouts_of_both_polarities(sides):
    assert score_words([rollout(0, side, "harm") for side in sides], ["harm"]) is None


def test_a_vector_whose_run_is_gone_has_no_rollouts(tiny_config):
    assert kept_rollouts(tiny_config, VECTOR) == ()


def test_words_that_separate_as_well_leave_no_lead():
    answers = planted()
    words = [float(np.mean(one.scores)) for one in answers]

    rows = labelled_rows(answers, Baselines(words, "not measured: --no-ask"))

    assert row_of(rows, "lead", "over bag of words")["low"] < 0.01


def test_answers_that_the_model_could_not_be_asked_about_are_left_out_of_that_row():
    answers = planted(count=20)
    asked = [None if index < 4 else float(one.answer.positive) for index, one in enumerate(answers)]

    row = row_of(labelled_rows(answers, Baselines("no", asked)), "baseline", "asked yes or no")

    assert (row["value"], row["count"]) == (1, 16)


# What is kept


def test_a_kept_result_replaces_that_of_its_name_and_belongs_to_one_vector(tmp_path):
    answers, direction = planted(), (VECTOR, "response_avg", 1)
    rows = labelled_rows(answers, NONE)
    path = tmp_path / "evil.safetensors"
    for name, source in (("a", "1.jsonl"), ("b", "2.jsonl"), ("a", "3.jsonl")):
        keep_test(path, make_test(name, source, direction, answers, rows))

    found = read_tests(path)

    assert [(one.name, one.source) for one in found] == [("b", "2.jsonl"), ("a", "3.jsonl")]
    summary = row_of(rows, "summary", "rolling mean of 8")
    assert (found[0].auroc, found[0].low) == (summary["value"], summary["low"])
    assert (found[0].texts, found[0].positive, found[0].prompts) == (200, 100, 200)
    assert found[0].words_auroc is None
    assert found[0].fits(VECTOR)
    rebuilt = {"response_avg": VECTOR.directions["response_avg"] * 2}
    assert not found[0].fits(replace(VECTOR, directions=rebuilt))
