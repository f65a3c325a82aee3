"""The HTTP interface over real sockets, with a tiny model."""

from __future__ import annotations

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx2
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.http_service import CHAT, Running, read_events, serving, wait_until
from tests.unit.served import model_of
from tests.unit.test_brakes import STOP, VECTORS
from traitcli.api.model import Model
from traitcli.config import Config, ModelConfig, MonitorConfig, MonitorSamplingConfig
from traitcli.generation.live_batch import LiveLimits
from traitcli.generation.projections import make_probes
from traitcli.models.load import load_model
from traitcli.models.prompts import raw_prompt
from traitcli.monitoring.monitor import monitor
from traitcli.monitoring.watch import Watch
from traitcli.record_json import to_json
from traitcli.serving.guard import LOOPBACK_HOSTS, Access
from traitcli.serving.service import Service
from traitcli.steering.interventions import prepare_interventions
from traitcli.steering.parse import parse_intervention

TEXT = CHAT["messages"][0]["content"]
ALWAYS = "any(evil)>-1000"
KEY = "kéy-123"
LIMITS = LiveLimits(slots=4, capacity=300, waiting=8)


def service_of(model, **options):
    options.setdefault("limits", LIMITS)
    return Service(model, traits=VECTORS.values(), **options)


def own_model(model_folders, stop_ids=STOP):
    """A model of its own: it belongs to its service, and `loaded` writes what is expected."""
    settings = ModelConfig(id=str(model_folders["llama"]), device="cpu")
    own = replace(load_model(settings), stop_ids=stop_ids)
    return Model(own, Config(name="tiny", model=settings), lambda event: None)


@pytest.fixture(scope="module")
def running(model_folders):
    model = own_model(model_folders)
    with serving(service_of(model), model.loaded) as running:
        yield running


@pytest.fixture(scope="module")
def long_running(model_folders):
    """A server whose answers are as long as they may be."""
    model = own_model(model_folders, frozenset())
    with serving(service_of(model), model.loaded) as running:
        yield running


@pytest.fixture(scope="module")
def spare(model_folders):
    """A model for a server of one test; its answers are as long as they may be."""
    return own_model(model_folders, frozenset())


def monitored(loaded, *, traits=tuple(VECTORS), seed=5, steer=(), **sampling):
    """The record of `monitor` for the same request, as it is printed and stored."""
    model = model_of(loaded, "llama").loaded
    interventions = [parse_intervention(text, VECTORS) for text in steer]
    watch = Watch(
        make_probes([VECTORS[trait] for trait in traits], model, "response_avg"),
        MonitorConfig(sampling=MonitorSamplingConfig(**sampling), seed=seed),
        prepare_interventions(interventions, VECTORS, model, "response_avg"),
    )
    return monitor(model, watch, TEXT)


def shown(record):
    """What monitor prints of each token: calibrated scores, or projections without a scale."""
    data = to_json(record)
    scores = data["trait_scores"] | data["calibrated_scores"]
    return [
        {trait: row[index] for trait, row in scores.items()} for index in range(len(record.tokens))
    ]


# Answers


def test_an_answer_has_the_text_and_the_scores_of_monitor(running, loaded):
    for seed in range(6):
        record = monitored(loaded, seed=seed, max_new_tokens=20, temperature=1.0)

        body = running.chat(seed=seed, max_tokens=20, temperature=1.0, top_p=0.95).json()

        [choice] = body["choices"]
        assert choice["message"] == {"role": "assistant", "content": record.response}
        assert [token["scores"] for token in choice["traitcli"]["tokens"]] == shown(record)
        assert [token["token"] for token in choice["traitcli"]["tokens"]] == list(record.tokens)
        assert choice["finish_reason"] == record.finish_reason
        for trait, mean in choice["traitcli"]["mean"].items():
            assert mean == round(record.mean(trait), 5)
        assert body["usage"] == {
            "prompt_tokens": record.prompt_tokens,
            "completion_tokens": len(record.tokens),
            "total_tokens": record.prompt_tokens + len(record.tokens),
        }


