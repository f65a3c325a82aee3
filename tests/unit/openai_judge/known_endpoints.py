"""How ten known endpoints reply, after their documentation and replies that were seen."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from tests.unit.openai_judge.conftest import Says

Body = dict[str, Any]
NUMBERS = {"85": 0.9, "80": 0.1}


def alternatives(tokens: Mapping[str, float]) -> list[dict[str, Any]]:
    return [
        {"token": token, "logprob": math.log(p) if p else None, "bytes": list(token.encode())}
        for token, p in tokens.items()
    ]


def chat(
    text: Any, tokens: Mapping[str, float] | None = None, finish: str = "stop", **message: Any
) -> Body:
    choice: Body = {"index": 0, "finish_reason": finish}
    choice["message"] = {"role": "assistant", "content": text, **message}
    if tokens is not None:
        listed = alternatives(tokens)
        choice["logprobs"] = {"content": [listed[0] | {"top_logprobs": listed}]}
    return {"id": "x", "object": "chat.completion", "model": "m", "choices": [choice]}


def room(body: Body) -> int:
    return int(body.get("max_tokens") or body.get("max_completion_tokens") or 0)


def error(status: int, message: str, **more: Any) -> Says:
    return Says({"error": {"message": message, "type": "invalid_request_error", **more}}, status)


def openai(body: Body) -> Says:
    return Says(chat("85", NUMBERS, "length"))


def openai_reasoning(body: Body) -> Says:
    if "max_tokens" in body:
        return error(400, "Unsupported parameter: 'max_tokens' is not supported with this model. "
                     "Use 'max_completion_tokens' instead.", param="max_tokens")  # fmt: skip
    if "logprobs" in body:
        return error(400, "Unsupported parameter: 'logprobs' is not supported with this model.")
    if "temperature" in body:
        return error(400, "Unsupported value: 'temperature' does not support 0 with this model.")
    return Says(chat("", finish="length") if room(body) < 500 else chat("85"))


def azure(body: Body) -> Says:
    return Says(chat("85", NUMBERS, "length"))


def openrouter(body: Body) -> Says:
    if room(body) < 16:
        message = (
            "Invalid 'max_output_tokens': integer below minimum value. "
            "Expected a value >= 16, but got 1 instead."
        )
        raw = json.dumps({"error": {"message": message}})
        return error(400, "Provider returned error", code=400, metadata={"raw": raw})
    return Says(chat("85", NUMBERS if body.get("logprobs") else None))


def mistral(body: Body) -> Says:
    if "logprobs" in body:
        detail = [
            {
                "type": "extra_forbidden",
                "loc": ["body", name],
                "msg": "Extra inputs are not permitted",
            }
            for name in ("logprobs", "top_logprobs")
        ]
        return Says({"object": "error", "message": {"detail": detail}, "type": "invalid"}, 422)
    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "hm, 40?"}]}
    return Says(chat([thinking, {"type": "text", "text": "85"}]))


def groq(body: Body) -> Says:
    if "logprobs" in body:
        return error(400, "`logprobs` is not supported with this model")
    return Says(chat("85"))


def together(body: Body) -> Says:
    reply = chat("85")
    if "logprobs" in body:
        logprobs = {"85": math.log(0.9), "80": math.log(0.1)}
        reply["choices"][0]["logprobs"] = {
            "tokens": ["85"], "token_logprobs": [math.log(0.9)], "top_logprobs": [logprobs],
        }  # fmt: skip
    return Says(reply)


def perplexity(body: Body) -> Says:
    usage = {"prompt_tokens": 12.5, "completion_tokens": 1, "cost": {"total_cost": 0.001}}
    return Says({**chat("85"), "usage": usage, "citations": []})


def ollama(body: Body) -> Says:
    # It thinks, has no parser for it, and ignores log-probabilities.
    words = "Okay, let me see. " * 20 + "</think>\n\n85"
    return Says(
        chat(words) if room(body) >= 200 else chat(words[: 4 * room(body)], finish="length")
    )


def vllm(body: Body) -> Says:
    if body.get("top_logprobs", 0) > 5:
        message = "Requested sample logprobs of 20, which is is greater than max allowed: 5"
        return Says({"object": "error", "message": message, "type": "BadRequestError", "code": 400},
                    400)  # fmt: skip
    return Says(chat("85", {"85": 0.6, "40": 0.4}, "length"))


def llama_cpp(body: Body) -> Says:
    reply = chat("85", {"85": 1.0, "80": 0.0}, "length")
    reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"][1]["logprob"] = None
    reply["timings"] = {"prompt_n": 3}
    return Says(reply)


# Endpoint -> how it replies, the score, its method, and what is noted
ENDPOINTS: dict[str, tuple[Callable[[Body], Says], float, str, list[str]]] = {
    "OpenAI": (openai, 84.5, "logprobs", []),
    "OpenAI, reasoning": (
        openai_reasoning,
        85,
        "text",
        [
            "it wants max_completion_tokens",
            "it gives no log-probabilities, so scores are read from the text",
            "it accepts no temperature",
            "its model thinks first: a reply may have 2048 tokens",
        ],
    ),
    "Azure": (azure, 84.5, "logprobs", []),
    "OpenRouter": (
        openrouter, 84.5, "logprobs", ["its replies must be allowed at least 16 tokens"],
    ),
    "Mistral": (
        mistral, 85, "text", ["it gives no log-probabilities, so scores are read from the text"],
    ),
    "Groq": (
        groq, 85, "text", ["it gives no log-probabilities, so scores are read from the text"],
    ),
    "Together": (together, 84.5, "logprobs", []),
    "Perplexity": (
        perplexity, 85, "text", ["it gives no log-probabilities, so scores are read from the text"],
    ),
    "Ollama": (
        ollama,
        85,
        "text",
        [
            "it gives no log-probabilities, so scores are read from the text",
            "its model thinks first: a reply may have 2048 tokens",
        ],
    ),
    "vLLM": (vllm, 67, "logprobs", ["it gives at most 5 log-probabilities"]),
    "llama.cpp": (llama_cpp, 85, "logprobs", []),
}  # fmt: skip
