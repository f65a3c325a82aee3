"""Clients of other people against `traitcli serve`, each over a real socket.

None loses a character or fails on the fields that OpenAI does not have.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml

from tests.unit.test_foreign_vectors import make_matrix, make_vector
from traitcli.records import POSITIONS
from traitcli.vectors.files import write_vector

CLIENTS = Path(__file__).parents[1] / "clients"
TOOLS = "{} is not installed (make test-tools)"
TRAITS = ["evil", "kind"]
PROMPT = "Was heißt das? ¿Qué es esto? 你好，世界 🙂"
MESSAGES = [{"role": "user", "content": PROMPT}]
TOKENS = 48
"""Tokens of an answer, at most."""
CONFIG = {
    "name": "tiny",
    "model": {"id": "model", "device": "cpu"},
    "monitor": {"sampling": {"temperature": 2.0, "top_p": 1.0}},
}


@dataclass(frozen=True)
class Served:
    """A server in its own process, and an answer that clients must reproduce."""

    address: str
    model: str
    seed: int = 0
    text: str = ""
    choice: dict[str, Any] = field(default_factory=dict)

    def ask(self, seed: int, **more: Any) -> dict[str, Any]:
        """The body of an answer, by nothing but the standard library."""
        body = {"messages": MESSAGES, "seed": seed, "max_tokens": TOKENS, **more}
        request = urllib.request.Request(
            f"{self.address}/chat/completions",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)

    def record(self, name: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.address}/traitcli/records/{name}") as response:
            return json.load(response)


@pytest.fixture(scope="module")
def served(model_folders, tmp_path_factory) -> Iterator[Served]:
    """The command with a tiny model, whose answers are full of half characters."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(model_folders["llama"], folder / "model")
    for number, trait in enumerate(TRAITS):
        directions = {place: make_matrix(seed=10 * number + k) for k, place in enumerate(POSITIONS)}
        vector = make_vector(trait=trait, directions=directions)
        write_vector(folder / "vectors" / "model", vector)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    command = [sys.executable, "-m", "traitcli", "serve", "-c", "tiny.yaml", "--port", "0"]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    try:
        started = []
        while not started or not (found := re.match(r"serving (\S+) at (\S+)", started[-1])):
            line = process.stderr.readline()
            assert line, f"the server ended: {''.join(started)}"
            started.append(line)
        yield with_answer(Served(f"{found[2]}/v1", found[1]))
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
    assert process.returncode == 0


def with_answer(served: Served) -> Served:
    """The server with an answer that has a character of several bytes, and is not short."""
    for seed in range(100):
        [choice] = served.ask(seed, temperature=2.0)["choices"]
        text = choice["message"]["content"]
        letters = {letter for letter in text if ord(letter) > 127 and letter != "\ufffd"}
        if (
            letters
            and choice["finish_reason"] == "length"
            and len(choice["traitcli"]["tokens"]) > 20
        ):
            return Served(served.address, served.model, seed, text, choice)
    raise AssertionError("no answer has a character of several bytes")


def asked(served: Served, **more: Any) -> dict[str, Any]:
    """The request that gives the answer."""
    return {
        "model": served.model,
        "messages": MESSAGES,
        "seed": served.seed,
        "temperature": 2.0,
        "max_tokens": TOKENS,
        **more,
    }


def scores(choices: list[dict[str, Any]]) -> list[dict[str, float]]:
    """The scores of a stream's tokens, from what a client kept."""
    return [one["scores"] for one in choices if "scores" in one]


def expected_scores(served: Served) -> list[dict[str, float]]:
    return [token["scores"] for token in served.choice["traitcli"]["tokens"]]


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


# LangChain


@pytest.fixture
def chat(served):
    langchain = pytest.importorskip("langchain_openai", reason=TOOLS.format("langchain-openai"))
    return langchain.ChatOpenAI(
        base_url=served.address,
        api_key="none",
        model=served.model,
        seed=served.seed,
        temperature=2.0,
        max_tokens=TOKENS,
        max_retries=0,
        include_response_headers=True,
    )


