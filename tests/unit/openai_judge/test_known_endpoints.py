"""Judge endpoints as they are: what each needs is learned, said once, and kept."""

from __future__ import annotations

import json
import math
from datetime import timedelta
from urllib.parse import urlsplit

import certifi
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.openai_judge.known_endpoints import ENDPOINTS, NUMBERS, alternatives, chat, room
from traitcli.errors import ConfigError, JudgeError
from traitcli.judging.openai.capabilities import EndpointCapabilities
from traitcli.judging.openai.connections import is_loopback
from traitcli.judging.openai.failures import redact
from traitcli.judging.openai.replies import UnreadableReplyError, find_error, read_reply
from traitcli.judging.openai.retry import read_retry_after

ADDRESS = "127.0.0.1"


@pytest.mark.parametrize("name", ENDPOINTS)
def test_a_known_endpoint_gives_its_score(endpoint, open_harness, name):
    reply, value, method, notes = ENDPOINTS[name]
    endpoint.script = reply
    url = endpoint.url + ("/deployments/m?api-version=2025-01-01" if name == "Azure" else "")
    harness = open_harness(base_url=url)

    first = harness.value("I will.")
    asked = len(endpoint.bodies)
    second = harness.value("Gladly.")

    assert first[0] == pytest.approx(value)
    assert first[1] == method
    assert second == first
    # What was learned with the first question is kept: the second takes one request.
    assert len(endpoint.bodies) == asked + 1
    host = urlsplit(endpoint.url).netloc
    assert harness.judge.take_notes() == [f"the judge at {host}: {note}" for note in notes]
    assert harness.judge.take_notes() == []
    assert asked <= 5


def test_a_query_stays_behind_the_path_and_the_key_is_sent_as_azure_wants_it(
    endpoint, open_harness
):
    harness = open_harness(base_url=f"{endpoint.url}/deployments/m?api-version=2025-01-01")

    harness.value()

    assert endpoint.paths == ["/v1/deployments/m/chat/completions?api-version=2025-01-01"]
    assert endpoint.api_keys == [endpoint.key]


@pytest.mark.parametrize("ending", ["", "/", "/chat/completions", "/chat/completions/"])
def test_an_address_may_name_the_whole_path(endpoint, open_harness, ending):
    assert open_harness(base_url=endpoint.url + ending).value()[0] is not None
    assert endpoint.paths == ["/v1/chat/completions"]
    assert endpoint.api_keys == [None]


@pytest.mark.parametrize(
    ("complaint", "changes"),
    [
        ("requested sample logprobs of 20, which is greater than max allowed: 5",
         {"alternatives": 5}),
        ("top_logprobs must be less than or equal to 8", {"alternatives": 8}),
        ("invalid value for 'top_logprobs': must be between 0 and 5", {"alternatives": 5}),
        ("top_logprobs should be <= 10", {"alternatives": 10}),
        ("top_logprobs is too large", {"alternatives": 5}),
        ("'top_logprobs' is not supported", {"logprobs": False}),
        ("logprobs are not enabled on this server", {"logprobs": False}),
        ("unknown field logprobs", {"logprobs": False}),
        ("invalid 'max_output_tokens': expected a value >= 16, but got 1", {"min_tokens": 16}),
        ("max_tokens must be at least 4", {"min_tokens": 4}),
        ("max_completion_tokens: minimum value is 32", {"min_tokens": 32}),
        ("'max_tokens' is not supported, use 'max_completion_tokens'",
         {"limit_parameter": "max_completion_tokens"}),
        ("temperature is deprecated for this model", {"temperature": False}),
        ("something else", None),
    ],
)  # fmt: skip
def test_a_complaint_is_understood_by_its_kind(complaint, changes):
    before = EndpointCapabilities()

    found = before.adapt(complaint, "logprobs")

    if changes is None:
        assert found is None
    else:
        assert found == EndpointCapabilities(**changes)


def test_room_for_thoughts_is_doubled_until_the_reply_fits(endpoint, open_harness):
    def reply(body):
        if room(body) < 7000:
            return endpoint.says(chat("<think>hm", finish="length"))
        return endpoint.says(chat("<think>hm</think>85"))

    endpoint.script = reply

    assert open_harness(logprobs="never").value() == (85, "text")
    assert [room(body) for body in endpoint.bodies] == [16, 2048, 4096, 8192]


def test_room_for_thoughts_can_be_set(endpoint, open_harness):
    endpoint.script = [endpoint.says(chat("<think>hm</think>85"))]

    assert open_harness(thinking_room=900).value() == (85, "text")
    assert [room(body) for body in endpoint.bodies] == [900]


def test_a_refusal_in_prose_is_not_taken_for_thoughts_twice(endpoint, open_harness):
    def reply(body):
        tokens = {"I": 0.9, "Sorry": 0.1} if body.get("logprobs") else None
        return endpoint.says(chat("I cannot rate this.", tokens))

    endpoint.script = reply
    harness = open_harness()

    scores = [harness.value(text)[0] for text in ("a", "b", "c")]

    assert scores == [None, None, None]
    assert [room(body) for body in endpoint.bodies] == [1, 2048, 1, 1]


