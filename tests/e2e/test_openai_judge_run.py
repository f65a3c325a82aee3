"""A run judged over HTTP by a server on this machine."""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

KEY = "sk-e2e-0123456789abcdef"
LONG = 16
"""The server likes answers of so many characters."""


def alternatives(prompt: str) -> Mapping[str, float]:
    """The probabilities with which the judge would write each number."""
    if prompt.startswith("You are rating how coherent"):
        return {"95": 0.9}
    _, _, rest = prompt.rpartition("<answer>\n")
    answer = rest.partition("\n</answer>")[0]
    return {"90": 0.6, "80": 0.2} if len(answer) >= LONG else {"20": 0.8, "no": 0.1}


def expected_score(answer: str) -> float:
    return (90 * 0.6 + 80 * 0.2) / 0.8 if len(answer) >= LONG else 20.0


class Server(ThreadingHTTPServer):
    """Answers chat completions with log-probabilities, each `late` seconds late; keeps the keys it was shown."""

    request_queue_size = 128
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.keys: list[str] = []
        self.late = 0.0
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, *_: object) -> None:
        """A judge that was interrupted hangs up."""


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.keys.append(self.headers["Authorization"])
        time.sleep(self.server.late)
        tokens = [
            {"token": token, "logprob": math.log(p), "bytes": None}
            for token, p in alternatives(body["messages"][0]["content"]).items()
        ]
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": tokens[0]["token"]},
            "finish_reason": "length",
            "logprobs": {"content": [tokens[0] | {"top_logprobs": tokens}]},
        }
        reply = {"id": "x", "object": "chat.completion", "created": 0, "model": body["model"], "choices": [choice]}
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def settings(server: Server, **judge: Any) -> dict[str, Any]:
    """A judge that knows nothing of personas is at chance, and is trusted here all the same."""
    return {
        "judge": {"backend": "openai", "openai": {"base_url": server.url, **judge}},
        "filter": {"min_auroc": 0, "pairing": "independent"},
    }


class Judged:
    """A finished run, and the two commands that need no judge any more, without key and server."""

    def __init__(self, desk: Any, server: Server) -> None:
        self.desk = desk
        self.ended = desk.run("extract", "evil", "--json", OPENAI_API_KEY=KEY)
        self.keys = list(server.keys)
        self.rebuilt = desk.run("build-vector", "--threshold", "60", "--json")
        self.asked_again = len(server.keys) - len(self.keys)


@pytest.fixture(scope="module")
def judged(open_desk, server) -> Judged:
    return Judged(open_desk(**settings(server)), server)


def test_every_extraction_rollout_has_the_servers_score(judged):
    responses = {
        line["id"]: line["response"].strip() for line in judged.desk.lines("evil") if line["split"] == "extraction"
    }

    scores = {line["rollout"]: line["score"]["value"] for line in judged.desk.lines("evil", "judgements")}

    assert judged.ended.code == 0
    assert scores == pytest.approx({name: expected_score(text) for name, text in responses.items()})
    assert set(scores.values()) > {20.0}


def test_coherence_is_asked_for_too(judged):
    assert {line["coherence"]["value"] for line in judged.desk.lines("evil", "judgements")} == {95.0}


def test_the_vector_is_built_from_what_the_server_let_pass(judged):
    scores = {line["rollout"]: line["score"]["value"] for line in judged.desk.lines("evil", "judgements")}

    [vector] = judged.ended.json["vectors"]

    assert vector["positive_kept"] == sum(score >= 50 for name, score in scores.items() if "-pos-" in name)
    assert vector["negative_kept"] == sum(score < 50 for name, score in scores.items() if "-neg-" in name)


def test_the_key_goes_to_the_server_and_nowhere_else(judged):
    written = b"".join(path.read_bytes() for path in judged.desk.folder.rglob("*") if path.is_file())

    assert judged.keys == [f"Bearer {KEY}"] * 40
    assert KEY.encode() not in written
    assert KEY not in judged.ended.out + judged.ended.err


def test_build_vector_needs_neither_key_nor_server(judged):
    assert judged.rebuilt.code == 0
    assert judged.rebuilt.json["vectors"][0]["filter"].startswith("independent, threshold 60")
    assert judged.asked_again == 0


def test_a_finished_run_needs_no_key(judged):
    before = judged.desk.ledger("evil", "judgements")

    ended = judged.desk.run("judge")

    assert ended.code == 0
    assert judged.desk.ledger("evil", "judgements") == before


def test_ctrl_c_does_not_wait_for_the_judgements_that_are_queued(open_desk, server):
    desk = open_desk(**settings(server, max_concurrency=2, coherence=False))
    server.late = 0.5
    going = desk.start("extract", "evil", OPENAI_API_KEY=KEY)
    going.wait_until(lambda: desk.ledger("evil", "judgements").count(b"\n") >= 2)

    start = time.monotonic()
    ended = going.kill(signal.SIGINT)

    assert ended.code == 130
    assert time.monotonic() - start < 3
    assert 2 <= len(desk.lines("evil", "judgements")) < 20
    assert "Traceback" not in ended.err
