"""A chat endpoint that behaves like real ones: it limits, refuses and forgets requests."""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
import sys
import zlib
from collections import Counter
from dataclasses import dataclass
from multiprocessing import get_context
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Behavior:
    """How the endpoint behaves.

    seconds      how long a reply takes
    capacity     how many requests it works on at once; more get 429
    refused      share of all requests that get 429 at random
    hanging      share that never get a reply; each takes up capacity until the client hangs up
    retry_after  seconds that a 429 asks to wait
    """

    seconds: float = 0.2
    capacity: int = 50
    refused: float = 0.05
    hanging: float = 0.01
    retry_after: int = 1
    seed: int = 0


class UnreliableServer:
    """Runs the endpoint in a process of its own.

    url      its address
    stats()  counts of what it has seen
    """

    def __init__(self, behavior: Behavior) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(behavior, theirs), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        self.url = f"http://127.0.0.1:{self._pipe.recv()}/v1"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.join()

    def stats(self) -> dict[str, Any]:
        """Return counts of replies, refusals, hanging requests, and prompts answered twice."""
        self._pipe.send("stats")
        return self._pipe.recv()


class _Endpoint:
    def __init__(self, behavior: Behavior) -> None:
        self._behavior = behavior
        self._random = random.Random(behavior.seed)
        self._in_flight = 0
        self.counts: Counter[str] = Counter()
        self._answered: Counter[int] = Counter()

    def stats(self) -> dict[str, Any]:
        return dict(self.counts) | {
            "answered twice": sum(count - 1 for count in self._answered.values())
        }

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: *(\d+)", head)
                await self._reply(await reader.readexactly(int(length[1])), reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _reply(
        self, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        fate = self._random.random()
        is_refused_at_random = fate < self._behavior.refused
        if is_refused_at_random or self._in_flight >= self._behavior.capacity:
            reason = "refused at random" if is_refused_at_random else "refused because full"
            self.counts[reason] += 1
            error = {"error": {"message": "slow down", "type": "rate_limit"}}
            await _send(writer, 429, error, f"Retry-After: {self._behavior.retry_after}\r\n")
            return
        self._in_flight += 1
        self.counts["peak"] = max(self.counts["peak"], self._in_flight)
        try:
            if fate < self._behavior.refused + self._behavior.hanging:
                self.counts["left hanging"] += 1
                await reader.read(1)  # until the client hangs up
                return
            await asyncio.sleep(self._behavior.seconds)
        finally:
            self._in_flight -= 1
        prompt = json.loads(body)["messages"][0]["content"]
        self.counts["answered"] += 1
        self._answered[hash(prompt)] += 1
        await _send(writer, 200, completion(prompt))


def expected(answer: str) -> float:
    """Return the score of an answer."""
    return 0.75 * _likeliest(answer) + 0.25 * 95


def _likeliest(answer: str) -> int:
    return zlib.crc32(answer.strip().encode()) % 80 + 10


def completion(prompt: str) -> dict[str, Any]:
    """Return a reply with two numbers: one that depends on the answer, and 95."""
    answer = prompt.rpartition("<answer>")[2].partition("</answer>")[0]
    tokens = [(str(_likeliest(answer)), 0.75), ("95", 0.25)]
    alternatives = [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in tokens]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": tokens[0][0]},
        "finish_reason": "length",
        "logprobs": {"content": [alternatives[0] | {"top_logprobs": alternatives}]},
    }
    usage = {
        "prompt_tokens": len(prompt) // 4,
        "completion_tokens": 1,
        "total_tokens": len(prompt) // 4 + 1,
    }
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [choice],
        "usage": usage,
    }


async def _send(
    writer: asyncio.StreamWriter, status: int, content: dict[str, Any], headers: str = ""
) -> None:
    data = json.dumps(content).encode()
    headers += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    head = f"HTTP/1.1 {status} X\r\n{headers}\r\n"
    writer.write(head.encode() + data)
    await writer.drain()


def _serve(behavior: Behavior, pipe: Any) -> None:
    async def main() -> None:
        endpoint = _Endpoint(behavior)
        server = await asyncio.start_server(endpoint.connect, "127.0.0.1", 0, backlog=1024)
        pipe.send(server.sockets[0].getsockname()[1])

        def answer() -> None:
            try:
                pipe.recv()
            except EOFError:  # the benchmark was killed
                sys.exit()
            pipe.send(endpoint.stats())

        asyncio.get_running_loop().add_reader(pipe.fileno(), answer)
        await server.serve_forever()

    asyncio.run(main())
