"""A chat endpoint on a local socket that plays a script, and a judge that skips its waits."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from traitcli.config import OpenAIConfig
from traitcli.judging.backend import Answer, OnJudged
from traitcli.judging.budget import Budget
from traitcli.judging.openai.judge import OpenAIJudge
from traitcli.records import Contrast, Judgement, Trait

TRAIT = Trait(
    "evil",
    "",
    Contrast("", ""),
    Contrast("", ""),
    (),
    (),
    (),
    "Q: {question}\nA: {answer}\nFrom 0 to 100?",
)


@dataclass(frozen=True)
class Says:
    """One HTTP reply.

    cut   the connection is closed after that many bytes of the body
    late  seconds before anything is sent
    drip  seconds before each byte of the body
    """

    body: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int | None = None
    late: float = 0.0
    drip: float = 0.0


Script = Sequence[Says] | Callable[[dict[str, Any]], Says]


class Server(ThreadingHTTPServer):
    """The default backlog of five would make a burst of connections wait for a second."""

    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """Ignore errors: a judge that stops waiting closes its connection."""


class Endpoint:
    """Plays a script, repeats its last reply, and records the requests."""

    key = "sk-test-0123456789"

    def __init__(self) -> None:
        self.good = self.chat("85", {" 85": 0.5, "90": 0.3})
        self.script: Script = [self.good]
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.api_keys: list[str | None] = []
        self.keys: list[str] = []
        self.busy = self.peak = 0
        self.lock = threading.Lock()
        self.server = Server(("127.0.0.1", 0), self.handler())
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def says(self, body: Any = None, **how: Any) -> Says:
        return Says(body, **how)

    def error(self, status: int, message: str, **more: Any) -> Says:
        return Says({"error": {"message": message, "type": "t"} | more}, status)

    def chat(
        self,
        text: str | None,
        tokens: Mapping[str, float] | None = None,
        finish: str = "stop",
        used: tuple[int, int] | None = None,
    ) -> Says:
        """Return a chat completion, optionally with alternatives of its first token and usage."""
        message = {"role": "assistant", "content": text}
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": finish}
        if tokens is not None:
            alternatives = [
                {"token": token, "logprob": math.log(p), "bytes": None}
                for token, p in tokens.items()
            ]
            choice["logprobs"] = {"content": [alternatives[0] | {"top_logprobs": alternatives}]}
        body = {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": "m",
            "choices": [choice],
        }
        if used is not None:
            body["usage"] = {
                "prompt_tokens": used[0],
                "completion_tokens": used[1],
                "total_tokens": sum(used),
            }
        return Says(body)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def next(self, body: dict[str, Any]) -> Says:
        self.bodies.append(body)
        if callable(self.script):
            return self.script(body)
        return self.script[min(len(self.bodies), len(self.script)) - 1]

    def handler(endpoint) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with endpoint.lock:
                    endpoint.keys.append(self.headers["Authorization"])
                    endpoint.api_keys.append(self.headers["api-key"])
                    endpoint.paths.append(self.path)
                    reply = endpoint.next(body)
                    endpoint.busy += 1
                    endpoint.peak = max(endpoint.peak, endpoint.busy)
                time.sleep(reply.late)
                with endpoint.lock:
                    endpoint.busy -= 1
                data = (
                    reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
                )
                self.send_response(reply.status)
                for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if not reply.drip:
                    self.wfile.write(data[: reply.cut])
                    return
                for byte in data:
                    time.sleep(reply.drip)
                    self.wfile.write(bytes([byte]))

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@contextmanager
def serving(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Endpoint]:
    """A running endpoint, with its key in the environment and an empty reply cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setenv("OPENAI_API_KEY", Endpoint.key)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    endpoint = Endpoint()
    threading.Thread(target=endpoint.server.serve_forever, args=(0.01,), daemon=True).start()
    yield endpoint
    endpoint.close()


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Endpoint]:
    with serving(monkeypatch, tmp_path) as endpoint:
        yield endpoint


class Harness:
    """A judge without a cache (unless set) that records its waits instead of waiting."""

    def __init__(self, endpoint: Endpoint, budget: Budget | None = None, **settings: Any) -> None:
        self.waits: list[float] = []
        own = {"base_url": endpoint.url, "coherence": False, "timeout": 5, "cache": False}
        self.config = OpenAIConfig(**(own | settings))
        self.judge = OpenAIJudge(self.config, budget, sleep=self.wait)

    async def wait(self, seconds: float) -> None:
        self.waits.append(seconds)

    def ask(self, *responses: str) -> list[Judgement]:
        judged: list[Judgement] = []
        self.score(responses, judged.extend)
        return judged

    def score(self, responses: Iterable[str], on_judged: OnJudged) -> None:
        answers = (
            Answer(str(i), "positive", 0, "Why?", response) for i, response in enumerate(responses)
        )
        self.judge.score(TRAIT, answers, on_judged)

    def value(self, response: str = "I will.") -> tuple[float | None, str]:
        [judged] = self.ask(response)
        return judged.score.value, judged.score.method or judged.score.reason


@pytest.fixture
def open_harness(endpoint: Endpoint) -> Iterator[Callable[..., Harness]]:
    """Makes a harness with some settings of `judge.openai` and optionally a budget."""
    harnesses: list[Harness] = []

    def make(budget: Budget | None = None, **settings: Any) -> Harness:
        harnesses.append(Harness(endpoint, budget, **settings))
        return harnesses[-1]

    yield make
    for harness in harnesses:
        harness.judge.close()
