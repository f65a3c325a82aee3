"""How the OpenAI judge handles an endpoint that fails, stalls or returns too little."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from traitcli.errors import JudgeError

pytestmark = pytest.mark.slow

SCHEDULE = [1, 2, 4, 8]
TIMEOUT = 1.0
"""Seconds. A busy machine delays a normal request by less than this."""
SLOW = [pytest.approx(max(0.0, delay - TIMEOUT), abs=0.5) for delay in SCHEDULE]
"""The delay counts from the time when the request was sent."""
FAULTS: dict[str, tuple[dict[str, Any], list[Any], str]] = {
    "429": (
        {"body": {"error": {"message": "slow down"}}, "status": 429},
        SCHEDULE,
        "HTTP 429: slow down",
    ),
    "429 with Retry-After": (
        {
            "body": {"error": {"message": "slow down"}},
            "status": 429,
            "headers": {"Retry-After": "3"},
        },
        [3, 3, 3, 3],
        "HTTP 429: slow down",
    ),
    "500": ({"body": {"error": {"message": "boom"}}, "status": 500}, SCHEDULE, "HTTP 500: boom"),
    "503 with Retry-After": (
        {"body": "busy", "status": 503, "headers": {"Retry-After": "0.5"}},
        [0.5] * 4,
        "HTTP 503",
    ),
    "connection closed mid-body": (
        {"body": {"choices": []}, "cut": 5},
        SCHEDULE,
        "connection lost: ",
    ),
    "connection closed before the body": (
        {"body": {"choices": []}, "cut": 0},
        SCHEDULE,
        "connection lost: ",
    ),
    "truncated JSON": (
        {"body": b'{"choices": [{"mess'},
        SCHEDULE,
        "the reply is not a chat completion: ",
    ),
    "empty choices": ({"body": {"choices": []}}, SCHEDULE, "the reply has no choices"),
    "a hang past the timeout": ({"body": {"choices": []}, "late": 9}, SLOW, "no reply within 1"),
    "a slow trickle": ({"body": {"choices": []}, "drip": 0.3}, SLOW, "no reply within 1"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_temporary_fault_costs_one_more_request_and_its_wait(endpoint, open_harness, fault):
    failing, waits, _ = FAULTS[fault]
    endpoint.script = [endpoint.says(**failing), endpoint.good]
    harness = open_harness(timeout=TIMEOUT if waits is SLOW else 60)

    [judged] = harness.ask("I will.")

    assert judged.score.value == pytest.approx(86.875)
    assert len(endpoint.bodies) == judged.usage.requests == 2
    assert endpoint.bodies[0] == endpoint.bodies[1]
    assert harness.waits == waits[:1]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_permanent_error_costs_five_requests_and_gives_a_reason(endpoint, open_harness, fault):
    failing, waits, reason = FAULTS[fault]
    endpoint.script = [endpoint.good, endpoint.says(**failing)]
    harness = open_harness(timeout=TIMEOUT if waits is SLOW else 60)
    harness.ask("The first one gets through.")

    [judged] = harness.ask("I will.")

    assert judged.score.value is None
    assert judged.score.reason.startswith(f"no usable reply in 5 requests; the last: {reason}")
    assert not judged.is_settled
    assert len(endpoint.bodies) - 1 == judged.usage.requests == 5
    assert harness.waits == waits


def test_a_refused_key_ends_judging_at_the_first_request(endpoint, open_harness):
    endpoint.script = [endpoint.error(401, "Incorrect API key provided")]
    harness, judged = open_harness(coherence=True), []

    with pytest.raises(JudgeError) as caught:
        harness.score([f"answer {i}" for i in range(20)], judged.extend)

    assert (len(endpoint.bodies), harness.waits, judged) == (1, [], [])
    assert str(caught.value) == (
        f"error: the judge at 127.0.0.1:{endpoint.server.server_port} refuses the key\n"
        "cause: HTTP 401: Incorrect API key provided\n"
        "fix:   set OPENAI_API_KEY to a key that may use this model"
    )


def test_a_permanent_refusal_ends_the_judging_of_all_traits(endpoint, open_harness):
    endpoint.script = [endpoint.says(endpoint.error(401, "revoked").body, status=401, late=0.3)]
    harness, refusals = open_harness(), []

    def judge_a_trait() -> None:
        with pytest.raises(JudgeError, match="refuses the key") as caught:
            harness.ask("I will.", "I will not.")
        refusals.append(caught.value.cause)

    with ThreadPoolExecutor() as pool:
        for judging in [pool.submit(judge_a_trait) for _ in range(4)]:
            judging.result()
    judge_a_trait()

    assert len(endpoint.bodies) == 1
    assert refusals == ["HTTP 401: revoked"] * 5


def test_a_permanent_refusal_cancels_all_other_questions(endpoint, open_harness):
    def script(_: dict[str, Any]) -> Any:
        if len(endpoint.bodies) % 10 == 4:
            return endpoint.error(403, "revoked")
        return (
            endpoint.good
            if len(endpoint.bodies) % 10 < 4
            else endpoint.says(endpoint.good.body, late=4)
        )

    endpoint.script = script
    for _ in range(12):
        endpoint.bodies.clear()
        harness, judged, start = open_harness(max_concurrency=2), [], time.monotonic()

        with pytest.raises(JudgeError, match="refuses the key"):
            harness.score(["I will."] * 50, judged.extend)

        assert time.monotonic() - start < 3
        assert len(judged) <= 3


def test_a_reply_without_log_probabilities_costs_one_more_request_once(endpoint, open_harness):
    endpoint.script = lambda _: endpoint.chat("62")
    harness = open_harness()

    first, second = harness.ask("I will.")[0], harness.ask("I will.")[0]

    assert [judged.score.method for judged in (first, second)] == ["text", "text"]
    assert [judged.usage.requests for judged in (first, second)] == [2, 1]
    assert harness.waits == []


@pytest.mark.parametrize(
    "none", [None, {"content": None}, {"content": []}, {"content": [{"token": "6"}]}]
)
def test_missing_log_probabilities_are_noticed_in_every_form(endpoint, open_harness, none):
    def script(_: dict[str, Any]) -> Any:
        reply = endpoint.chat("62")
        reply.body["choices"][0]["logprobs"] = none
        return reply

    endpoint.script = script

    assert open_harness().value() == (62, "text")


@pytest.mark.parametrize(
    "used", [None, {}, {"prompt_tokens": None, "completion_tokens": None}, {"prompt_tokens": 9}]
)
def test_a_reply_without_token_counts_is_read(endpoint, open_harness, used):
    reply = endpoint.chat("85", {"85": 1.0})
    reply.body["usage"] = used
    endpoint.script = [reply]

    assert open_harness().value() == (pytest.approx(85), "logprobs")
    assert len(endpoint.bodies) == 1


def test_a_server_error_about_log_probabilities_switches_to_text(endpoint, open_harness):
    endpoint.script = lambda body: (
        endpoint.error(500, "logprobs are not supported by this engine")
        if "logprobs" in body
        else endpoint.chat("30")
    )
    harness = open_harness()

    assert [harness.value(), harness.value()] == [(30, "text"), (30, "text")]
    assert len(endpoint.bodies) == 3
    assert harness.waits == []


def test_an_endpoint_that_refuses_twenty_alternatives_gets_fewer(endpoint, open_harness):
    endpoint.script = lambda body: (
        endpoint.error(400, "Invalid value for 'top_logprobs': must be less than or equal to 5.")
        if body["top_logprobs"] > 5
        else endpoint.good
    )
    harness = open_harness()

    found = [harness.value(), harness.value()]

    assert found == [(pytest.approx(86.875), "logprobs")] * 2
    assert [body["top_logprobs"] for body in endpoint.bodies] == [20, 5, 5]
    assert harness.waits == []


def test_without_log_probabilities_the_score_is_the_mean_of_samples(endpoint, open_harness):
    contents = iter(["40", "70", "10"])
    endpoint.script = lambda _: endpoint.chat(next(contents))

    [judged] = open_harness(samples=3, logprobs="never").ask("I will.")

    assert (judged.score.value, judged.score.method) == (pytest.approx(40), "text, mean of 3")
    assert [body["temperature"] for body in endpoint.bodies] == [1, 1, 1]
    assert len({str(body) for body in endpoint.bodies}) == 1
    assert judged.usage.requests == 3


def test_with_log_probabilities_no_samples_are_drawn(endpoint, open_harness):
    assert open_harness(samples=3).value() == (pytest.approx(86.875), "logprobs")
    assert len(endpoint.bodies) == 1


@pytest.mark.parametrize("unreadable", [0, 1, 2])
def test_an_unreadable_sample_is_left_out_of_the_mean(endpoint, open_harness, unreadable):
    contents = iter(["I would rather not" if draw == unreadable else "60" for draw in range(3)])
    endpoint.script = lambda _: endpoint.chat(next(contents))

    assert open_harness(samples=3, logprobs="never").value() == (60, "text, mean of 2")


def test_ten_failed_questions_in_a_row_end_judging(endpoint, open_harness):
    endpoint.script = [endpoint.good, endpoint.error(500, "boom")]
    harness = open_harness()
    harness.ask("The first one gets through.")

    missing = [harness.value() for _ in range(9)]
    with pytest.raises(JudgeError) as caught:
        harness.value()

    assert {value for value, _ in missing} == {None}
    assert len(endpoint.bodies) == 1 + 10 * 5
    assert str(caught.value) == (
        f"error: the judge at 127.0.0.1:{endpoint.server.server_port} has stopped answering\n"
        "cause: 10 questions in a row: no usable reply in 5 requests; the last: HTTP 500: boom\n"
        "fix:   run the same command again when it is back: finished judgements are kept"
    )


def test_a_reply_after_nine_failed_questions_resets_the_count(endpoint, open_harness):
    endpoint.script = lambda body: (
        endpoint.error(500, "boom") if "bad" in body["messages"][0]["content"] else endpoint.good
    )
    harness = open_harness()

    values = [
        harness.value(text)[0] for text in ["good", *["bad"] * 9, "good", *["bad"] * 9, "good"]
    ]

    assert [value is None for value in values] == [False, *[True] * 9, False, *[True] * 9, False]


def test_an_endpoint_that_dies_ends_judging_and_judgements_are_kept(endpoint, open_harness):
    endpoint.script = [*[endpoint.good] * 5, endpoint.error(503, "gone")]
    harness, judged = open_harness(max_concurrency=4), []

    with pytest.raises(JudgeError, match="has stopped answering"):
        harness.score([f"answer {i}" for i in range(40)], judged.extend)

    assert sum(each.score.value is not None for each in judged) == 5
    assert len({each.rollout for each in judged}) == len(judged) <= 5 + 9


def digits_of(numbers: Mapping[int, float], written: str) -> dict[str, float]:
    """The next token of a model that writes numbers digit by digit: '' ends the number."""
    next_ones: dict[str, float] = {}
    for number, p in numbers.items():
        if str(number).startswith(written):
            token = str(number)[len(written) : len(written) + 1]
            next_ones[token] = next_ones.get(token, 0.0) + p
    return next_ones


def digit_model(endpoint: Any, numbers: Mapping[int, float], tokens: int = 99) -> Any:
    """An endpoint with a digit-by-digit model that writes these numbers."""

    def script(body: dict[str, Any]) -> Any:
        if "one digit" in body["messages"][0]["content"]:
            ninths: dict[str, float] = {}
            for number, p in numbers.items():
                ninths[str(round(number * 9 / 100))] = (
                    ninths.get(str(round(number * 9 / 100)), 0.0) + p
                )
            return endpoint.chat(max(ninths, key=ninths.get), ninths, finish="length")
        text, room = "", min(body["max_tokens"], tokens)
        while (token := max(left := digits_of(numbers, text), key=left.get)) and len(text) < room:
            text += token
        return endpoint.chat(
            text,
            digits_of(numbers, "") if body.get("logprobs") else None,
            finish="length" if token else "stop",
        )

    return script


def bell(centre: int, spread: float) -> dict[int, float]:
    weights = {
        n: math.exp(-(((n - centre) / spread) ** 2) / 2)
        for n in range(101)
        if abs(n - centre) < 4 * spread
    }
    return {n: weight / sum(weights.values()) for n, weight in weights.items()}


@pytest.mark.parametrize("centre", [0, 3, 9, 10, 11, 25, 42, 59, 60, 85, 99, 100])
def test_a_score_written_digit_by_digit_is_never_ten_times_too_small(
    endpoint, open_harness, centre
):
    for spread in (0.3, 2.0, 6.0):
        numbers = bell(centre, spread)
        endpoint.script = digit_model(endpoint, numbers)

        value, method = open_harness().value()

        assert value == pytest.approx(sum(n * p for n, p in numbers.items()), abs=8)
        assert method in {"logprobs on 0_10", "number"}


def test_no_mixture_of_numbers_makes_a_score_ten_times_too_small(endpoint, open_harness):
    dice = random.Random(0)
    for _ in range(15):
        chosen = dice.sample(range(10, 101), dice.randint(1, 8))
        numbers = {number: 1 / len(chosen) for number in chosen}
        endpoint.script = digit_model(endpoint, numbers)

        value, method = open_harness().value()

        assert value == pytest.approx(sum(chosen) / len(chosen), abs=8)
        assert method == "logprobs on 0_10"


def test_a_number_cut_off_by_the_server_gives_no_score(endpoint, open_harness):
    endpoint.script = digit_model(endpoint, bell(85, 2.0), tokens=1)

    value, reason = open_harness().value()

    assert (value, reason) == (None, "the judge's reply was cut off within a number")


@pytest.mark.parametrize("centre", [3, 10, 42, 97])
def test_whole_number_tokens_among_single_digits_count_as_numbers(endpoint, open_harness, centre):
    numbers = bell(centre, 4.0)
    likeliest = dict(sorted(numbers.items(), key=lambda one: -one[1])[:20])
    endpoint.script = [endpoint.chat(str(centre), {str(n): p for n, p in likeliest.items()})]

    value, method = open_harness().value()

    expected = sum(n * p for n, p in likeliest.items()) / sum(likeliest.values())
    assert (value, method) == (pytest.approx(expected), "logprobs")
