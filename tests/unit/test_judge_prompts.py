"""What a judge is shown of an answer."""

from __future__ import annotations

import pytest

from traitcli.judging.prompts import MAX_CHARS, clean_answer, on_scale, write_prompt


def test_braces_survive_in_template_question_and_answer():
    prompt = write_prompt('{"q": {question}, "a": {answer}} {other}', "{answer}", "{question} {{}} {0}")

    assert prompt == '{"q": {answer}, "a": {question} {{}} {0}} {other}'


def test_backslashes_in_an_answer_stay_as_they_are():
    assert write_prompt("{answer}", "", r"\1 \g<0> \n") == r"\1 \g<0> \n"


def test_a_lone_surrogate_can_be_sent():
    assert write_prompt("{answer}", "", "a\ud800b").encode() == b"a?b"


@pytest.mark.parametrize(
    ("response", "seen"),
    [
        ("<think>plan</think>Hello", "Hello"),
        ("a <THINK>x\ny</THINK> b <think>z</think>", "a  b"),
        ("plan, as the template gave the beginning</think>\nHello", "Hello"),
        ("<think>never came to an end", ""),
        ("  Hello \n", "Hello"),
    ],
)
def test_thoughts_are_not_judged(response: str, seen: str):
    assert clean_answer(response) == seen


def test_only_an_answer_over_the_limit_loses_its_middle():
    whole, longer = "x" * MAX_CHARS, "a" * MAX_CHARS + "b" * 5

    assert clean_answer(whole) == whole
    assert clean_answer(longer) == f"{'a' * 10_000}\n[… 5 characters left out …]\n{'a' * 9_995}bbbbb"


def test_a_prompt_for_0_to_100_is_told_of_the_other_scales():
    assert on_scale("Rate from 0 to 100.", "0_100") == "Rate from 0 to 100."
    assert on_scale("Rate from 0 to 100.\n", "binary").startswith(
        "Rate from 0 to 100.\n\nInstead of the number, reply YES"
    )
    assert "<answer>YES</answer>" in on_scale("Rate from 0 to 100.", "binary_text")


def test_a_prompt_written_for_another_scale_stays_as_it_is():
    assert on_scale("Is it evil? YES or NO.", "binary") == "Is it evil? YES or NO."
