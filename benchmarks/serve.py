"""Measures `traitcli serve` with 1, 8 and 32 clients beside the same answers generated offline.

    python -m benchmarks.serve [--rounds 3] [--tokens 64] [--requests 2000]

A real server of the embedded model runs in a process of its own; the clients are streams of HTTP in
this one. Both share two cores. Three ways take turns, and medians of their ratios are reported:

served   each client sends its questions one after another; answers have the scores of all traits
bare     the same questions to the same server, with "traits": [] in each request
offline  the same prompts and seeds by the decode loop with the same probes, as many at once; in
         this process, while the server waits

All three write the same tokens. Times are those of a client: first is from the request to its first
chunk, between is from one chunk to the next.

At last, as many short requests as --requests, 32 at once: the memory of the server after the first
tenth of them, and after all.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import psutil

from benchmarks.case import built_in_traits, load_embedded, prompt_ids
from traitcli.api.model import Model
from traitcli.config import SamplingConfig, load_config
from traitcli.generation.decode import decode
from traitcli.generation.request import Request
from traitcli.models.loaded import LoadedModel

CLIENTS = {1: 4, 8: 2, 32: 1}
"""Clients -> questions of each."""
GOALS = {(32, "offline"): 0.85, (32, "bare"): 0.95}


@dataclass
class Streams:
    """What clients saw: tokens and seconds in all, and the waits of each."""

    tokens: int = 0
    seconds: float = 0.0
    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Tokens a second, of all clients together."""
        return self.tokens / self.seconds


@dataclass(frozen=True)
class Server:
    """A server that runs."""

    address: str
    process: psutil.Process


@contextmanager
def run_server(log: Path) -> Iterator[Server]:
    """The command as a user starts it; it is ended by SIGTERM."""
    command = [sys.executable, "-m", "traitcli", "serve", "--port", "0"]
    with log.open("w", encoding="utf-8") as file:
        child = subprocess.Popen(command, stderr=file)
    try:
        while not (found := re.search(r"http://\S+", log.read_text(encoding="utf-8"))):
            if child.poll() is not None:
                raise RuntimeError(log.read_text(encoding="utf-8"))
            time.sleep(0.1)
        yield Server(found[0], psutil.Process(child.pid))
    finally:
        child.terminate()
        child.wait()


def find_questions(count: int) -> list[str]:
    """Questions of all traits in turn."""
    traits = [[*trait.questions, *trait.evaluation_questions] for trait in built_in_traits()]
    each = [question for row in zip(*traits, strict=False) for question in row]
    return list(islice(cycle(each), count))


async def ask(client: httpx2.AsyncClient, body: dict[str, Any], seen: Streams) -> None:
    """Send one request and read its stream to the end."""
    last = time.perf_counter()
    async with client.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as reply:
        reply.raise_for_status()
        is_first = True
        async for line in reply.aiter_lines():
            if not line.startswith("data: {"):
                continue
            [choice] = json.loads(line[6:])["choices"]
            if choice["finish_reason"]:
                continue
            now = time.perf_counter()
            (seen.first if is_first else seen.between).append(now - last)
            last, is_first = now, False
            seen.tokens += 1


async def ask_all(server: Server, clients: int, bodies: Sequence[dict[str, Any]]) -> Streams:
    """Let clients share the requests: each sends its own, one after another."""
    seen = Streams()
    limits = httpx2.Limits(max_connections=clients)
    async with httpx2.AsyncClient(
        base_url=server.address, timeout=600, limits=limits, trust_env=False
    ) as client:

        async def one(own: Sequence[dict[str, Any]]) -> None:
            for body in own:
                await ask(client, body, seen)

        began = time.perf_counter()
        await asyncio.gather(*(one(bodies[start::clients]) for start in range(clients)))
        seen.seconds = time.perf_counter() - began
    return seen


def make_bodies(questions: Sequence[str], tokens: int, **traitcli: Any) -> list[dict[str, Any]]:
    """Requests for answers by the questions' numbers as seeds."""
    return [
        {
            "messages": [{"role": "user", "content": question}],
            "max_tokens": tokens,
            "seed": seed,
            **({"traitcli": traitcli} if traitcli else {}),
        }
        for seed, question in enumerate(questions)
    ]


