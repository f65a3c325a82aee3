"""How the OpenAI judge adapts to endpoints that differ from OpenAI's own."""

from __future__ import annotations

from typing import Any

import pytest

from traitcli.errors import JudgeError


def text_only(endpoint) -> Any:
    """An endpoint that ignores the request for log-probabilities."""
    return lambda _: endpoint.chat("62")


def digit_by_digit(endpoint, number: str = "85") -> Any:
    """A model with single-digit tokens: on 0 to 100 the first one is never the score."""

    def script(body: dict[str, Any]) -> Any:
        if "one digit" in body["messages"][0]["content"]:
            return endpoint.chat(number[0], {number[0]: 0.75, "5": 0.25}, finish="length")
        if body.get("logprobs"):
            return endpoint.chat(number[0], {number[0]: 0.7, "9": 0.2, "7": 0.1}, finish="length")
        return endpoint.chat(number)

    return script


def reasoning(endpoint) -> Any:
    """A model that refuses one parameter after another and then needs more tokens to think."""

    def script(body: dict[str, Any]) -> Any:
        if "max_tokens" in body:
            message = (
                "Unsupported parameter: 'max_tokens' is not supported with this model. "
                "Use 'max_completion_tokens'."
            )
            return endpoint.error(400, message)
        if "logprobs" in body:
            return endpoint.error(400, "You are not allowed to request logprobs from this model")
        if "temperature" in body:
            return endpoint.error(
                400, "Unsupported value: 'temperature' does not support 0 with this model."
            )
        return (
            endpoint.chat("77")
            if body["max_completion_tokens"] > 1000
            else endpoint.chat("", finish="length")
        )

    return script


def test_without_log_probabilities_the_number_in_the_text_is_taken(endpoint, open_harness):
    endpoint.script = text_only(endpoint)

    assert open_harness().value() == (62, "text")
    assert [body.get("logprobs") for body in endpoint.bodies] == [True, None]
    assert endpoint.bodies[1]["max_tokens"] == 16


def test_missing_log_probabilities_are_found_out_once(endpoint, open_harness):
    endpoint.script = text_only(endpoint)
    harness = open_harness()
    harness.ask(*["I will."] * 10)

    harness.value()

    assert len(endpoint.bodies) == 1 + 10 + 1


def test_a_fallback_shares_the_five_requests_of_its_question(endpoint, open_harness):
    endpoint.script = [endpoint.chat("62"), endpoint.error(500, "boom")]
    harness = open_harness()

    value, reason = harness.value()

    assert (value, reason) == (None, "no usable reply in 5 requests; the last: HTTP 500: boom")
    assert len(endpoint.bodies) == 5
    assert harness.waits == [1, 2, 4]


def test_prose_instead_of_a_number_gives_no_score(endpoint, open_harness):
    endpoint.script = [endpoint.chat("The answer shows 3 signs of")]

    value, reason = open_harness().value()

    assert value is None
    assert reason == "the reply is not a whole number from 0 to 100: 'The answer shows 3 signs of'"


def test_required_log_probabilities_that_are_missing_end_the_judging(endpoint, open_harness):
    endpoint.script = text_only(endpoint)

    with pytest.raises(JudgeError, match="gives no log-probabilities"):
        open_harness(logprobs="required").ask("I will.")

    assert len(endpoint.bodies) == 1


def test_log_probabilities_are_never_requested_when_disabled(endpoint, open_harness):
    endpoint.script = text_only(endpoint)

    assert open_harness(logprobs="never").value() == (62, "text")
    assert ["logprobs" in body for body in endpoint.bodies] == [False]


def test_a_digit_by_digit_model_is_asked_for_one_digit_and_the_judgement_says_so(
    endpoint, open_harness
):
    endpoint.script = digit_by_digit(endpoint)

    value, method = open_harness().value()

    assert value == pytest.approx((8 * 0.75 + 5 * 0.25) * 100 / 9)
    assert method == "logprobs on 0_10"
    assert [body.get("logprobs") for body in endpoint.bodies] == [True, None, True]


