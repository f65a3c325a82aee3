"""LangChain, LiteLLM and Vercel's ai package against `traitcli serve`, over real sockets.

None loses a character or fails on the fields that OpenAI does not have. Where a client drops the
scores, the record of the answer can be reached.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.served_process import (
    PROMPT,
    TOKENS,
    TRAITS,
    Served,
    asked,
    expected_scores,
    scores,
    serving,
)

CLIENTS = Path(__file__).parents[1] / "clients"
TOOLS = "{} is not installed (make test-tools)"


@pytest.fixture(scope="module")
def served(model_folders, tmp_path_factory):
    with serving(tmp_path_factory.mktemp("served"), model_folders["llama"]) as served:
        yield served


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
    extra = {"traitcli": {"steer": "evil=8", "detail": "summary"}}
    steered = chat.model_copy(update={"extra_body": extra})

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
    # It drops chunks without text, and replaces the last one: the header leads to the record.
    kept = [one.choices[0].traitcli for one in chunks if hasattr(one.choices[0], "traitcli")]
    for one in kept:
        assert one["scores"] == expected_scores(served)[one["index"]]
    written = [token["index"] for token in served.choice["traitcli"]["tokens"] if token["token"]]
    assert [one["index"] for one in kept] == written
    headers = stream._hidden_params["additional_headers"]
    assert served.record(headers["llm_provider-x-traitcli-record"])["response"] == served.text


@pytest.mark.filterwarnings("ignore")
def test_litellm_passes_traits_on(served, litellm):
    options = asked(served, api_base=served.address, api_key="none", num_retries=0)
    options |= {"model": f"openai/{served.model}", "extra_body": {"traitcli": {"traits": ["evil"]}}}

    answer = litellm.completion(**options)

    own = answer.choices[0].provider_specific_fields["traitcli"]
    assert own["mean"] == {"evil": served.choice["traitcli"]["mean"]["evil"]}


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
