"""An endpoint behind a pace, in a loop in which waiting takes no time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from traitcli.judging.openai.concurrency import AdaptiveConcurrency
from traitcli.judging.openai.retry import DELAYS


class VirtualTime(asyncio.SelectorEventLoop):
    """A loop in which waiting takes no time; one where nothing can happen any more is a fault."""

    def __init__(self) -> None:
        super().__init__(_Jump(self))
        self.now = 0.0

    def time(self) -> float:
        return self.now


class _Jump(selectors.SelectSelector):
    def __init__(self, loop: VirtualTime) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise RuntimeError("everybody waits, and nothing will happen")
        self._loop.now += max(0.0, timeout)
        return super().select(0)


def play(scene: Callable[..., Coroutine[Any, Any, Any]], *given: Any) -> Any:
    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        return runner.run(scene(*given))


def pace_of(most: int = 256, timeout: float = 60.0, **caps: float) -> AdaptiveConcurrency:
    return AdaptiveConcurrency(most, timeout, clock=asyncio.get_running_loop().time, **caps)


def now() -> float:
    return asyncio.get_running_loop().time()


Fate = tuple[str, float]
"""What becomes of a request, and after how many seconds."""


@dataclass
class Endpoint:
    """Decides what becomes of each request, from its number and how many are under way."""

    pace: AdaptiveConcurrency
    decide: Callable[[int, int], Fate]
    retry_after: float | None = None
    busy: int = 0
    count: int = 0
    peak: int = 0
    starts: list[float] = field(default_factory=list)
    limits: list[int] = field(default_factory=list)

    async def ask(self, urgent: bool = False, tokens: int = 0) -> bool:
        """Send one request; True when it got a reply."""
        async with self.pace.slot(tokens, urgent) as place:
            self.starts.append(now())
            self.count += 1
            fate, seconds = self.decide(self.count, self.busy + 1)
            if fate == "refused":
                await asyncio.sleep(seconds)
                self.pace.refused(place, self.retry_after)
                self.limits.append(self.pace.limit)
                return False
            self.busy += 1
            self.peak = max(self.peak, self.busy)
            await asyncio.sleep(seconds)
            self.busy -= 1
            if fate == "replied":
                self.pace.replied(seconds)
            elif fate == "timed out":
                self.pace.timed_out(seconds)
            else:
                self.pace.failed()
            self.limits.append(self.pace.limit)
            return fate == "replied"

    async def ask_as_scheduled(self) -> bool:
        """As a question is asked: five times at most."""
        for delay in (*DELAYS, None):
            if await self.ask(urgent=delay != DELAYS[0]):
                return True
            if delay is not None:
                await asyncio.sleep(delay if self.retry_after is None else self.retry_after)
        return False


def always(fate: str = "replied", seconds: float = 0.1) -> Callable[[int, int], Fate]:
    return lambda number, busy: (fate, seconds)


async def together(asked: Sequence[Awaitable[Any]]) -> list[Any]:
    return list(await asyncio.gather(*asked))
