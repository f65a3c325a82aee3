"""Yes or no about answers, against whole prompts read one by one."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from tests.conftest import FAMILIES
from tests.unit.local_judge.models import (
    ANSWERS,
    BINARY,
    TRAIT,
    Naive,
    asked_about,
    judged,
    number_model,
    values,
)
from traitcli.judging.local.yes_no import ask_yes_no

TEXTS = [(answer.question, answer.response) for answer in ANSWERS]


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_together_have_the_numbers_of_each_alone_in_their_order(loaded, family):
    model = number_model(loaded(family), words=16.0)

    together = ask_yes_no(model, TRAIT, TEXTS)

    alone = [ask_yes_no(model, TRAIT, [text])[0] for text in TEXTS]
    assert together == pytest.approx(alone, abs=1e-2)
    assert len({round(one, 1) for one in together}) > 2


def test_an_answer_to_which_the_model_would_say_something_else_has_a_number_too(loaded):
    # Neither word is likely: the judge gives no score.
    model = number_model(loaded("llama"), words=8.0)
    naive = Naive(model, asked_about(ANSWERS[0]) + BINARY)
    p = {word: sum(map(naive.p, spelled(naive, word))) for word in ("yes", "no")}

    [found] = ask_yes_no(model, TRAIT, TEXTS[:1])

    assert sum(p.values()) < 0.25
    assert values(judged(model, ANSWERS[:1], scale="binary"))["a0"] is None
    assert found == pytest.approx(math.log(p["yes"] / p["no"]), abs=0.05)


def spelled(naive, word):
    """The token paths of a word in any case."""
    cases = {""}
    for letter in word:
        cases = {start + each for start in cases for each in (letter, letter.upper())}
    return [path for case in sorted(cases) for path in naive.spellings(case)]


def test_empty_and_too_long_answers_have_no_number_and_count_as_done(loaded):
    model = number_model(loaded("llama"), words=16.0)
    prompt = Naive(model, asked_about(ANSWERS[0]) + BINARY).prompt
    short = replace(model, context=len(prompt) + 40)
    seen = []

    found = ask_yes_no(
        short,
        TRAIT,
        [TEXTS[0], ("Why?", " "), ("Why?", "word " * 400)],
        lambda done, tokens: seen.append((done, tokens)),
    )

    assert [one is None for one in found] == [False, True, True]
    assert seen == [(3, len(prompt))]
