"""curl, openai-python and a reader like Open WebUI's against `traitcli serve`, over real sockets.

None loses a character or fails on the fields that OpenAI does not have.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import urllib.request
from typing import Any

import openai
import pytest

from tests.e2e.served_process import (
    PROMPT,
    Served,
    asked,
    expected_scores,
    scores,
    serving,
)


@pytest.fixture(scope="module")
def served(model_folders, tmp_path_factory):
    with serving(tmp_path_factory.mktemp("served"), model_folders["llama"]) as served:
        yield served


# curl


def curl(served: Served, path: str, *options: str, body: Any = None) -> str:
    command = ["curl", "--silent", "--show-error", "--no-buffer", *options, served.address + path]
    data = None
    if body is not None:
        command += ["--header", "content-type: application/json", "--data-binary", "@-"]
        data = json.dumps(body, ensure_ascii=False).encode()
    done = subprocess.run(command, input=data, capture_output=True, check=True, timeout=60)
    return done.stdout.decode()


needs_curl = pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")


@needs_curl
def test_curl_gets_the_answer_whole_and_as_lines(served):
    whole = json.loads(curl(served, "/chat/completions", body=asked(served)))
    lines = curl(served, "/chat/completions", body=asked(served, stream=True)).split("\n\n")

    assert whole["choices"][0]["message"]["content"] == served.text
    assert whole["choices"][0]["traitcli"]["mean"] == served.choice["traitcli"]["mean"]
    assert lines[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    assert "".join(one["choices"][0]["delta"].get("content", "") for one in chunks) == served.text


@needs_curl
def test_curl_gets_an_error_as_json_with_its_status(served):
    out = curl(served, "/chat/completions", "--write-out", "\n%{http_code}", body={"messages": []})

    body, status = out.rsplit("\n", 1)
    assert status == "400"
    assert json.loads(body)["error"]["type"] == "invalid_request_error"


# openai-python


@pytest.fixture
def client(served):
    with openai.OpenAI(base_url=served.address, api_key="none", max_retries=0) as client:
        yield client


def test_openai_gets_the_answer_and_keeps_the_scores(served, client):
    answer = client.chat.completions.create(**asked(served))

    [choice] = answer.choices
    assert (choice.message.content, choice.finish_reason) == (
        served.text,
        served.choice["finish_reason"],
    )
    assert choice.model_extra["traitcli"]["tokens"] == served.choice["traitcli"]["tokens"]
    assert answer.usage.completion_tokens == len(served.choice["traitcli"]["tokens"])


def test_openai_streams_every_character_and_the_scores_of_each_token(served, client):
    chunks = list(
        client.chat.completions.create(
            **asked(served, stream=True, stream_options={"include_usage": True})
        )
    )

    *own, usage = chunks
    assert "".join(one.choices[0].delta.content or "" for one in own) == served.text
    kept = [one.choices[0].model_extra["traitcli"] for one in own]
    assert scores(kept) == expected_scores(served)
    assert kept[-1]["mean"] == served.choice["traitcli"]["mean"]
    assert (usage.choices, usage.usage.completion_tokens) == ([], len(expected_scores(served)))
    assert [one.choices[0].finish_reason for one in own[:-1]] == [None] * (len(own) - 1)


def test_the_stream_helper_of_openai_puts_the_answer_together(served, client):
    with client.chat.completions.stream(**asked(served)) as stream:
        for _ in stream:
            pass
        # Not get_final_completion, which raises an error for an answer cut off by its limit.
        final = stream.current_completion_snapshot

    assert final.choices[0].message.content == served.text
    assert final.choices[0].finish_reason == served.choice["finish_reason"]


def test_async_openai_answers_side_by_side(served):
    async def ask() -> list[Any]:
        async with openai.AsyncOpenAI(
            base_url=served.address, api_key="none", max_retries=0
        ) as client:
            streams = [client.chat.completions.create(**asked(served, stream=True))] * 1
            whole = [client.chat.completions.create(**asked(served)) for _ in range(4)]
            first, *others = await asyncio.gather(*streams, *whole)
            text = "".join([one.choices[0].delta.content or "" async for one in first])
            return [text, *(one.choices[0].message.content for one in others)]

    assert asyncio.run(ask()) == [served.text] * 5


def test_openai_gets_log_probabilities_in_the_order_of_the_scores(served, client):
    answer = client.chat.completions.create(**asked(served, logprobs=True, top_logprobs=2))

    [choice] = answer.choices
    entries = choice.logprobs.content
    assert len(entries) == len(choice.model_extra["traitcli"]["tokens"])
    spelled = bytes(byte for entry in entries for byte in entry.bytes)
    assert spelled.decode("utf-8", "replace") == served.text
    assert all(len(entry.top_logprobs) == 2 and entry.logprob <= 0 for entry in entries)


def test_openai_gets_several_answers_one_of_which_is_that_of_the_seed(served, client):
    answer = client.chat.completions.create(**asked(served, n=3))

    texts = [choice.message.content for choice in answer.choices]
    assert (texts[0], len(set(texts))) == (served.text, 3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]


def test_openai_completes_text(served, client):
    options = {"seed": 3, "temperature": 2.0, "max_tokens": 16, "logprobs": 1}
    whole = client.completions.create(model=served.model, prompt=PROMPT, **options)
    stream = client.completions.create(model=served.model, prompt=PROMPT, stream=True, **options)

    assert "".join(one.choices[0].text for one in stream) == whole.choices[0].text
    assert len(whole.choices[0].logprobs.tokens) == whole.usage.completion_tokens


def test_what_a_request_may_say_of_traits_goes_through_extra_body(served, client):
    extra = {"traitcli": {"traits": ["evil"], "detail": "summary"}}

    answer = client.chat.completions.create(**asked(served), extra_body=extra)

    found = answer.choices[0].model_extra["traitcli"]
    assert list(found["mean"]) == ["evil"]
    assert "tokens" not in found


def test_openai_raises_its_own_errors(served, client):
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(**asked(served, model="gpt-4o"))
    with pytest.raises(openai.BadRequestError) as wrong:
        client.chat.completions.create(**asked(served), extra_body={"traitcli": {"trait": "evil"}})
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(**asked(served, max_tokens=10**6))

    assert unknown.value.code == "model_not_found"
    assert "trait" in wrong.value.message
    assert long.value.body["type"] == "invalid_request_error"


def test_openai_lists_the_model(served, client):
    assert [model.id for model in client.models.list()] == [served.model]
    assert client.models.retrieve(served.model).id == served.model


# Open WebUI


class OpenWebUIReader:
    """Reads a stream as Open WebUI's middleware does (0.6, read in November 2026).

    Line by line, each decoded by itself. A line counts if it begins with `data:`; the rest must be
    JSON. Usage and llama.cpp's timings go into one dictionary. A chunk without choices is an error
    or nothing. Of the first choice's delta, content is appended if it is not empty; reasoning and
    tool calls are put aside. A chunk at which any of this fails is dropped without a word.
    """

    def __init__(self) -> None:
        self.text = ""
        self.usage: dict[str, Any] = {}
        self.dropped: list[str] = []
        self.errors: list[Any] = []
        self.others: list[Any] = []

    def read(self, line: bytes) -> None:
        shown = line.decode("utf-8", "replace")
        if not shown.strip() or not shown.startswith("data:"):
            return
        try:
            self._take(json.loads(shown.removeprefix("data:").strip()))
        except Exception:  # noqa: BLE001 -- as it does
            if "data: [DONE]" not in shown:
                self.dropped.append(shown)

    def _take(self, chunk: dict[str, Any]) -> None:
        usage = chunk.get("usage", {}) or {}
        usage.update(chunk.get("timings", {}))
        self.usage |= usage
        choices = chunk.get("choices", [])
        if not choices:
            if chunk.get("error", {}):
                self.errors.append(chunk["error"])
            return
        delta = choices[0].get("delta", {})
        for key in ("annotations", "tool_calls", "images", "reasoning_content", "reasoning"):
            if delta.get(key):
                self.others.append(delta[key])
        if delta.get("content"):
            self.text += delta["content"]


def read_as_open_webui(served: Served, **more: Any) -> OpenWebUIReader:
    body = asked(served, stream=True, stream_options={"include_usage": True}, **more)
    request = urllib.request.Request(
        f"{served.address}/chat/completions",
        json.dumps(body).encode(),
        {"content-type": "application/json", "authorization": "Bearer none"},
    )
    reader = OpenWebUIReader()
    with urllib.request.urlopen(request, timeout=60) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        for line in response:
            reader.read(line)
    return reader


def test_open_webui_shows_every_character_and_the_usage(served):
    reader = read_as_open_webui(served)

    assert (reader.dropped, reader.errors, reader.others) == ([], [], [])
    assert reader.text == served.text
    assert reader.usage["completion_tokens"] == len(expected_scores(served))


def test_the_reader_of_open_webui_would_notice_a_null():
    reader = OpenWebUIReader()

    reader.read(b'data: {"choices": [{"delta": {"content": "lost"}}], "timings": null}\n')
    reader.read(b"data: [DONE]\n")

    assert (reader.text, len(reader.dropped)) == ("", 1)


def test_a_filter_of_open_webui_reaches_the_record_through_the_last_chunk(served):
    # A stream filter of Open WebUI gets each chunk as it is, before the text is taken.
    raw = [
        json.loads(line.removeprefix(b"data:"))
        for line in stream_lines(served)
        if line.startswith(b"data:") and b"[DONE]" not in line
    ]

    last = next(one for one in reversed(raw) if one["choices"])
    record = served.record(last["choices"][0]["traitcli"]["record"])
    assert record["response"] == served.text


def stream_lines(served: Served) -> list[bytes]:
    request = urllib.request.Request(
        f"{served.address}/chat/completions",
        json.dumps(asked(served, stream=True)).encode(),
        {"content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return list(response)