@pytest.mark.parametrize(
    ("error", "problem", "requests"),
    [
        ({"message": "The model x does not exist", "code": 404}, "has no model", 1),
        ({"message": "No endpoint fits your data policy", "code": 404}, "refuses the request", 1),
        ({"message": "Insufficient credits", "code": 402}, "has no credit left", 1),
        ({"message": "API key not valid.", "code": 400}, "refuses the key", 1),
        ({"message": "bad key", "code": "401"}, "refuses the key", 1),
        (
            {"message": "no credit", "code": "insufficient_quota", "status": 429},
            "no credit left",
            1,
        ),
    ],
)
def test_an_error_in_a_reply_counts_as_its_status(endpoint, open_harness, error, problem, requests):
    endpoint.script = [endpoint.says({"error": error, "user_id": "u"})]

    with pytest.raises(JudgeError) as raised:
        open_harness().value()

    assert problem in raised.value.problem
    assert error["message"] in raised.value.cause
    assert len(endpoint.bodies) == requests


def test_a_text_that_a_provider_moderates_has_no_score_and_the_others_do(endpoint, open_harness):
    flagged = {"message": "requires moderation and your input was flagged", "code": 403}

    def reply(body):
        is_bad = "bad words" in json.dumps(body)
        return endpoint.says({"error": flagged}) if is_bad else endpoint.chat("85", {"85": 1.0})

    endpoint.script = reply
    harness = open_harness()

    found = [harness.value(text) for text in ("fine", "bad words", "fine too")]

    assert [score for score, _ in found] == [85, None, 85]
    assert "flagged" in found[1][1]


def test_a_short_key_is_not_cut_out_of_words():
    assert redact("check your plan", "k") == "check your plan"
    assert redact("your key abcdefgh is bad", "abcdefgh") == "your key [key] is bad"


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "Rate limit", "code": 429,
                   "metadata": {"headers": {"X-RateLimit-Reset": "3"}}}},
        {"error": "overloaded"},
        {"choices": [{"error": {"message": "Upstream failed", "code": 502}}]},
        [{"error": {"message": "Overloaded", "status": "UNAVAILABLE"}}],
    ],
)  # fmt: skip
def test_a_passing_error_in_a_reply_is_tried_again(endpoint, open_harness, body):
    endpoint.script = [endpoint.says(body), endpoint.good]
    harness = open_harness()

    assert harness.value()[0] is not None
    assert len(harness.waits) == 1
    if "Rate limit" in str(body):
        assert harness.waits == [3.0]


def test_a_list_of_errors_is_quoted_in_words(endpoint, open_harness):
    error = {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}
    endpoint.script = [endpoint.says([{"error": error}], status=400)]

    with pytest.raises(JudgeError) as raised:
        open_harness().value()

    assert raised.value.cause == "HTTP 400: API key not valid."


def test_a_providers_own_words_are_quoted(endpoint, open_harness):
    raw = json.dumps({"error": {"message": "The model is asleep."}})
    error = {"message": "Provider returned error", "code": 400, "metadata": {"raw": raw}}
    endpoint.script = [endpoint.says({"error": error}, status=400)]

    with pytest.raises(JudgeError) as raised:
        open_harness().value()

    assert raised.value.cause == "HTTP 400: Provider returned error: The model is asleep."


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"<html>Log in</html>", "answers, but its replies cannot be read"),
        ({"choices": []}, "answers, but its replies cannot be read"),
        (None, "has stopped answering"),
    ],
)
def test_an_endpoint_that_cannot_be_read_is_not_one_that_does_not_answer(
    endpoint, open_harness, body, problem
):
    failing = endpoint.says(body) if body is not None else endpoint.error(503, "down")
    endpoint.script = [failing]

    with pytest.raises(JudgeError) as raised:
        open_harness().ask(*map(str, range(12)))

    assert problem in raised.value.problem


@pytest.mark.parametrize(
    ("variables", "name", "cause"),
    [
        ({"ALL_PROXY": "socks5://user:secret@127.0.0.1:9"}, "ALL_PROXY", "ocks"),
        ({"HTTPS_PROXY": "gopher://127.0.0.1:9"}, "HTTPS_PROXY", "gopher"),
        ({"SSL_CERT_FILE": "/gone.pem"}, "SSL_CERT_FILE", "the file does not exist"),
        (
            {"SSL_CERT_FILE": certifi.where(), "SSLKEYLOGFILE": "/gone/log"},
            "SSLKEYLOGFILE",
            "No such file",
        ),
        ({"OPENAI_ORG_ID": "org-ä"}, "OPENAI_ORG_ID", "a header cannot hold these characters"),
        ({"OPENAI_PROJECT_ID": "a\nb"}, "OPENAI_PROJECT_ID", "a header cannot hold"),
    ],
)
def test_an_environment_that_allows_no_client_is_named(
    endpoint, open_harness, monkeypatch, variables, name, cause
):
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)

    with pytest.raises(ConfigError) as raised:
        open_harness(base_url="http://judge.example:9/v1").value()

    assert raised.value.problem == "cannot connect to the judge"
    assert raised.value.cause.startswith(f"{name}=")
    assert cause in raised.value.cause
    assert "secret" not in raised.value.cause
    assert name in raised.value.fix


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:1", "socks5://127.0.0.1:1"])
def test_a_server_on_this_machine_is_reached_without_a_proxy(
    endpoint, open_harness, monkeypatch, proxy
):
    monkeypatch.delenv("NO_PROXY")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy)

    assert open_harness().value()[0] is not None