def test_a_body_has_the_keys_of_openai_and_no_nulls(running):
    response = running.chat(seed=1, max_tokens=4, n=2)

    body = response.json()
    assert list(body) == ["id", "object", "created", "model", "choices", "usage"]
    assert body["object"] == "chat.completion"
    assert body["id"].startswith("chatcmpl-")
    assert [list(choice) for choice in body["choices"]] == [
        ["index", "message", "finish_reason", "traitcli"]
    ] * 2
    assert "null" not in response.text
    records = [choice["traitcli"]["record"] for choice in body["choices"]]
    assert response.headers["x-traitcli-record"] == ", ".join(records)


def test_a_stream_has_a_chunk_for_each_token_and_one_for_its_end(running, loaded):
    record = monitored(loaded, seed=2, max_new_tokens=12)

    response = running.chat(seed=2, max_tokens=12, stream=True)

    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    *chunks, last = read_events(response.text)
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    assert [chunk["choices"][0] for chunk in chunks] == [
        {
            "index": 0,
            "delta": {"role": "assistant", "content": text} if not index else {"content": text},
            "finish_reason": None,
            "traitcli": {"index": index, "scores": scores},
        }
        for index, (text, scores) in enumerate(
            zip(streamed(chunks, record), shown(record), strict=True)
        )
    ]
    [choice] = last["choices"]
    assert choice["finish_reason"] == record.finish_reason
    assert list(choice["traitcli"]) == ["mean", "max_rolling", "alarms", "record"]
    assert response.headers["x-traitcli-record"] == choice["traitcli"]["record"]


def streamed(chunks, record):
    """The texts of the record's tokens, but the end of an incomplete character comes last."""
    texts = list(record.tokens)
    texts[-1] = chunks[-1]["choices"][0]["delta"]["content"]
    return texts


def test_streams_join_to_the_text_even_where_tokens_are_parts_of_characters(running):
    # A random model writes many bytes that are no text.
    for seed in range(12):
        body = {"seed": seed, "max_tokens": 40, "temperature": 1.5}
        whole = running.chat(**body).json()["choices"][0]

        chunks = read_events(running.chat(**body, stream=True).text)

        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        joined = "".join(delta.get("content", "") for delta in deltas)
        assert joined == whole["message"]["content"]
        assert len(chunks) - 1 == len(whole["traitcli"]["tokens"])


def test_usage_comes_in_a_chunk_of_its_own_if_it_was_asked_for(running):
    body = {"seed": 1, "max_tokens": 5, "stream": True}
    plain = read_events(running.chat(**body).text)

    asked = read_events(running.chat(**body, stream_options={"include_usage": True}).text)

    *chunks, usage = asked
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        chunk["choices"][0]["delta"] for chunk in plain
    ]
    assert all("usage" not in chunk for chunk in plain + chunks)
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == len(chunks) - 1


def test_answers_of_one_request_are_those_of_the_following_seeds(running):
    alone = [running.chat(seed=seed, max_tokens=10).json()["choices"][0] for seed in (7, 8, 9)]

    several = running.chat(seed=7, max_tokens=10, n=3).json()["choices"]
    chunks = read_events(running.chat(seed=7, max_tokens=10, n=3, stream=True).text)

    assert [choice["index"] for choice in several] == [0, 1, 2]
    texts = [choice["message"]["content"] for choice in alone]
    assert [choice["message"]["content"] for choice in several] == texts
    for index, text in enumerate(texts):
        own = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert "".join(choice["delta"].get("content", "") for choice in own) == text
        assert own[0]["delta"]["role"] == "assistant"
        assert [choice["finish_reason"] is None for choice in own] == [True] * (len(own) - 1) + [
            False
        ]


def test_without_a_seed_answers_differ_and_the_record_has_the_seed(running):
    first, second = (running.chat(max_tokens=20, temperature=1.0).json() for _ in range(2))

    record = running.client.get(record_path(first)).json()
    again = running.chat(max_tokens=20, temperature=1.0, seed=record["seed"]).json()
    assert again["choices"][0]["message"] == first["choices"][0]["message"]
    assert second["choices"][0]["message"] != first["choices"][0]["message"]


