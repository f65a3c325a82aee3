"""A real `traitcli serve` process with a tiny model, for the tests of other people's clients."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.unit.test_foreign_vectors import make_matrix, make_vector
from traitcli.records import POSITIONS
from traitcli.vectors.files import write_vector

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


@contextmanager
def serving(folder: Path, model: Path) -> Iterator[Served]:
    """Run the command in a folder; the answers of a tiny model are full of half characters."""
    shutil.copytree(model, folder / "model")
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
