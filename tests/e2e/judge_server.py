"""A local judge endpoint that gives long answers high scores and records its requests."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-e2e-0123456789abcdef"
LONG = 16
"""Answers with at least this many characters get high scores."""


def answer_in(prompt: str) -> str:
    """Return the answer inside a prompt about the trait or about coherence."""
    return prompt.rpartition("<answer>\n")[2].partition("\n</answer>")[0]


def is_about_coherence(prompt: str) -> bool:
    return prompt.startswith("You are rating how coherent")


def alternatives(prompt: str) -> Mapping[str, float]:
    """Return the probability of each number as the reply."""
    if is_about_coherence(prompt):
        return {"95": 0.9}
    if len(answer_in(prompt)) >= LONG:
        return {"90": 0.6, "80": 0.2}
    return {"20": 0.8, "no": 0.1}


def expected_score(answer: str) -> float:
    return (90 * 0.6 + 80 * 0.2) / 0.8 if len(answer) >= LONG else 20.0


def tokens_in(prompt: str) -> int:
    """Return the tokens of a prompt as the server counts them."""
    return len(prompt.encode()) // 4


class Server(ThreadingHTTPServer):
    """Replies to chat completions with log-probabilities, `delay` seconds after the request.

    keys, bodies    the API keys and request bodies that it has received
    refusal_status  the HTTP status of all replies, or None to reply with scores
    refusal         the message of these replies
    on_prompt       called with every prompt when it arrives
    """

    request_queue_size = 128
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Return to the initial state."""
        self.keys: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.delay = 0.0
        self.refusal_status: int | None = None
        self.refusal = "Incorrect API key provided"
        self.on_prompt: Callable[[str], None] = lambda prompt: None

    @property
    def prompts(self) -> list[str]:
        with self.lock:
            return [body["messages"][0]["content"] for body in self.bodies]

    def handle_error(self, *_: object) -> None:
        """Ignore errors: an interrupted judge closes its connections."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        with self.server.lock:
            self.server.keys.append(self.headers["Authorization"])
            self.server.bodies.append(body)
            self.server.on_prompt(prompt)
        time.sleep(self.server.delay)
        if self.server.refusal_status:
            self._reply(
                self.server.refusal_status,
                {"error": {"message": self.server.refusal, "type": "t"}},
            )
        else:
            self._reply(200, completion(body["model"], prompt))

    def _reply(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def completion(model: str, prompt: str) -> dict[str, Any]:
    tokens = [
        {"token": token, "logprob": math.log(p), "bytes": None}
        for token, p in alternatives(prompt).items()
    ]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": tokens[0]["token"]},
        "finish_reason": "length",
        "logprobs": {"content": [tokens[0] | {"top_logprobs": tokens}]},
    }
    usage = {
        "prompt_tokens": tokens_in(prompt),
        "completion_tokens": 1,
        "total_tokens": tokens_in(prompt) + 1,
    }
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [choice],
        "usage": usage,
    }


def settings(server: Server, **judge: Any) -> dict[str, Any]:
    """Return config sections for a judge at this server; its scores filter even at chance."""
    return {
        "judge": {"backend": "openai", "openai": {"base_url": server.url, **judge}},
        "filter": {"min_auroc": 0, "pairing": "independent"},
    }