def record_path(body):
    return f"/v1/traitcli/records/{body['choices'][0]['traitcli']['record']}"


def test_a_record_is_that_of_monitor_with_what_the_client_says_of_itself(running, loaded):
    said = {"user": "ann", "metadata": {"ticket": "12"}}

    body = running.chat(seed=5, max_tokens=8, **said).json()

    record = running.client.get(record_path(body)).json()
    expected = to_json(monitored(loaded, seed=5, max_new_tokens=8))
    timed = {"seconds", "created"}
    assert {key: value for key, value in record.items() if key not in timed} == {
        **{key: value for key, value in expected.items() if key not in timed},
        "about": said,
    }


def test_an_unknown_record_is_a_404(running):
    for name in ("nothing", "..%2F..%2Fetc%2Fpasswd", "x" * 3000):
        response = running.client.get(f"/v1/traitcli/records/{name}")

        assert response.status_code == 404
        assert "error" in response.json()


def test_log_probabilities_are_those_of_the_tokens_in_their_order(running):
    body = {"seed": 3, "max_tokens": 30, "logprobs": True, "top_logprobs": 3, "temperature": 1.5}

    whole = running.chat(**body).json()["choices"][0]
    chunks = read_events(running.chat(**body, stream=True).text)[:-1]

    entries = whole["logprobs"]["content"]
    assert len(entries) == len(whole["traitcli"]["tokens"])
    assert [chunk["choices"][0]["logprobs"]["content"] for chunk in chunks] == [
        [entry] for entry in entries
    ]
    data = bytes(byte for entry in entries for byte in entry["bytes"])
    assert data.decode("utf-8", "replace") == whole["message"]["content"]
    for entry in entries:
        likeliest = [one["logprob"] for one in entry["top_logprobs"]]
        assert likeliest == sorted(likeliest, reverse=True)
        assert len(likeliest) == 3
        assert entry["logprob"] <= 0


def test_greedy_tokens_are_the_likeliest(running):
    body = {"max_tokens": 10, "temperature": 0, "logprobs": True, "top_logprobs": 1}

    entries = running.chat(**body).json()["choices"][0]["logprobs"]["content"]

    assert all(entry["top_logprobs"][0]["token"] == entry["token"] for entry in entries)


def test_top_p_of_zero_is_greedy(running):
    greedy = running.chat(max_tokens=10, temperature=0).json()["choices"][0]["message"]

    narrow = running.chat(max_tokens=10, temperature=1, top_p=0, seed=4).json()["choices"][0]

    assert narrow["message"] == greedy


def test_a_stop_string_ends_the_answer_before_it(long_running):
    body = {"seed": 1, "max_tokens": 60}
    text = long_running.chat(**body).json()["choices"][0]["message"]["content"]
    stop = text[20:23]

    for stops in (stop, ["never there", stop]):
        choice = long_running.chat(**body, stop=stops).json()["choices"][0]
        chunks = read_events(long_running.chat(**body, stop=stops, stream=True).text)

        assert choice["message"]["content"] == text[: text.index(stop)]
        assert choice["finish_reason"] == "stop"
        deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
        assert "".join(delta.get("content", "") for delta in deltas) == text[: text.index(stop)]


@pytest.mark.parametrize("key", ["max_tokens", "max_completion_tokens"])
def test_the_length_limit_ends_the_answer(long_running, key):
    choice = long_running.chat(seed=1, **{key: 7}).json()["choices"][0]

    assert len(choice["traitcli"]["tokens"]) == 7
    assert choice["finish_reason"] == "length"


def test_without_a_length_limit_an_answer_fills_its_slot(long_running):
    body = long_running.chat(seed=1).json()

    assert body["usage"]["total_tokens"] == LIMITS.capacity
    assert body["choices"][0]["finish_reason"] == "length"