def check_header(served: Served, metadata: dict[str, Any]) -> None:
    """LangChain drops the scores; the header leads to the record, which has them."""
    record = served.record(metadata["headers"]["x-traitcli-record"])
    assert record["response"] == served.text
    assert {trait: len(row) for trait, row in record["trait_scores"].items()} == dict.fromkeys(
        TRAITS, len(expected_scores(served))
    )


@pytest.mark.filterwarnings("ignore")
def test_langchain_invokes_streams_and_streams_asynchronously(served, chat):
    async def stream() -> list[Any]:
        return [one async for one in chat.astream(PROMPT)]

    whole = chat.invoke(PROMPT)
    chunks = list(chat.stream(PROMPT))
    later = asyncio.run(stream())

    assert whole.content == served.text
    assert "".join(one.content for one in chunks) == served.text
    assert "".join(one.content for one in later) == served.text
    assert whole.response_metadata["finish_reason"] == served.choice["finish_reason"]
    assert whole.usage_metadata["output_tokens"] == len(expected_scores(served))
    check_header(served, whole.response_metadata)
    total = chunks[0]
    for one in chunks[1:]:
        total += one
    check_header(served, total.response_metadata)


@pytest.mark.filterwarnings("ignore")
def test_langchain_passes_steering_on(served, chat):
    steered = chat.bind(extra_body={"traitcli": {"steer": "evil=8", "detail": "summary"}})

    assert steered.invoke(PROMPT).content != served.text


# LiteLLM


@pytest.fixture
def litellm(monkeypatch):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    return pytest.importorskip("litellm", reason=TOOLS.format("LiteLLM"))


@pytest.mark.filterwarnings("ignore")
def test_litellm_completes_and_streams(served, litellm):
    options = asked(served, api_base=served.address, api_key="none", num_retries=0)
    options["model"] = f"openai/{served.model}"

    whole = litellm.completion(**options)
    stream = litellm.completion(**options, stream=True)
    chunks = list(stream)

    assert whole.choices[0].message.content == served.text
    assert "".join(one.choices[0].delta.content or "" for one in chunks) == served.text
    own = whole.choices[0].provider_specific_fields["traitcli"]
    assert own["tokens"] == served.choice["traitcli"]["tokens"]
    # It replaces the last chunk, which has the summary: the header leads to the record.
    kept = [one.choices[0].traitcli for one in chunks if hasattr(one.choices[0], "traitcli")]
    assert scores(kept) == expected_scores(served)
    headers = stream._hidden_params["additional_headers"]
    assert served.record(headers["llm_provider-x-traitcli-record"])["response"] == served.text


# Vercel's ai package


@pytest.fixture(scope="module")
def vercel(served):
    """What the package made of the answer, whole and streamed."""
    if not shutil.which("node") or not (CLIENTS / "node_modules" / "ai").is_dir():
        pytest.skip("the ai package is not installed (make test-tools; it needs Node.js)")
    numbers = (str(served.seed), str(TOKENS))
    command = ["node", "ai.mjs", served.address, served.model, PROMPT, *numbers]
    done = subprocess.run(
        command,
        cwd=CLIENTS,
        capture_output=True,
        check=False,
        timeout=120,
        env={**os.environ, "AI_SDK_LOG_WARNINGS": "false"},
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def test_the_ai_package_generates_and_streams_every_character(served, vercel):
    assert vercel["whole"]["text"] == served.text
    assert vercel["stream"]["errors"] == []
    assert "".join(vercel["stream"]["deltas"]) == served.text
    assert vercel["stream"]["finish"] == vercel["whole"]["finish"]
    for way in ("whole", "stream"):
        assert vercel[way]["usage"]["outputTokens"] == len(expected_scores(served))


def test_the_ai_package_keeps_the_scores_with_a_metadata_extractor(served, vercel):
    [whole] = vercel["whole"]["choices"]
    assert whole["tokens"] == served.choice["traitcli"]["tokens"]
    assert scores(vercel["stream"]["choices"]) == expected_scores(served)
    assert vercel["stream"]["choices"][-1]["mean"] == served.choice["traitcli"]["mean"]


def test_the_ai_package_raises_its_own_error(vercel):
    assert (vercel["refused"]["name"], vercel["refused"]["status"]) == ("AI_APICallError", 404)
    assert "another" in vercel["refused"]["message"]


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
