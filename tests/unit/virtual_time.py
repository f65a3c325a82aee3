"""An endpoint behind a concurrency limit, in an event loop where waiting takes no time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from traitcli.judging.openai.concurrency import AdaptiveConcurrency
from traitcli.judging.openai.rate_caps import RateCaps
from traitcli.judging.openai.retry import DELAYS


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that jumps to the next timer. It fails if all tasks wait without a timer."""

    def __init__(self) -> None:
        super().__init__(_Jump(self))
        self.now = 0.0

    def time(self) -> float:
        return self.now


class _Jump(selectors.SelectSelector):
    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise RuntimeError("all tasks wait, and no timer is left")
        self._loop.now += max(0.0, timeout)
        return super().select(0)


def play(scene: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> Any:
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(scene(*args))


def make_concurrency(
    max_concurrency: int = 256, timeout: float = 60.0, **caps: float
) -> AdaptiveConcurrency:
    clock = asyncio.get_running_loop().time
    return AdaptiveConcurrency(max_concurrency, timeout, RateCaps(clock=clock, **caps), clock)


def now() -> float:
    return asyncio.get_running_loop().time()


Outcome = tuple[str, float]
"""How a request ends, and after how many seconds."""


@dataclass
class Endpoint:
    """Decides how each request ends, from its number and how many are in flight."""

    concurrency: AdaptiveConcurrency
    decide: Callable[[int, int], Outcome]
    retry_after: float | None = None
    in_flight: int = 0
    count: int = 0
    peak: int = 0
    starts: list[float] = field(default_factory=list)
    limits: list[int] = field(default_factory=list)

    async def ask(self, tokens: int = 0) -> bool:
        """Send one request; True if it got a reply."""
        async with self.concurrency.permit(tokens) as permit:
            self.starts.append(now())
            self.count += 1
            outcome, seconds = self.decide(self.count, self.in_flight + 1)
            if outcome == "refused":
                await asyncio.sleep(seconds)
                self.concurrency.refused(permit, self.retry_after)
                self.limits.append(self.concurrency.limit)
                return False
            self.in_flight += 1
            self.peak = max(self.peak, self.in_flight)
            await asyncio.sleep(seconds)
            self.in_flight -= 1
            if outcome == "replied":
                self.concurrency.replied(seconds)
            elif outcome == "timed out":
                self.concurrency.timed_out(seconds)
            else:
                self.concurrency.failed()
            self.limits.append(self.concurrency.limit)
            return outcome == "replied"

    async def ask_with_retries(self) -> bool:
        """Ask like the judge does: at most five times, with the usual waits."""
        for delay in (*DELAYS, None):
            if await self.ask():
                return True
            if delay is not None:
                await asyncio.sleep(delay if self.retry_after is None else self.retry_after)
        return False


def always(outcome: str = "replied", seconds: float = 0.1) -> Callable[[int, int], Outcome]:
    return lambda number, in_flight: (outcome, seconds)


async def together(asked: Sequence[Awaitable[Any]]) -> list[Any]:
    return list(await asyncio.gather(*asked))