def test_a_digit_by_digit_model_is_recognized_once(endpoint, open_harness):
    endpoint.script = digit_by_digit(endpoint)

    judged = open_harness(coherence=True).ask(*["I will."] * 10)

    assert {each.score.method for each in judged} | {each.coherence.method for each in judged} == {
        "logprobs on 0_10"
    }
    assert len(endpoint.bodies) == 2 + 20


def test_a_digit_by_digit_model_can_give_required_log_probabilities(endpoint, open_harness):
    endpoint.script = digit_by_digit(endpoint)

    assert open_harness(logprobs="required").value()[1] == "logprobs on 0_10"


def test_a_certain_single_digit_does_not_disable_log_probabilities(endpoint, open_harness):
    certain = endpoint.chat("0", {"0": 0.999, "1": 0.001})
    endpoint.script = [certain, endpoint.chat("0"), endpoint.good]
    harness = open_harness()

    assert harness.value() == (0, "number")
    assert harness.value() == (pytest.approx(86.875), "logprobs")


def test_single_digits_are_the_score_on_the_scale_0_10(endpoint, open_harness):
    endpoint.script = [endpoint.chat("9", {"9": 0.5, "0": 0.5})]

    assert open_harness(scale="0_10").value() == (pytest.approx(50), "logprobs")
    assert len(endpoint.bodies) == 1


def test_a_number_cut_off_by_the_token_limit_gives_no_score(endpoint, open_harness):
    endpoint.script = [
        endpoint.chat("8", {"8": 1.0}, finish="length"),
        endpoint.chat("Score:         8", finish="length"),
    ]

    assert open_harness().value() == (None, "the judge's reply was cut off within a number")


def test_a_first_token_before_the_number_switches_to_text(endpoint, open_harness):
    endpoint.script = [endpoint.chat(" ", {" ": 0.9, "\n": 0.1}), endpoint.chat(" 40")]

    assert open_harness().value() == (40, "text")


def test_a_reasoning_model_gets_its_parameters_and_a_larger_token_limit(endpoint, open_harness):
    endpoint.script = reasoning(endpoint)
    harness = open_harness()

    judged = harness.ask("I will.", "I will.", "I will.")

    assert [(each.score.value, each.score.method) for each in judged] == [(77, "text")] * 3
    assert len(endpoint.bodies) == 4 + 3
    assert harness.waits == []
    assert set(endpoint.bodies[-1]) == {"model", "messages", "max_completion_tokens"}


def test_the_same_error_twice_is_a_permanent_refusal(endpoint, open_harness):
    endpoint.script = [
        endpoint.error(400, "'max_tokens' is not supported: use 'max_completion_tokens'")
    ]

    with pytest.raises(JudgeError, match="'max_tokens' is not supported"):
        open_harness().ask("I will.")

    assert len(endpoint.bodies) == 2


def test_thoughts_in_the_reply_are_not_read_as_the_number(endpoint, open_harness):
    endpoint.script = [endpoint.chat("<think>Maybe 10.\n90?</think>\n\n30")]

    assert open_harness(logprobs="never").value() == (30, "text")


def test_binary_text_reads_the_tagged_word_without_log_probabilities(endpoint, open_harness):
    endpoint.script = [endpoint.chat("It means harm. <answer>YES</answer>")]

    assert open_harness(scale="binary_text").value() == (100, "text")
    assert "logprobs" not in endpoint.bodies[0]


def test_a_filtered_reply_and_an_empty_one_are_missing_scores(endpoint, open_harness):
    endpoint.script = [endpoint.chat(None, finish="content_filter"), endpoint.chat("")]
    harness = open_harness()

    assert harness.value() == (None, "the judge's reply was filtered")
    assert harness.value() == (None, "the judge's reply is empty")
    assert len(endpoint.bodies) == 2
