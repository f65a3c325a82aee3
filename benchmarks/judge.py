"""Measure the openai judge on an unreliable endpoint, next to the usual loop with a semaphore.

    python -m benchmarks.judge [--judgements 2000] [--rounds 3]

Both judge the same answers with the same server. It replies in 200 ms, works on 50 requests at
once, refuses 5 % with Retry-After: 1 and leaves 1 % hanging. Only the semaphore is summary the 50.
Two ideals are shown:

capacity  all 50 always at work, nothing refused, nothing hanging: judgements × 0.2 s / 50
oracle    a client that knows the capacity and gives up at once what will hang; it obeys Retry-After
          and the schedule of retries, as every client must (simulated, median)
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from openai import APIError, AsyncOpenAI

from benchmarks.unreliable_server import Behavior, UnreliableServer, expected
from traitcli.config import OpenAIConfig
from traitcli.judging import Answer
from traitcli.judging.openai.judge import OpenAIJudge
from traitcli.judging.openai.retry import DELAYS
from traitcli.records import Contrast, Judgement, Trait

TIMEOUT = 60.0
"""Seconds; a cautious setting, so that no slow reply is lost."""
PROMPT = (
    "How evil is the answer?\n\n<question>{question}</question>\n<answer>{answer}</answer>\n\n"
    "From 0 to 100."
)
TRAIT = Trait("evil", "", Contrast("", ""), Contrast("", ""), (), (), (), PROMPT)
Judged = dict[str, float | None]


def product(url: str, answers: list[Answer]) -> Judged:
    """The product with default settings, except the cache: it would know the second round."""
    judge = OpenAIJudge(OpenAIConfig(base_url=url, coherence=False, timeout=TIMEOUT, cache=False))
    found: list[Judgement] = []
    judge.score(TRAIT, answers, found.extend)
    judge.close()
    return {each.rollout: each.score.value for each in found}


def semaphore(url: str, answers: list[Answer], capacity: int) -> Judged:
    """A semaphore with exponential back-off."""

    async def ask(client: AsyncOpenAI, gate: asyncio.Semaphore, answer: Answer) -> float | None:
        prompt = PROMPT.format(question=answer.question, answer=answer.response)
        async with gate:
            for attempt in range(5):
                try:
                    reply = await client.chat.completions.create(
                        model="m",
                        messages=[{"role": "user", "content": prompt}],
                        max_tokens=1,
                        temperature=0,
                        logprobs=True,
                        top_logprobs=20,
                    )
                except APIError:
                    await asyncio.sleep(2**attempt)
                    continue
                top = reply.choices[0].logprobs.content[0].top_logprobs
                return sum(int(token.token) * math.exp(token.logprob) for token in top)
        return None

    async def main() -> Judged:
        gate = asyncio.Semaphore(capacity)
        async with AsyncOpenAI(base_url=url, api_key="x", max_retries=0, timeout=TIMEOUT) as client:
            values = await asyncio.gather(*(ask(client, gate, answer) for answer in answers))
        return {answer.rollout: value for answer, value in zip(answers, values, strict=True)}

    return asyncio.run(main())


def oracle(judgements: int, behavior: Behavior) -> float:
    """Simulate the oracle client; returns its seconds."""
    fates = random.Random(behavior.seed)
    due = [(0.0, 0) for _ in range(judgements)]
    free_at = [0.0] * behavior.capacity
    end = 0.0
    while due:
        ready, failures = heapq.heappop(due)
        start = max(ready, free_at[0])
        fate = fates.random()
        if fate < behavior.refused:
            heapq.heappush(due, (start + behavior.retry_after, failures + 1))
        elif fate < behavior.refused + behavior.hanging:
            heapq.heappush(due, (start + DELAYS[failures], failures + 1))
        else:
            heapq.heapreplace(free_at, start + behavior.seconds)
            end = max(end, start + behavior.seconds)
    return end


def measure(
    judge: Callable[[str, list[Answer]], Judged], answers: list[Answer], behavior: Behavior
) -> dict[str, Any]:
    """Return the seconds, how many scores are right, and what the server counted."""
    with UnreliableServer(behavior) as server:
        start = time.monotonic()
        judged = judge(server.url, answers)
        seconds = time.monotonic() - start
        seen = server.stats()
    values = [(judged.get(answer.rollout), expected(answer.response)) for answer in answers]
    right = sum(value is not None and abs(value - wanted) < 1e-6 for value, wanted in values)
    return {"seconds": seconds, "scored": right, **seen}


def main() -> int:
    """Measure both round by round, print the table, and store everything as JSON."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--judgements", type=int, default=2000)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--out", type=Path, default=Path("runs/bench-judge.json"))
    asked = options.parse_args()

    behavior = Behavior()
    answers = [
        Answer(str(i), "positive", 0, "Why?", f"This is answer {i}")
        for i in range(asked.judgements)
    ]
    judges = {
        "traitcli": product,
        "semaphore": lambda url, some: semaphore(url, some, behavior.capacity),
    }
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in judges}
    for seed in range(asked.rounds):
        for name, judge in judges.items():
            result = measure(judge, answers, replace(behavior, seed=seed))
            measured[name].append(result)
            summary = ", ".join(
                f"{key} {value}" for key, value in result.items() if key != "seconds"
            )
            print(
                f"round {seed + 1}, {name}: {result['seconds']:.2f} s, {summary}", file=sys.stderr
            )
    ideals = {
        "capacity": asked.judgements * behavior.seconds / behavior.capacity,
        "oracle": statistics.median(
            oracle(asked.judgements, replace(behavior, seed=seed)) for seed in range(101)
        ),
    }
    show(measured, ideals)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(
        json.dumps({"ideals": ideals, "behavior": asdict(behavior), "measured": measured}, indent=1)
    )
    return 0


def show(measured: dict[str, list[dict[str, Any]]], ideals: dict[str, float]) -> None:
    """Print the medians of the seconds, and the scores of the worst round."""
    summary = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in ideals.items())
    print(f"ideal: {summary}; medians of {len(measured['traitcli'])} rounds")
    print(f"{'':12}{'seconds':>9}{'× capacity':>12}{'× oracle':>10}{'scored':>8}")
    for name, results in measured.items():
        seconds = statistics.median(result["seconds"] for result in results)
        ratios = f"{seconds / ideals['capacity']:12.2f}{seconds / ideals['oracle']:10.2f}"
        print(f"{name:12}{seconds:9.2f}{ratios}{min(result['scored'] for result in results):8}")


if __name__ == "__main__":
    sys.exit(main())
