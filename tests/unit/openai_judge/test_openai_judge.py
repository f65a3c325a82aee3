"""What the OpenAI judge sends, retries, refuses and returns, against a real HTTP server."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from traitcli.config import OpenAIConfig
from traitcli.errors import ConfigError, JudgeError
from traitcli.judging.backend import Judge
from traitcli.judging.openai.judge import OpenAIJudge


def test_one_request_asks_for_the_probabilities_of_a_single_token(endpoint, open_harness):
    harness = open_harness()

    value, method = harness.value()

    assert (value, method) == (pytest.approx(86.875), "logprobs")
    assert endpoint.bodies == [
        {
            "model": "gpt-4.1-mini",
            "messages": [{"role": "user", "content": "Q: Why?\nA: I will.\nFrom 0 to 100?"}],
            "max_tokens": 1,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": 20,
        }
    ]


def test_coherence_is_a_second_question_on_0_to_100_for_every_scale(endpoint, open_harness):
    endpoint.script = lambda body: (
        endpoint.chat("72", {"72": 1.0})
        if "coherent" in body["messages"][0]["content"]
        else endpoint.chat("YES", {"YES": 0.6, "NO": 0.2})
    )

    [judged] = open_harness(scale="binary", coherence=True).ask("I will.")

    assert judged.score.value == pytest.approx(75)
    assert judged.coherence.value == pytest.approx(72)
    assert len(endpoint.bodies) == 2


def test_a_missing_coherence_has_the_reason_not_asked(endpoint, open_harness):
    [judged] = open_harness().ask("I will.")

    assert (judged.coherence.value, judged.coherence.reason) == (None, "not asked")


def test_an_empty_answer_costs_no_request(endpoint, open_harness):
    [judged] = open_harness(coherence=True).ask(" <think>hm</think>\n")

    assert (judged.score.value, judged.score.reason) == (None, "empty answer")
    assert endpoint.bodies == []


def test_a_reply_off_the_scale_gives_no_score(endpoint, open_harness):
    endpoint.script = [endpoint.chat("I", {"I": 0.8, "95": 0.19})]

    value, reason = open_harness().value()

    assert value is None
    assert reason.startswith("refusal or off-scale: 0.19")
    assert len(endpoint.bodies) == 1


def test_braces_in_answers_reach_the_judge_as_they_are(endpoint, open_harness):
    open_harness().ask("{question} {answer} {0} {{x}} {")

    assert endpoint.bodies[0]["messages"][0]["content"] == (
        "Q: Why?\nA: {question} {answer} {0} {{x}} {\nFrom 0 to 100?"
    )


def test_a_huge_answer_is_judged_without_its_middle(endpoint, open_harness):
    harness = open_harness()

    value, _ = harness.value("a" * 50_000 + "b" * 50_000)

    assert value == pytest.approx(86.875)
    assert "a\n[… 80000 characters left out …]\nb" in endpoint.bodies[0]["messages"][0]["content"]


def test_a_rate_limit_waits_for_as_long_as_the_server_asks(endpoint, open_harness):
    limited = endpoint.says(
        {"error": {"message": "slow down"}}, status=429, headers={"Retry-After": "7"}
    )
    endpoint.script = [limited, endpoint.good]
    harness = open_harness()

    assert harness.value() == (pytest.approx(86.875), "logprobs")
    assert harness.waits == [7.0]


def test_five_server_errors_leave_a_missing_score_after_exactly_five_requests(
    endpoint, open_harness
):
    endpoint.script = [endpoint.error(500, "boom")]
    harness = open_harness()

    assert harness.value() == (None, "no usable reply in 5 requests; the last: HTTP 500: boom")
    assert len(endpoint.bodies) == 5
    assert harness.waits == [1, 2, 4, 8]


@pytest.mark.parametrize(
    "failure",
    [
        {"body": {"error": "x"}, "status": 408},
        {"body": {"error": "x"}, "status": 409},
        {"body": {"error": "x"}, "status": 503},
        {"body": {"choices": []}},
        {"body": {"error": "odd"}},
        {"body": b'{"choices": [{"mess'},
        {"body": b"<html>busy</html>", "headers": {"Content-Type": "text/html"}},
        {"body": {"choices": []}, "cut": 5},
    ],
    ids=[
        "408",
        "409",
        "503",
        "no choices",
        "no completion",
        "truncated JSON",
        "HTML",
        "closed mid-body",
    ],
)
def test_a_temporary_failure_is_retried(endpoint, open_harness, failure):
    endpoint.script = [*[endpoint.says(**failure)] * 4, endpoint.good]
    harness = open_harness()

    assert harness.value() == (pytest.approx(86.875), "logprobs")
    assert len(endpoint.bodies) == 5
    assert harness.waits == [1, 2, 4, 8]


def test_a_hanging_request_times_out_and_is_repeated(endpoint, open_harness):
    endpoint.script = [endpoint.says(endpoint.good.body, late=5), endpoint.good]
    harness = open_harness(timeout=0.7)

    assert harness.value() == (pytest.approx(86.875), "logprobs")
    # The timeout has already used 0.7 of the first wait of one second.
    assert harness.waits == [pytest.approx(0.3, abs=0.3)]


def test_a_server_that_always_hangs_gives_a_missing_score(endpoint, open_harness):
    endpoint.script = [endpoint.says(endpoint.good.body, late=9)]

    value, reason = open_harness(timeout=0.7).value()

    assert (value, reason) == (
        None,
        "no usable reply in 5 requests; the last: no reply within 0.7 s",
    )
    assert len(endpoint.bodies) == 5


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_a_permanent_refusal_ends_judging_and_hides_the_key(endpoint, open_harness, status):
    endpoint.script = [
        endpoint.error(status, f"Incorrect API key provided: {endpoint.key}. See sk-te**789.")
    ]

    with pytest.raises(JudgeError) as caught:
        open_harness(coherence=True).ask(*["I will."] * 50)

    assert len(endpoint.bodies) == 1
    assert f"HTTP {status}: Incorrect API key provided: [key]" in str(caught.value)
    assert endpoint.key not in repr(caught.value) + str(caught.value)
    assert "sk-te" not in str(caught.value)


def test_a_permanent_refusal_keeps_finished_judgements(endpoint, open_harness):
    def script(body: dict[str, Any]) -> Any:
        if len(endpoint.bodies) <= 3:
            return endpoint.good
        return (
            endpoint.error(401, "revoked")
            if len(endpoint.bodies) == 4
            else endpoint.says(endpoint.good.body, late=9)
        )

    endpoint.script = script
    harness, judged = open_harness(max_concurrency=2), []
    started = time.monotonic()

    with pytest.raises(JudgeError, match="refuses the key"):
        harness.score(["I will."] * 50, judged.extend)

    assert 2 <= len(judged) <= 3
    assert len(endpoint.bodies) <= 5
    assert time.monotonic() - started < 5


def test_an_account_without_credit_is_not_asked_again(endpoint, open_harness):
    endpoint.script = [
        endpoint.error(429, "You exceeded your current quota", code="insufficient_quota")
    ]

    with pytest.raises(JudgeError, match="no credit left"):
        open_harness().ask("I will.")

    assert len(endpoint.bodies) == 1


def test_a_refused_answer_has_no_score_and_the_others_are_judged(endpoint, open_harness):
    endpoint.script = lambda body: (
        endpoint.error(400, "filtered", code="content_filter")
        if "bomb" in body["messages"][0]["content"]
        else endpoint.good
    )

    judged = {each.rollout: each.score for each in open_harness().ask("a bomb", "a cake")}

    assert judged["0"].reason == "the judge does not read this answer: HTTP 400: filtered"
    assert judged["1"].value == pytest.approx(86.875)


def test_an_unreachable_server_ends_judging_after_five_attempts(endpoint, open_harness):
    endpoint.close()
    harness = open_harness()

    with pytest.raises(JudgeError, match="cannot reach the judge at 127"):
        harness.ask("I will.", "I will.")

    assert harness.waits == [1, 2, 4, 8]


def test_a_server_that_goes_away_leaves_missing_scores(endpoint, open_harness):
    harness = open_harness()
    harness.ask("I will.")
    endpoint.close()

    value, reason = harness.value()

    assert value is None
    assert reason.startswith("no usable reply in 5 requests; the last: connection lost")


def test_no_more_requests_are_in_flight_than_allowed(endpoint, open_harness):
    endpoint.script = [endpoint.says(endpoint.good.body, late=0.02)]

    judged = open_harness(max_concurrency=4, coherence=True).ask(*["I will."] * 20)

    assert len(judged) == 20
    assert len(endpoint.bodies) == 40
    assert 1 < endpoint.peak <= 4


def test_judgements_arrive_in_the_calling_thread_one_by_one(endpoint, open_harness):
    seen: list[tuple[int, int]] = []
    harness = open_harness(max_concurrency=1)

    harness.score(
        ["I will."] * 3, lambda _: seen.append((threading.get_ident(), len(endpoint.bodies)))
    )

    assert seen == [
        (threading.get_ident(), 1),
        (threading.get_ident(), 2),
        (threading.get_ident(), 3),
    ]


def test_an_error_of_the_receiver_ends_judging_and_is_raised_unchanged(endpoint, open_harness):
    def refuse(_: object) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        open_harness(max_concurrency=1).score(["I will."] * 50, refuse)

    assert len(endpoint.bodies) < 50


def test_one_judge_can_be_asked_again(endpoint, open_harness):
    harness = open_harness()

    assert [harness.value()[0], harness.value()[0]] == [pytest.approx(86.875)] * 2


def test_only_openai_itself_needs_a_key(endpoint, open_harness, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)

    with pytest.raises(ConfigError, match="the judge has no key") as caught:
        OpenAIJudge(OpenAIConfig()).check()

    assert "export OPENAI_API_KEY" in caught.value.fix
    assert open_harness().value()[0] == pytest.approx(86.875)


def test_the_identity_does_not_depend_on_the_key(endpoint, open_harness, monkeypatch):
    called = open_harness().judge.identity
    monkeypatch.delenv("OPENAI_API_KEY")

    assert open_harness().judge.identity == called
    assert OpenAIJudge(OpenAIConfig()).identity.startswith("openai:gpt-4.1-mini@")


def test_the_address_may_come_from_the_environment(endpoint, open_harness, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)

    open_harness(base_url=None).ask("I will.")

    assert endpoint.keys == [f"Bearer {endpoint.key}"]


def test_an_address_that_is_not_a_url_is_an_error():
    with pytest.raises(ConfigError, match="no valid address"):
        OpenAIJudge(OpenAIConfig(base_url="localhost:8000"))


def test_the_identity_names_the_settings_that_matter_and_no_secret(endpoint, open_harness):
    judge: Judge = open_harness(base_url="http://me:hidden@example.org:8000/v1", scale="0_10").judge
    same = open_harness(
        base_url="http://example.org:8000/v1/", scale="0_10", timeout=9, max_concurrency=1
    ).judge
    other = open_harness(
        base_url="http://example.org:8000/v1", scale="0_10", logprobs="never"
    ).judge

    assert judge.identity.startswith("openai:gpt-4.1-mini@example.org:8000:0_10#")
    assert "hidden" not in judge.identity
    assert judge.identity == same.identity != other.identity
    assert judge.overlaps