def offline(model: Model, questions: Sequence[str], tokens: int, size: int) -> Streams:
    """The same answers without a server, `size` at once."""
    watch = model.watch(model.vectors())
    own = model.config.monitor.sampling.model_dump() | {"max_new_tokens": tokens}
    prompts = [prompt_ids(model.loaded, question) for question in questions]
    requests = [Request(ids, seed) for seed, ids in enumerate(prompts)]
    seen = Streams()
    began = time.perf_counter()
    reader = watch.reader(model.loaded)
    for step in decode(model.loaded, requests, SamplingConfig(**own), size, reader):
        seen.tokens += len(step.written)
    seen.seconds = time.perf_counter() - began
    return seen


def measure(
    server: Server, model: Model, clients: int, tokens: int, rounds: int
) -> tuple[dict[str, float], dict[str, Streams]]:
    """Ratios and waits at a number of clients; the ways take turns."""
    questions = find_questions(clients * CLIENTS[clients])
    ratios: dict[str, list[float]] = {"offline": [], "bare": []}
    last: dict[str, Streams] = {}
    for _ in range(rounds):
        bodies = make_bodies(questions, tokens)
        bare = make_bodies(questions, tokens, traits=[])
        last = {
            "offline": offline(model, questions, tokens, clients),
            "served": asyncio.run(ask_all(server, clients, bodies)),
            "bare": asyncio.run(ask_all(server, clients, bare)),
        }
        # The rates are of the same work only if the tokens are the same.
        counts = {name: seen.tokens for name, seen in last.items()}
        if len(set(counts.values())) != 1:
            raise RuntimeError(f"the ways wrote other answers: tokens {counts}")
        for name, found in ratios.items():
            found.append(last["served"].rate / last[name].rate)
    return {name: statistics.median(found) for name, found in ratios.items()}, last


def measure_memory(server: Server, requests: int) -> tuple[float, float]:
    """MiB of the server after a tenth of the requests, and after all."""
    bodies = make_bodies(find_questions(requests), 4)
    few = requests // 10
    asyncio.run(ask_all(server, 32, bodies[:few]))
    before = server.process.memory_info().rss / 2**20
    asyncio.run(ask_all(server, 32, bodies[few:]))
    return before, server.process.memory_info().rss / 2**20


def open_model(loaded: LoadedModel) -> Model:
    """The model with the settings of the server."""
    return Model(loaded, load_config())


def main() -> int:
    """Measure, print the table and store it as JSON."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--tokens", type=int, default=64)
    options.add_argument("--requests", type=int, default=2000)
    options.add_argument("--out", type=Path, default=Path("runs/bench-serve.json"))
    arguments = options.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)

    model = open_model(load_embedded())
    results: list[dict[str, Any]] = []
    misses = 0
    with run_server(arguments.out.with_suffix(".log")) as server:
        asyncio.run(ask_all(server, 1, make_bodies(find_questions(1), 4)))
        print(
            f"{'clients':>7}{'tokens/s':>10}{'÷ offline':>11}{'÷ bare':>8}"
            f"{'first p50':>11}{'p95':>7}{'between p50':>13}{'p95':>7}  ms"
        )
        for clients in CLIENTS:
            ratios, seen = measure(server, model, clients, arguments.tokens, arguments.rounds)
            served = seen["served"]
            waits = [
                1000 * float(np.quantile(values, share))
                for values in (served.first, served.between)
                for share in (0.5, 0.95)
            ]
            print(
                f"{clients:7}{served.rate:10.1f}{ratios['offline']:11.2f}{ratios['bare']:8.2f}"
                f"{waits[0]:11.0f}{waits[1]:7.0f}{waits[2]:13.0f}{waits[3]:7.0f}",
                flush=True,
            )
            for name, ratio in ratios.items():
                misses += ratio < GOALS.get((clients, name), 0)
            row = {"clients": clients, "tokens_per_second": served.rate, "ratios": ratios}
            results.append(row | {"milliseconds": waits})
        before, after = measure_memory(server, arguments.requests)
    print(" and ".join(f"÷ {way} must be ≥ {goal}" for (_, way), goal in GOALS.items()), "at 32")
    print(
        f"memory after {arguments.requests // 10} requests {before:.0f} MiB, "
        f"after {arguments.requests} {after:.0f} MiB: {after / before:.3f} ×"
    )
    report = {"rows": results, "memory_mib": [before, after], "requests": arguments.requests}
    arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 1 if misses else 0


if __name__ == "__main__":
    sys.exit(main())