def test_completions_continue_texts(running, loaded):
    model = model_of(loaded, "llama").loaded
    prompts = ["How does", "Was heißt"]
    asked = {"prompt": prompts, "n": 2, "max_tokens": 6, "seed": 3, "logprobs": 2}

    body = running.client.post("/v1/completions", json=asked).json()
    stream = running.client.post("/v1/completions", json=asked | {"stream": True}).text

    assert body["object"] == "text_completion"
    assert body["id"].startswith("cmpl-")
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    tokens = sum(len(raw_prompt(model.tokenizer, prompt).ids) for prompt in prompts)
    assert body["usage"]["prompt_tokens"] == tokens
    chunks = read_events(stream)
    for choice in body["choices"]:
        count = len(choice["traitcli"]["tokens"])
        assert list(choice) == ["index", "text", "logprobs", "finish_reason", "traitcli"]
        assert {key: len(row) for key, row in choice["logprobs"].items()} == {
            "tokens": count,
            "token_logprobs": count,
            "top_logprobs": count,
        }
        own = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == choice["index"]]
        assert "".join(one["text"] for one in own) == choice["text"]


# Traits


def test_a_request_chooses_its_traits_and_its_steering(running, loaded):
    record = monitored(
        loaded, traits=("refusal",), seed=5, steer=("evil=2", "refusal=-1.5"), max_new_tokens=12
    )
    options = {"traits": ["refusal"], "steer": ["evil=2", "refusal=-1.5"]}

    choice = running.chat(seed=5, max_tokens=12, traitcli=options).json()["choices"][0]

    assert choice["message"]["content"] == record.response
    assert [token["scores"] for token in choice["traitcli"]["tokens"]] == shown(record)


@pytest.mark.parametrize("is_stream", [False, True])
def test_an_alarm_that_stops_is_a_content_filter(long_running, is_stream):
    options = {"stop_on": ALWAYS}

    response = long_running.chat(seed=1, max_tokens=20, stream=is_stream, traitcli=options)

    choice = (read_events(response.text)[-1] if is_stream else response.json())["choices"][0]
    assert choice["finish_reason"] == "content_filter"
    [alarm] = choice["traitcli"]["alarms"]
    assert list(alarm) == ["rule", "action", "token", "score"]
    assert (alarm["rule"], alarm["action"], alarm["token"]) == (ALWAYS, "stop", 0)


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_summary_has_no_scores_of_tokens(running, is_stream):
    response = running.chat(seed=1, max_tokens=5, stream=is_stream, traitcli={"detail": "summary"})

    if is_stream:
        *chunks, last = read_events(response.text)
        assert all("traitcli" not in chunk["choices"][0] for chunk in chunks)
        assert list(last["choices"][0]["traitcli"]) == ["mean", "max_rolling", "alarms", "record"]
    else:
        assert "tokens" not in response.json()["choices"][0]["traitcli"]


def test_traits_and_models_are_listed(running):
    traits = running.client.get("/v1/traitcli/traits").json()["data"]
    models = running.client.get("/v1/models").json()["data"]

    assert traits == [
        {"name": "evil", "layer": 2, "has_scale": True},
        {"name": "refusal", "layer": 3, "has_scale": True},
        {"name": "plain", "layer": 2, "has_scale": False},
    ]
    [model] = models
    assert model["id"] == running.service.model
    assert running.client.get(f"/v1/models/{model['id']}").json() == model
    assert running.client.get("/v1/models/other").json()["error"]["code"] == "model_not_found"


# Requests side by side


def test_requests_side_by_side_have_the_answers_that_they_have_alone(running):
    bodies = [
        {
            "seed": number,
            "max_tokens": 5 + number,
            "temperature": number / 3,
            "traitcli": {"traits": list(VECTORS)[: 1 + number % 3], "steer": f"evil={number - 3}"},
        }
        for number in range(7)
    ]
    alone = [running.chat(**body).json()["choices"][0] for body in bodies]

    with ThreadPoolExecutor(len(bodies)) as pool:
        together = list(pool.map(lambda body: running.chat(**body).json()["choices"][0], bodies))

    for one, other in zip(alone, together, strict=True):
        assert other["message"] == one["message"]
        for mine, its in zip(other["traitcli"]["tokens"], one["traitcli"]["tokens"], strict=True):
            assert mine["scores"] == pytest.approx(its["scores"], abs=1e-3)


