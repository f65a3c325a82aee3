"""The command `serve` as a process: what it prints, refuses and keeps, and how it stops."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import time
from contextlib import contextmanager

import httpx2
import pytest

from tests.http_service import CHAT, read_events
from tests.unit.test_brakes import VECTORS
from traitcli.vectors.files import write_vector

NO_MODEL = ("--set", "model.id=/nowhere/model")
SHORT = ("--slots", "2", "--context", "300", "--traits", "evil,refusal")


@pytest.fixture
def folder(workspace):
    """A working folder with vectors of the tiny model."""
    for vector in VECTORS.values():
        write_vector(workspace.folder / "vectors" / "model", vector)
    return workspace


@contextmanager
def started(workspace, *options, **env):
    """A command that serves, and a client of it; whoever starts it stops it."""
    command = workspace.start("serve", "--port", "0", *SHORT, *options, **env)
    lines = []
    while not (lines and lines[-1].startswith("try:")):
        lines.append(command.process.stderr.readline())
        assert lines[-1], lines
    address = re.search(r"http://\S+:\d+", lines[0])[0]
    client = httpx2.Client(base_url=address, timeout=30, trust_env=False)
    try:
        yield command, client, lines
    finally:
        client.close()
        if command.process.poll() is None:
            command.kill(signal.SIGKILL)


def test_serve_prints_where_it_is_and_how_to_ask_it(folder):
    with started(folder) as (command, client, lines):
        [line] = [line for line in lines if line.startswith("try:")]
        body = json.loads(line.partition("-d '")[2].rstrip()[:-1])
        answer = client.post("/v1/chat/completions", json=body | {"max_tokens": 3})
        result = command.kill(signal.SIGTERM)

    assert "with 2 slots" in lines[0]
    assert lines[1] == "traits: evil, refusal\n"
    assert len(read_events(answer.text)) == 4
    assert (result.code, result.out, result.err) == (0, "", "")


def test_sigterm_lets_a_stream_end_and_keeps_its_record(folder):
    with started(folder, "--record", "kept") as (command, client, _):
        asked = CHAT | {"stream": True, "seed": 1}
        with client.stream("POST", "/v1/chat/completions", json=asked) as stream:
            parts = stream.iter_text()
            text = next(parts)
            command.process.send_signal(signal.SIGTERM)
            text += "".join(parts)
        result = command.end()

    last = read_events(text)[-1]["choices"][0]
    assert last["finish_reason"] in {"length", "stop"}
    assert result.code == 0
    path = folder.folder / "kept" / f"{last['traitcli']['record']}.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["prompt"] == CHAT["messages"][0]["content"]
    report = folder.run("report", str(path), "--format", "json", "--out", "report.json")
    assert report.code == 0, report.err


def test_two_signals_stop_at_once(folder):
    with started(folder) as (command, client, _):
        asked = CHAT | {"stream": True, "n": 2}
        with client.stream("POST", "/v1/chat/completions", json=asked) as stream:
            next(stream.iter_raw())
            command.process.send_signal(signal.SIGINT)
            time.sleep(0.05)
            result = command.kill(signal.SIGINT)

    # Its answers may have been complete by then.
    assert result.code in {0, 1}
    if result.code:
        assert "before all answers were complete" in result.err


def test_neither_prompts_nor_answers_are_logged_or_written_without_record(folder):
    secret = "xylophone"
    asked = {"messages": [{"role": "user", "content": secret}], "max_tokens": 4}
    with started(folder) as (command, client, lines):
        assert client.post("/v1/chat/completions", json=asked).status_code == 200
        assert client.post("/v1/chat/completions", json=asked | {"n": "x"}).status_code == 400
        result = command.kill(signal.SIGTERM)

    assert secret not in "".join(lines) + result.out + result.err
    written = [path for path in folder.folder.rglob("*") if path.suffix in {".json", ".jsonl"}]
    assert not any(secret in path.read_text("utf-8") for path in written if path.is_file())


def test_the_key_comes_from_the_environment(folder):
    with started(folder, "--host", "0.0.0.0", TRAITCLI_API_KEY="k-1") as (command, client, lines):
        port = client.base_url.port
        url = f"http://127.0.0.1:{port}/v1/models"
        refused = httpx2.get(url, trust_env=False)
        taken = httpx2.get(url, headers={"authorization": "Bearer k-1"}, trust_env=False)
        command.kill(signal.SIGTERM)

    assert (refused.status_code, taken.status_code) == (401, 200)
    assert "k-1" not in "".join(lines)
    assert "$TRAITCLI_API_KEY" in lines[-1]


def test_mistakes_are_found_before_the_model_is_loaded(folder):
    taken = socket.create_server(("127.0.0.1", 0))
    cases = {
        ("--host", "0.0.0.0"): "cannot serve on 0.0.0.0 without a key",
        ("--api-key", " "): "invalid --api-key",
        ("--cors", "example.org"): "invalid --cors example.org",
        ("--cors", "*"): "cannot serve with --cors * and without a key",
        ("--port", str(taken.getsockname()[1])): "cannot serve on 127.0.0.1",
        ("--host", "192.0.2.1", "--api-key", "k"): "cannot serve on 192.0.2.1",
        ("--traits", "nothing"): "nothing",
        ("--slots", "0"): "--slots",
        # A model that does not exist would be the error if it were loaded first.
        ("--stop-on", "evil>>1", *NO_MODEL): "invalid --stop-on evil>>1",
        ("--stop-on", "nothing>1", *NO_MODEL): "--stop-on nothing>1",
        ("--record", "/dev/null/x", *NO_MODEL): "/dev/null/x",
    }
    for options, problem in cases.items():
        result = folder.run("serve", *options)

        assert result.code == 2, result.err
        assert problem in result.err.splitlines()[0]
    taken.close()


def test_a_missing_extra_is_an_error_of_three_lines(folder):
    # A package that hides the real one, as if that were not installed.
    (folder.folder / "sitecustomize.py").write_text(
        "import sys\nsys.modules['uvicorn'] = None\n", encoding="utf-8"
    )

    found = [str(folder.folder), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    result = folder.run("serve", PYTHONPATH=os.pathsep.join(found))

    assert result.code == 2
    assert result.err.splitlines() == [
        "error: serve needs packages that are not installed",
        "cause: there is no uvicorn",
        "fix:   pip install 'traitcli[serve]'",
    ]
