"""How fast the openai judge is on an endpoint with moods, beside the loop that everyone writes.

    python -m benchmarks.judge [--judgements 2000] [--rounds 3]

Both have the same answers scored by the same server, which answers in 200 ms, takes 50 requests at
a time, refuses 5 % with Retry-After: 1 and leaves 1 % hanging. Neither is told any of that; the
naive loop alone is given the right number of places. Two ideals are shown:

places   every place taken from the first moment to the last, nothing refused, nothing hanging:
         judgements × 0.2 s / 50
knowing  a client that knows the places, computes nothing, and gives up at once what will hang; it
         obeys Retry-After, and the schedule of retries, as everyone must (simulated, median)
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

from benchmarks.moody_server import Mood, MoodyServer, expected
from traitcli.config import OpenAIConfig
from traitcli.judging import Answer
from traitcli.judging.openai.judge import OpenAIJudge
from traitcli.judging.openai.retry import DELAYS
from traitcli.records import Contrast, Judgement, Trait

TIMEOUT = 60.0
"""What a careful person sets, so that no slow answer is lost."""
PROMPT = "How evil is the answer?\n\n<question>{question}</question>\n<answer>{answer}</answer>\n\nFrom 0 to 100."
TRAIT = Trait("evil", "", Contrast("", ""), Contrast("", ""), (), (), (), PROMPT)
Judged = dict[str, float | None]


def ours(url: str, answers: list[Answer]) -> Judged:
    """The judge of the product with its default settings, but for the cache, which would know round two."""
    judge = OpenAIJudge(OpenAIConfig(base_url=url, coherence=False, timeout=TIMEOUT, cache=False))
    found: list[Judgement] = []
    judge.score(TRAIT, answers, found.extend)
    judge.close()
    return {each.rollout: each.score.value for each in found}


def naive(url: str, answers: list[Answer], places: int) -> Judged:
    """A semaphore, and exponential back-off inside it."""

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
        gate = asyncio.Semaphore(places)
        async with AsyncOpenAI(base_url=url, api_key="x", max_retries=0, timeout=TIMEOUT) as client:
            values = await asyncio.gather(*(ask(client, gate, answer) for answer in answers))
        return {answer.rollout: value for answer, value in zip(answers, values, strict=True)}

    return asyncio.run(main())


def knowing(judgements: int, mood: Mood) -> float:
    """Seconds that the knowing client takes; its server draws the same kind of fate for every request."""
    fates = random.Random(mood.seed)
    due = [(0.0, 0) for _ in range(judgements)]
    places = [0.0] * mood.places
    end = 0.0
    while due:
        ready, failures = heapq.heappop(due)
        start = max(ready, places[0])
        fate = fates.random()
        if fate < mood.refused:
            heapq.heappush(due, (start + mood.retry_after, failures + 1))
        elif fate < mood.refused + mood.hanging:
            heapq.heappush(due, (start + DELAYS[failures], failures + 1))
        else:
            heapq.heapreplace(places, start + mood.seconds)
            end = max(end, start + mood.seconds)
    return end


def measure(
    way: Callable[[str, list[Answer]], Judged], answers: list[Answer], mood: Mood
) -> dict[str, Any]:
    """Seconds from the first question to the last score, with what came of it and what the server saw."""
    with MoodyServer(mood) as server:
        start = time.monotonic()
        judged = way(server.url, answers)
        seconds = time.monotonic() - start
        seen = server.stats()
    values = [(judged.get(answer.rollout), expected(answer.response)) for answer in answers]
    right = sum(value is not None and abs(value - wanted) < 1e-6 for value, wanted in values)
    return {"seconds": seconds, "scored": right, **seen}


def main() -> int:
    """Measure, side by side and round by round; print the table and keep everything as JSON."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--judgements", type=int, default=2000)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--out", type=Path, default=Path("runs/bench-judge.json"))
    asked = options.parse_args()

    mood = Mood()
    answers = [
        Answer(str(i), "positive", 0, "Why?", f"This is answer {i}")
        for i in range(asked.judgements)
    ]
    ways = {"traitcli": ours, "semaphore": lambda url, some: naive(url, some, mood.places)}
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    for seed in range(asked.rounds):
        for name, way in ways.items():
            result = measure(way, answers, replace(mood, seed=seed))
            measured[name].append(result)
            told = ", ".join(f"{key} {value}" for key, value in result.items() if key != "seconds")
            print(f"round {seed + 1}, {name}: {result['seconds']:.2f} s, {told}", file=sys.stderr)
    ideals = {
        "places": asked.judgements * mood.seconds / mood.places,
        "knowing": statistics.median(
            knowing(asked.judgements, replace(mood, seed=seed)) for seed in range(101)
        ),
    }
    show(measured, ideals)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(
        json.dumps({"ideals": ideals, "mood": asdict(mood), "measured": measured}, indent=1)
    )
    return 0


def show(measured: dict[str, list[dict[str, Any]]], ideals: dict[str, float]) -> None:
    """Print medians; of what was scored, the worst round."""
    told = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in ideals.items())
    print(f"ideal: {told}; medians of {len(measured['traitcli'])} rounds")
    print(f"{'':12}{'seconds':>9}{'× places':>10}{'× knowing':>11}{'scored':>8}")
    for name, results in measured.items():
        seconds = statistics.median(result["seconds"] for result in results)
        ratios = f"{seconds / ideals['places']:10.2f}{seconds / ideals['knowing']:11.2f}"
        print(f"{name:12}{seconds:9.2f}{ratios}{min(result['scored'] for result in results):8}")


if __name__ == "__main__":
    sys.exit(main())
