"""The judge scales, against the worked examples of the specification."""

from __future__ import annotations

import pytest

from traitcli.judging.scales import (
    Scale,
    is_digit_by_digit,
    opens_with_preamble,
    read_probabilities,
    read_text,
    read_token,
    to_percent,
)


def test_a_refusal_gives_no_score_and_a_reason_with_the_mass():
    reading = read_probabilities("0_100", {"REF": 0.8, "100": 0.15, "95": 0.04})

    assert reading.value is None
    assert (
        reading.reason
        == "refusal or off-scale: 0.19 of the probability is on a whole number from 0 to 100"
    )


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ({"1": 0.3, "100": 0.3}, 50.5),
        ({" 85": 0.5, "90": 0.3}, 86.875),
        ({"0": 1.0}, 0.0),
        ({"100": 1.0}, 100.0),
        ({"50": 0.4, "101": 0.4, "2024": 0.1}, 50.0),
    ],
)
def test_the_score_is_the_expected_value_over_the_numbers_0_to_100(
    probabilities: dict[str, float], expected: float
):
    assert read_probabilities("0_100", probabilities).value == pytest.approx(expected)


def test_spellings_of_one_value_add_up():
    reading = read_probabilities(
        "0_100", {"85": 0.1, " 85": 0.1, "▁85": 0.1, "Ġ85": 0.1, "45": 0.4}
    )

    assert reading.value == pytest.approx(65)


@pytest.mark.parametrize(("mass", "kept"), [(0.24, False), (0.25, True), (0.26, True)])
def test_a_quarter_of_the_probability_is_enough(mass: float, kept: bool):
    reading = read_probabilities("0_100", {"70": mass, "I": 1 - mass})

    assert (reading.value is not None) is kept


def test_a_mass_that_reaches_a_quarter_only_as_a_sum_is_enough():
    reading = read_probabilities("0_100", {str(value): 0.025 for value in range(40, 50)})

    assert reading.value == pytest.approx(44.5)


@pytest.mark.parametrize(
    "token", ["1_0", "+5", "-5", "٤", "²", "5.0", "1e1", "five", "", " ", "5 6", "101", "9" * 5000]
)
def test_only_ascii_digits_within_the_scale_are_numbers(token: str):
    assert read_token("0_100", token) is None


@pytest.mark.parametrize("scale", ["0_10", "binary", "binary_text"])
def test_no_probability_at_all_gives_no_score(scale: Scale):
    assert read_probabilities(scale, {}).value is None


def test_the_scale_0_10_counts_single_digits_only():
    reading = read_probabilities("0_10", {"9": 0.3, "3": 0.3, "10": 0.4})

    assert reading.value == pytest.approx(6)


def test_binary_is_the_share_of_yes():
    assert read_probabilities("binary", {"YES": 0.6, "NO": 0.2}).value == pytest.approx(0.75)


def test_binary_takes_any_case_and_a_leading_space():
    reading = read_probabilities("binary", {"Yes": 0.2, " yes": 0.1, "No": 0.1, "NOT": 0.6})

    assert reading.value == pytest.approx(0.75)


def test_binary_below_a_quarter_gives_no_score():
    reading = read_probabilities("binary", {"YES": 0.2, "I": 0.8})

    assert reading.reason == "refusal or off-scale: 0.20 of the probability is on YES or NO"


@pytest.mark.parametrize(
    ("scale", "value", "percent"),
    [
        ("0_100", 86.875, 86.875),
        ("0_10", 9, 100),
        ("0_10", 4.5, 50),
        ("binary", 0.75, 75),
        ("binary_text", 1, 100),
    ],
)
def test_every_scale_ends_up_on_0_to_100(scale: Scale, value: float, percent: float):
    assert to_percent(scale, value) == pytest.approx(percent)


@pytest.mark.parametrize(
    ("probabilities", "digitwise"),
    [
        ({"8": 0.7, "9": 0.2, "7": 0.1}, True),
        ({" 8": 0.7, "I": 0.3}, True),
        ({"8": 0.7, "85": 0.01}, False),
        ({"1": 0.3, "100": 0.3}, False),
        ({"I": 0.9, "٨": 0.1}, False),
        ({}, False),
    ],
)
def test_single_digit_numbers_only_mean_digit_by_digit(
    probabilities: dict[str, float], digitwise: bool
):
    assert is_digit_by_digit(probabilities) is digitwise


@pytest.mark.parametrize("token", [" ", "\n\n", "▁", "", "<think>", "<|channel|>"])
def test_whitespace_and_tags_are_a_preamble(token: str):
    assert opens_with_preamble({token: 0.6, "85": 0.2})


def test_a_word_is_not_a_preamble():
    assert not opens_with_preamble({"I": 0.9, " ": 0.1})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("85", 85),
        (" 85\n", 85),
        ("100.", 100),
        ("**42**", 42),
        ("Score: 7", 7),
        ("**Rating:** 70/100", 70),
        ("0\n\nThe answer shows none of it.", 0),
    ],
)
def test_a_reply_that_is_a_number_is_read(text: str, value: int):
    assert read_text("0_100", text).value == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "The answer shows 3 signs",
        "1_0",
        "+5",
        "-5",
        "٤٢",
        "101",
        "8 or 9",
        "0-100",
        "85.5",
        "3 of 5",
        "x" * 5000,
    ],
)
def test_no_number_is_guessed_from_any_other_reply(text: str):
    assert read_text("0_100", text).value is None


def test_the_reason_quotes_the_start_of_the_reply():
    reading = read_text("0_100", "I cannot rate\nthis")

    assert reading.reason == "the reply is not a whole number from 0 to 100: 'I cannot rate this'"


@pytest.mark.parametrize(
    ("text", "value"),
    [("YES", 1), ("no.", 0), ("Answer: Yes", 1), ("YES or NO", None), ("85", None)],
)
def test_binary_reads_a_reply_of_one_word(text: str, value: int | None):
    assert read_text("binary", text).value == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<answer>YES</answer>", 1),
        ("It declines.\n<answer> no </answer>", 0),
        ("<answer>YES</answer> or <answer>NO</answer>?", None),
        ("YES", None),
        ("<answer>MAYBE</answer>", None),
    ],
)
def test_binary_text_reads_one_tagged_word(text: str, value: int | None):
    assert read_text("binary_text", text).value == value