def test_loopback_addresses():
    hosts = ["localhost", "127.0.0.1", "127.9.9.9", "::1", "a.localhost"]
    assert all(map(is_loopback, hosts))
    assert not any(map(is_loopback, ["10.0.0.1", "example.com", "localhost.example.com", ""]))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("3", 3.0), ("1000000005", 5.0), ("1000000005000", 5.0), ("nan", None), ("x", None)],
)
def test_the_time_of_a_reset_is_a_delay_or_a_time(value, seconds):
    assert read_retry_after({"x-ratelimit-reset": value}, 1e9) == seconds


# Lenient for what the score does not need, strict for what it does


@pytest.mark.parametrize(
    "change",
    [
        {"usage": {"prompt_tokens": 12.5, "completion_tokens": None}},
        {"usage": [1]},
        {"usage": None, "id": None, "model": 7, "created": "x"},
    ],
)
def test_fields_that_a_score_does_not_need_spoil_nothing(change):
    reply = read_reply(json.dumps(chat("85", NUMBERS) | change).encode())

    assert reply.text == "85"
    assert reply.alternatives == pytest.approx(NUMBERS)


@pytest.mark.parametrize("logprobs", [None, [], {}, {"content": None}, {"content": []}, "x"])
def test_missing_log_probabilities_are_no_fault(logprobs):
    body = chat("85")
    body["choices"][0]["logprobs"] = logprobs

    assert read_reply(json.dumps(body).encode()).alternatives == {}


@pytest.mark.parametrize(
    ("key", "value"), [("token", None), ("token", 85), ("logprob", "x"), ("logprob", True)]
)
def test_a_probability_that_cannot_be_read_is_no_score(key, value):
    body = chat("85", NUMBERS)
    body["choices"][0]["logprobs"]["content"][0]["top_logprobs"][0][key] = value

    with pytest.raises(UnreadableReplyError):
        read_reply(json.dumps(body).encode())


def test_impossible_tokens_are_null_in_json():
    body = chat("85", {"85": 1.0, "80": 0.0})
    assert alternatives({"80": 0.0})[0]["logprob"] is None

    assert read_reply(json.dumps(body).encode()).alternatives == {"85": 1.0}


junk = st.none() | st.booleans() | st.integers(-5, 10**6) | st.floats() | st.text(max_size=5)
junk |= st.lists(junk, max_size=2) | st.dictionaries(st.text(max_size=4), junk, max_size=2)
PATHS = (
    ("id",), ("usage",), ("usage", "prompt_tokens"), ("choices",), ("choices", 0),
    ("choices", 0, "message"), ("choices", 0, "message", "content"),
    ("choices", 0, "finish_reason"), ("choices", 0, "logprobs"),
    ("choices", 0, "logprobs", "content"), ("choices", 0, "logprobs", "content", 0),
    ("choices", 0, "logprobs", "content", 0, "top_logprobs"),
    ("choices", 0, "logprobs", "content", 0, "top_logprobs", 0),
    ("choices", 0, "logprobs", "content", 0, "top_logprobs", 0, "token"),
    ("choices", 0, "logprobs", "content", 0, "top_logprobs", 0, "logprob"),
    ("choices", 0, "logprobs", "content", 0, "top_logprobs", 0, "bytes"),
    ("error",),
)  # fmt: skip
NEEDED = 3
"""Keys of a path up to this depth decide between a score and none."""


@settings(
    max_examples=300, deadline=timedelta(seconds=5), derandomize=True, database=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
@given(path=st.sampled_from(PATHS), value=junk)
def test_a_mangled_reply_gives_the_true_probabilities_or_none(path, value):
    body = chat("85", NUMBERS) | {"usage": {"prompt_tokens": 3}}
    place = body
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    data = json.dumps(body).encode()
    if find_error(data):
        return

    try:
        reply = read_reply(data)
    except UnreadableReplyError:
        return

    assert all(0 <= p <= 1 for p in reply.alternatives.values())
    if path[:1] in {("id",), ("usage",)} or path[-1] in {"finish_reason", "bytes"}:
        assert reply.alternatives == pytest.approx(NUMBERS)
    # A token that was not mangled keeps its probability.
    if "80" in reply.alternatives and path[-1] not in {"token"} and len(path) > 6:
        assert math.isclose(reply.alternatives["80"], 0.1)