def test_beyond_the_queue_there_is_a_429_and_the_others_are_answered(long_running):
    with ThreadPoolExecutor(30) as pool:
        responses = list(pool.map(lambda seed: long_running.chat(seed=seed), range(30)))

    refused = [response for response in responses if response.status_code == 429]
    assert 0 < len(refused) <= 30 - LIMITS.slots - LIMITS.waiting
    assert {response.status_code for response in responses} == {200, 429}
    for response in refused:
        assert response.headers["retry-after"] == "2"
        assert response.json()["error"]["code"] == "rate_limit_exceeded"
    long_running.wait_until_free()


def test_an_answer_of_many_that_does_not_fit_cancels_the_others(long_running):
    with long_running.held(steps=5):
        other = open_request(long_running, {**CHAT, "n": 2})
        wait_until(lambda: long_running.service.counts.running > 0)

        response = long_running.chat(n=LIMITS.slots + LIMITS.waiting, seed=1)

        assert response.status_code == 429
    other.close()
    long_running.wait_until_free()


def test_more_answers_than_ever_fit_are_a_mistake_of_the_client(long_running):
    response = long_running.chat(n=LIMITS.slots + LIMITS.waiting + 1)

    assert response.status_code == 400
    assert response.json()["error"]["param"] == "n"


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_client_that_goes_away_frees_its_slot(long_running, is_stream):
    gone = 'traitcli_requests_total{path="/v1/chat/completions",status="499"}'
    left_before = long_running.metric(gone)
    before = long_running.metric('traitcli_answers_total{reason="cancelled"}')
    with long_running.held(steps=12) as wait_for_leaving:
        connection = open_request(long_running, {**CHAT, "stream": is_stream, "n": 3})
        wait_until(lambda: long_running.service.counts.running > 0)

        connection.close()
        wait_for_leaving()

    long_running.wait_until_free()
    assert long_running.metric('traitcli_answers_total{reason="cancelled"}') == before + 3
    if not is_stream:
        assert long_running.metric(gone) == left_before + 1


def test_a_client_that_goes_away_mid_stream_ends_the_answer_at_once(long_running):
    data = b""
    with long_running.held(steps=30) as wait_for_leaving:
        connection = open_request(long_running, {**CHAT, "stream": True})
        while data.count(b"data: ") < 20:
            part = connection.recv(4096)
            assert part
            data += part
        connection.close()
        wait_for_leaving()

    long_running.wait_until_free()

    name = data.partition(b"x-traitcli-record: ")[2].partition(b"\r\n")[0].decode()
    record = long_running.client.get(f"/v1/traitcli/records/{name}").json()
    assert record["finish_reason"] == "interrupted"
    assert 20 <= len(record["tokens"]) < 150


def open_request(running: Running, body) -> socket.socket:
    """A connection on which a request was sent, and nothing is read yet."""
    data = json.dumps(body).encode()
    connection = socket.socket()
    connection.settimeout(20)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", running.port))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}"
    connection.sendall(f"{head}\r\nConnection: close\r\n\r\n".encode() + data)
    return connection


def test_a_slow_reader_holds_up_nobody_and_gets_all_of_its_answer(long_running):
    body = {**CHAT, "stream": True, "seed": 1, "n": 3, "logprobs": True, "top_logprobs": 20}
    slow = open_request(long_running, body)

    assert long_running.chat(seed=2).status_code == 200
    long_running.wait_until_free()

    received = b""
    while part := slow.recv(65536):
        received += part
    slow.close()
    assert received.count(b'"finish_reason":"length"') == 3
    assert received.rstrip().endswith(b"data: [DONE]\n\n\r\n0")


# Mistakes and strangers


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/nothing", "GET", 404),
        # A redirect would lead to http, also behind a proxy with TLS.
        ("/v1/chat/completions/", "POST", 404),
        ("/v1/chat/completions", "GET", 405),
        ("/v1/models", "DELETE", 405),
    ],
)
def test_wrong_paths_and_methods_are_errors_in_the_form_of_openai(running, path, method, status):
    response = running.client.request(method, path)

    assert response.status_code == status
    assert_error(response)
    assert path in response.json()["error"]["message"]
    # Clients learn from it what they may do instead.
    methods = {"/v1/chat/completions": {"POST"}, "/v1/models": {"GET", "HEAD"}}
    allowed = set(filter(None, response.headers.get("allow", "").split(", ")))
    assert allowed == (methods[path] if status == 405 else set())


