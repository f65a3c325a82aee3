"""How long judging takes behind unreliable endpoints, in virtual time.

    python -m benchmarks.concurrency [--seeds 5]

The simulation uses the product's own limits and retries, and an endpoint that only waits. Waiting
takes no time, so the result does not depend on the machine. Each behavior is judged four times:
with the product, with a fixed limit (`max_concurrency`), with a fixed timeout, and with both fixed.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import statistics
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from tests.unit.virtual_time import play
from traitcli.judging.openai.adaptive_timeout import AdaptiveTimeout
from traitcli.judging.openai.concurrency import AdaptiveConcurrency, Permit
from traitcli.judging.openai.rate_caps import RateCaps
from traitcli.judging.openai.retry import GaveUpError, RetryBudget

MAX_CONCURRENCY = 256
TIMEOUT = 60.0
REFUSAL_SECONDS = 0.02


@dataclass(frozen=True)
class Behavior:
    """How an endpoint behaves.

    seconds       the mean time of a reply
    spread        sigma of the log-normal distribution of that time
    capacity      how many requests it works on at once
    when_full     refuse: 429; fail: 503; queue; share: all get slower together; slow_down: all get
                  slower more than in proportion
    refused       share of requests that get 429 at random
    hanging       share that never get a reply
    failing       share that get a server error
    retry_after   seconds that a 429 asks to wait
    per_second    requests a second, with bursts of ten; more get 429
    outage        (start, end): all requests get 429, or an error if `outage_fails`
    capacities    (time, capacity) of changes
    slower        (time, factor): replies take longer from then on
    arrivals      (per second, until): answers arrive at this rate, and then all at once
    judgements    how many answers are judged
    """

    seconds: float = 0.2
    spread: float = 0.0
    capacity: int = 50
    when_full: str = "refuse"
    refused: float = 0.0
    hanging: float = 0.0
    failing: float = 0.0
    retry_after: float | None = 1.0
    per_second: float = 0.0
    outage: tuple[float, float] = (0.0, 0.0)
    outage_fails: bool = False
    capacities: Sequence[tuple[float, int]] = ()
    slower: tuple[float, float] = (math.inf, 1.0)
    arrivals: tuple[float, float] = (0.0, 0.0)
    judgements: int = 2000


ENDPOINTS = {
    "5 % 429, 1 % hanging": Behavior(refused=0.05, hanging=0.01),
    "20 % 429 at random": Behavior(capacity=200, refused=0.2),
    "3 % hanging": Behavior(capacity=100, seconds=0.5, hanging=0.03),
    "10 % server errors": Behavior(capacity=100, failing=0.1),
    "500 at once": Behavior(capacity=500, seconds=1.0),
    "4 at once": Behavior(capacity=4, seconds=0.5, judgements=1000),
    "4 at once, no Retry-After": Behavior(
        capacity=4, seconds=0.5, retry_after=None, judgements=1000
    ),
    "8 at once, 20 s a reply": Behavior(capacity=8, seconds=20.0, judgements=300),
    "very different reply times": Behavior(capacity=100, seconds=0.5, spread=1.0),
    "queues, 4 at work": Behavior(capacity=4, seconds=0.5, when_full="queue", judgements=1000),
    "queues, 1 at work, 3 s": Behavior(capacity=1, seconds=3.0, when_full="queue", judgements=200),
    "shares 16": Behavior(capacity=16, seconds=0.5, when_full="share"),
    "slows down beyond 16": Behavior(capacity=16, seconds=0.5, when_full="slow_down"),
    "503 beyond 20": Behavior(capacity=20, seconds=0.5, when_full="fail"),
    "10 requests a second": Behavior(capacity=500, seconds=0.5, per_second=10.0, judgements=1000),
    "429 for 20 s": Behavior(outage=(5.0, 25.0)),
    "server errors for 8 s": Behavior(outage=(5.0, 13.0), outage_fails=True),
    "50, then 10, then 100": Behavior(capacities=((5.0, 10), (15.0, 100))),
    "0.2 s, then 3 s": Behavior(slower=(5.0, 15.0)),
    "answers arrive late": Behavior(seconds=0.5, arrivals=(20.0, 40.0)),
}


class RefusedError(Exception):
    """HTTP 429; `retry_after` is its header."""

    def __init__(self, retry_after: float | None) -> None:
        self.retry_after = retry_after


class FailedError(Exception):
    """A server error."""


class Endpoint:
    """Replies, refuses, fails and hangs as its behavior says."""

    def __init__(self, behavior: Behavior, seed: int) -> None:
        self._behavior = behavior
        self._random = random.Random(seed)
        self._in_flight = 0
        self._tokens, self._refilled = 10.0, 0.0
        self._queue = asyncio.Semaphore(behavior.capacity)

    async def reply(self) -> None:
        behavior, now = self._behavior, asyncio.get_running_loop().time()
        fate = self._random.random()
        seconds = self._reply_seconds(now)
        if behavior.outage[0] <= now < behavior.outage[1]:
            await asyncio.sleep(REFUSAL_SECONDS)
            if behavior.outage_fails:
                raise FailedError
            raise RefusedError(behavior.outage[1] - now)

        is_full = self._in_flight >= self._capacity(now)
        is_refused = fate < behavior.refused or (is_full and behavior.when_full == "refuse")
        if is_refused or not self._is_within_rate(now):
            await asyncio.sleep(REFUSAL_SECONDS)
            raise RefusedError(behavior.retry_after)
        if is_full and behavior.when_full == "fail":
            await asyncio.sleep(REFUSAL_SECONDS)
            raise FailedError

        self._in_flight += 1
        try:
            if fate < behavior.refused + behavior.hanging:
                await asyncio.sleep(math.inf)
            if fate < behavior.refused + behavior.hanging + behavior.failing:
                await asyncio.sleep(seconds / 2)
                raise FailedError
            await self._work(seconds)
        finally:
            self._in_flight -= 1

    async def _work(self, seconds: float) -> None:
        load = max(1.0, self._in_flight / self._behavior.capacity)
        if self._behavior.when_full == "queue":
            async with self._queue:
                await asyncio.sleep(seconds)
        elif self._behavior.when_full == "share":
            await asyncio.sleep(seconds * load)
        elif self._behavior.when_full == "slow_down":
            await asyncio.sleep(seconds * load**1.5)
        else:
            await asyncio.sleep(seconds)

    def _reply_seconds(self, now: float) -> float:
        seconds, sigma = self._behavior.seconds, self._behavior.spread
        if sigma:
            seconds *= math.exp(self._random.gauss(-(sigma**2) / 2, sigma))
        return seconds * (self._behavior.slower[1] if now >= self._behavior.slower[0] else 1.0)

    def _capacity(self, now: float) -> int:
        capacity = self._behavior.capacity
        for time, changed in self._behavior.capacities:
            if now >= time:
                capacity = changed
        return capacity

    def _is_within_rate(self, now: float) -> bool:
        if not self._behavior.per_second:
            return True
        refill = (now - self._refilled) * self._behavior.per_second
        self._tokens, self._refilled = min(10.0, self._tokens + refill), now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Concurrency(Protocol):
    """What `AdaptiveConcurrency` and `FixedConcurrency` share."""

    @property
    def limit(self) -> int: ...
    def permit(self, tokens: int) -> AbstractAsyncContextManager[Permit]: ...
    def replied(self, seconds: float) -> None: ...
    def timed_out(self, seconds: float) -> None: ...
    def refused(self, permit: Permit, retry_after: float | None) -> None: ...
    def failed(self) -> None: ...


class FixedConcurrency:
    """A semaphore."""

    limit = MAX_CONCURRENCY

    def __init__(self) -> None:
        self._semaphore = asyncio.Semaphore(self.limit)

    @asynccontextmanager
    async def permit(self, tokens: int) -> AsyncIterator[Permit]:
        async with self._semaphore:
            yield Permit()

    def replied(self, seconds: float) -> None:
        pass

    def timed_out(self, seconds: float) -> None:
        pass

    def refused(self, permit: Permit, retry_after: float | None) -> None:
        pass

    def failed(self) -> None:
        pass


@dataclass
class Judging:
    """Asks questions as the openai judge does; counts those that got no reply in five requests."""

    concurrency: Concurrency
    timeout: AdaptiveTimeout
    endpoint: Endpoint
    lost: int = 0

    async def ask(self) -> None:
        loop, retries = asyncio.get_running_loop(), RetryBudget(asyncio.sleep)
        try:
            while True:
                retry_after, waited = None, 0.0
                async with self.concurrency.permit(0) as permit:
                    retries.count_request()
                    start = loop.time()
                    try:
                        async with self.timeout.limit(retries.timeouts):
                            await self.endpoint.reply()
                    except RefusedError as refusal:
                        retry_after = refusal.retry_after
                        self.concurrency.refused(permit, retry_after)
                    except FailedError:
                        self.concurrency.failed()
                    except TimeoutError:
                        waited = loop.time() - start
                        self.concurrency.timed_out(waited)
                    else:
                        self.timeout.replied(loop.time() - start)
                        self.concurrency.replied(loop.time() - start)
                        return
                await retries.wait("", retry_after, waited)
        except GaveUpError:
            self.lost += 1

    async def run(self, behavior: Behavior) -> None:
        loop, in_flight, one_ended = asyncio.get_running_loop(), 0, asyncio.Event()

        async def ask_one() -> None:
            nonlocal in_flight
            await self.ask()
            in_flight -= 1
            one_ended.set()

        async with asyncio.TaskGroup() as tasks:
            await asyncio.wait([tasks.create_task(self.ask())], timeout=5.0)
            for _ in range(behavior.judgements - 1):
                if loop.time() < behavior.arrivals[1]:
                    await asyncio.sleep(1 / behavior.arrivals[0])
                in_flight += 1
                tasks.create_task(ask_one())
                while in_flight >= 2 * self.concurrency.limit + 16:
                    one_ended.clear()
                    await one_ended.wait()


class FixedTimeout(AdaptiveTimeout):
    """Never learns."""

    def replied(self, seconds: float) -> None:
        pass


def measure(
    behavior: Behavior, seed: int, fixed_limit: bool, fixed_timeout: bool
) -> tuple[float, int]:
    """Seconds that judging takes, and the questions that it loses."""

    async def scene() -> tuple[float, int]:
        clock = asyncio.get_running_loop().time
        concurrency: Concurrency = FixedConcurrency()
        if not fixed_limit:
            caps = RateCaps(clock=clock)
            concurrency = AdaptiveConcurrency(MAX_CONCURRENCY, TIMEOUT, caps, clock)
        timeout = (FixedTimeout if fixed_timeout else AdaptiveTimeout)(TIMEOUT)
        judging = Judging(concurrency, timeout, Endpoint(behavior, seed))
        await judging.run(behavior)
        return clock(), judging.lost

    found: tuple[float, int] = play(scene)
    return found


def main() -> int:
    """Print medians as a Markdown table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    seeds = range(parser.parse_args().seeds)

    print(
        "| endpoint | product | fixed limit | fixed timeout | both fixed |\n|---|---|---|---|---|"
    )
    for name, behavior in ENDPOINTS.items():
        cells = []
        for fixed in ((False, False), (True, False), (False, True), (True, True)):
            results = [measure(behavior, seed, *fixed) for seed in seeds]
            seconds = statistics.median(seconds for seconds, _ in results)
            lost = statistics.median(lost for _, lost in results) / behavior.judgements
            cells.append(f"{seconds:.1f} s" + (f", {lost:.1%} lost" if lost >= 0.001 else ""))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