def assert_error(response):
    assert response.headers["content-type"] == "application/json"
    [error] = response.json().values()
    assert list(error) == ["message", "type", "param", "code"]
    assert error["message"]
    assert error["type"] in {"invalid_request_error", "rate_limit_error", "server_error"}


def test_what_the_model_cannot_do_is_a_400_that_says_so(running):
    cases = {
        "too long": {"messages": [{"role": "user", "content": "why " * 400}]},
        "not fit": {"max_tokens": LIMITS.capacity},
        "evl": {"traitcli": {"traits": ["evl"]}},
        "evil=abc": {"traitcli": {"steer": "evil=abc"}},
        "evil>>1": {"traitcli": {"stop_on": "evil>>1"}},
        "plain": {"traitcli": {"stop_on": "plain@fpr=1%"}},
    }
    for expected, body in cases.items():
        response = running.chat(**body)

        assert response.status_code == 400, expected
        assert_error(response)
        error = response.json()["error"]
        if " " in expected:
            assert error["code"] == "context_length_exceeded"
            assert f"the {LIMITS.capacity} tokens of a slot" in error["message"]
        else:
            assert expected in error["message"]


def test_an_error_of_the_service_is_short_however_long_the_request_is(running):
    for options in ({"steer": "x" * 50_000}, {"traits": ["x" * 50_000]}):
        response = running.chat(traitcli=options)

        assert response.status_code == 400
        assert len(response.content) < 2000


def test_another_model_is_a_404(running):
    response = running.chat(model="gpt-4o")

    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"
    assert running.chat(model=running.service.model, max_tokens=1).status_code == 200


@pytest.mark.parametrize("is_announced", [True, False])
def test_a_body_that_is_too_large_is_refused_while_it_is_read(running, is_announced):
    part = b" " * 10_000

    def parts():
        for _ in range(1000):
            yield part

    content = part * 1000 if is_announced else parts()
    try:
        response = running.client.post("/v1/chat/completions", content=content)
    except httpx2.WriteError:
        # The server has closed the connection before all of it was sent.
        return

    assert response.status_code == 413
    assert_error(response)


def test_a_page_of_another_site_cannot_use_the_server(running):
    strangers = [
        {"host": "evil.example"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://["},
    ]
    for headers in strangers:
        response = running.client.post("/v1/chat/completions", json=CHAT, headers=headers)

        assert response.status_code == 403
        assert_error(response)
        assert "access-control-allow-origin" not in response.headers
    for host in ("localhost", "127.0.0.1:80", "[::1]:8000", f"LOCALHOST:{running.port}"):
        assert running.client.get("/health", headers={"host": host}).status_code == 200
    own = {"origin": running.address}
    assert running.client.get("/health", headers=own).status_code == 200


def test_a_page_that_is_allowed_may_read_answers_and_errors(spare):
    origin = "https://chat.example"
    access = Access(None, LOOPBACK_HOSTS, (origin,))
    with serving(service_of(spare), spare.loaded, access=access) as running:
        preflight = running.client.options(
            "/v1/chat/completions",
            headers={
                "origin": origin,
                "access-control-request-method": "POST",
                "access-control-request-headers": "authorization,content-type,x-stainless-os",
            },
        )
        answer = running.client.post(
            "/v1/chat/completions", json=CHAT | {"max_tokens": 1}, headers={"origin": origin}
        )
        error = running.client.post("/v1/chat/completions", json={}, headers={"origin": origin})
        other = running.client.get("/health", headers={"origin": "https://other.example"})

    assert preflight.status_code == 200
    assert answer.status_code == 200
    assert error.status_code == 400
    for response in (preflight, answer, error):
        assert response.headers["access-control-allow-origin"] == origin
    assert "x-traitcli-record" in answer.headers["access-control-expose-headers"]
    assert other.status_code == 403
    assert "access-control-allow-origin" not in other.headers


def test_with_a_key_only_its_owner_gets_answers(spare):
    with serving(service_of(spare), spare.loaded, access=Access(KEY, ())) as running:

        def status(path, *, header=None, method="GET"):
            headers = {} if header is None else {"authorization": header}
            body = CHAT | {"max_tokens": 1} if method == "POST" else None
            response = running.client.request(method, path, json=body, headers=headers)
            if response.status_code == 401:
                assert_error(response)
                assert response.headers["www-authenticate"] == "Bearer"
            return response.status_code

        right = f"Bearer {KEY}".encode()
        paths = ["/v1/models", "/v1/traitcli/traits", "/v1/traitcli/records/x", "/metrics"]
        wrong = [None, "", "Bearer", f"Bearer {KEY[:-1]}".encode(), "Basic x", right[7:]]
        for header in wrong:
            assert status("/v1/chat/completions", header=header, method="POST") == 401
            assert {status(path, header=header) for path in paths} == {401}
        assert status("/v1/chat/completions", header=right, method="POST") == 200
        assert status("/metrics", header=right) == 200
        # A load balancer has no key. With one, any name of the server will do.
        assert status("/health") == 200
        named = running.client.get("/health", headers={"host": "models.example"})
        assert named.status_code == 200


VALID = {
    **CHAT,
    "max_tokens": 2,
    "temperature": 0.5,
    "stop": ["a"],
    "stream": False,
    "traitcli": {"traits": ["evil"], "steer": "evil=1", "detail": "summary"},
}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([*VALID, "text", "user", "evil=1", "role", "content"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=10) | st.sampled_from([*VALID, "n"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@st.composite
def nearly_valid(draw):
    """A valid body with some values replaced, and one key of any kind."""
    body = dict(VALID)
    for key in draw(st.sets(st.sampled_from(list(VALID)), max_size=3)):
        body[key] = draw(JSON)
    return body | draw(st.dictionaries(st.text(max_size=12), JSON, max_size=1))


def encoded(tree):
    return json.dumps(tree).encode("utf-8", "surrogatepass")


def cut(data):
    return st.integers(0, len(data)).map(lambda end: data[:end])


BODIES = (
    st.binary(max_size=200)
    | JSON.map(encoded)
    | nearly_valid().map(encoded)
    | nearly_valid().map(encoded).flatmap(cut)
    | st.integers(1, 20_000).map(lambda depth: b"[" * depth)
)


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(body=BODIES, path=st.sampled_from(["/v1/chat/completions", "/v1/completions"]))
def test_a_malformed_body_is_an_error_and_leaves_nothing_behind(running, body, path):
    response = running.client.post(path, content=body)

    if response.status_code != 200:
        assert response.status_code in {400, 404}
        assert_error(response)
    running.wait_until_free()


# Stopping, time and faults


def test_a_server_that_stops_finishes_its_streams_and_takes_nothing_new(spare):
    with (
        serving(service_of(spare), spare.loaded) as running,
        running.client.stream(
            "POST", "/v1/chat/completions", json=CHAT | {"stream": True, "seed": 1}
        ) as stream,
    ):
        parts = stream.iter_text()
        text = next(parts)

        running.server.stop()

        with httpx2.Client(base_url=running.address, trust_env=False) as other:
            refused = other.post("/v1/chat/completions", json=CHAT)
            health = other.get("/health")
        text += "".join(parts)

    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "server_stopping"
    assert (health.status_code, health.json()["status"]) == (503, "stopping")
    assert read_events(text)[-1]["choices"][0]["finish_reason"] == "length"
    assert not running.server.has_cut_off


def test_a_server_that_is_stopped_twice_cuts_answers_off(spare):
    with serving(service_of(spare), spare.loaded) as running:
        connection = open_request(running, {**CHAT, "stream": True, "n": 4})
        connection.recv(100)
        running.server.stop()
        running.server.stop()

    connection.close()
    assert running.server.has_cut_off


@pytest.mark.parametrize("is_stream", [False, True])
def test_when_its_time_is_up_an_answer_ends_and_says_so(spare, is_stream):
    service = service_of(spare, seconds=0.15)
    with serving(service, spare.loaded) as running:
        response = running.chat(seed=1, stream=is_stream, n=4)

    assert response.status_code == 200
    if is_stream:
        ends = [chunk["choices"][0] for chunk in read_events(response.text)]
        ends = [choice for choice in ends if choice["finish_reason"]]
    else:
        ends = response.json()["choices"]
    assert len(ends) == 4
    assert all(choice["finish_reason"] == "length" for choice in ends)
    assert all(choice["traitcli"]["ended"] == "time" for choice in ends)


@pytest.mark.parametrize("is_stream", [False, True])
def test_an_error_of_the_model_ends_only_its_own_request(long_running, is_stream):
    broken = {"max_tokens": 20, "stream": is_stream, "traitcli": {"steer": "evil=1e38"}}
    alone = long_running.chat(seed=3).json()["choices"][0]["message"]

    with ThreadPoolExecutor(3) as pool:
        good = pool.submit(long_running.chat, seed=3)
        failed = [pool.submit(long_running.chat, **broken) for _ in range(2)]

    assert good.result().json()["choices"][0]["message"] == alone
    for response in (one.result() for one in failed):
        assert response.status_code == 400
        assert_error(response)
    long_running.wait_until_free()


def test_metrics_count_what_was_answered(spare):
    with serving(service_of(spare), spare.loaded) as running:
        bodies = [
            running.chat(seed=seed, max_tokens=9, traitcli={"traits": ["evil"]}).json()
            for seed in range(3)
        ]
        running.chat(max_tokens=3, traitcli={"traits": ["evil"], "stop_on": "any(evil)>-999"})
        running.chat(max_tokens=3, traitcli={"traits": ["evil"], "stop_on": ALWAYS})
        running.chat(temperature="hot")

        metric = running.metric
        assert metric('traitcli_requests_total{path="/v1/chat/completions",status="200"}') == 5
        assert metric('traitcli_requests_total{path="/v1/chat/completions",status="400"}') == 1
        assert metric('traitcli_answers_total{reason="length"}') == 3
        assert metric('traitcli_answers_total{reason="alarm"}') == 2
        assert metric("traitcli_tokens_total") == 3 * 9 + 2
        assert metric('traitcli_alarms_total{rule="request"}') == 1
        assert metric(f'traitcli_alarms_total{{rule="{ALWAYS}"}}') == 1
        assert metric("traitcli_slots") == LIMITS.slots
        assert metric("traitcli_slots_running") == metric("traitcli_queue_waiting") == 0
        assert metric("traitcli_tokens_per_second") == pytest.approx(2.9)
        assert metric("traitcli_first_token_seconds_count") == 5
        count = metric('traitcli_scored_tokens_total{trait="evil"}')
        mean = metric('traitcli_score_mean{trait="evil"}')
        assert metric('traitcli_score_sum{trait="evil"}') == pytest.approx(mean * count)
        scores = [
            token["scores"]["evil"]
            for body in bodies
            for token in body["choices"][0]["traitcli"]["tokens"]
        ]
        above = metric('traitcli_scored_tokens_beyond_total{side="above",trait="evil"}')
        assert 0 <= above - sum(score > 1 for score in scores) <= 2


def test_a_full_disk_costs_no_answer_and_is_seen_in_the_metrics(spare, tmp_path):
    folder = tmp_path / "records"
    with serving(service_of(spare, records=folder), spare.loaded) as running:
        assert running.metric("traitcli_records_lost") == 0
        folder.write_text("in the way")

        answer = running.chat(max_tokens=2)

        name = answer.json()["choices"][0]["traitcli"]["record"]
        assert running.client.get(f"/v1/traitcli/records/{name}").status_code == 200
        assert running.service._records.flush(20)
        assert running.metric("traitcli_records_lost") == 1


def test_requests_that_never_send_their_body_take_no_slot(running):
    connections = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(10)]
    for connection in connections:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"
        )

    assert running.chat(max_tokens=2).status_code == 200

    for connection in connections:
        connection.close()
    running.wait_until_free()
    assert threading.active_count() < 100
