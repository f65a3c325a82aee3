"""Adapt the time to wait for a reply to how long replies take.

A fixed timeout that suits a slow model lets one hanging request last a minute. One that suits a
fast model gives up on slow ones. So the timeout is four times as long as a slow reply takes, and
twice as long after each timeout of the same question. The configured timeout is the upper end.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

_SAMPLE = 200
"""The latest replies that count."""
_UPDATE_EVERY = 20
"""Replies between two estimates, and before the first one."""
_SLOW_QUANTILE = 0.95
"""Replies at this quantile of the latest ones count as slow."""
_FACTOR = 4.0
"""The timeout is this many times as long as a slow reply takes."""
_SHORTEST = 0.5
"""Seconds. A short delay of the network must not end a request."""


@dataclass(frozen=True, slots=True, eq=False)
class _Wait:
    """A request in flight since `start`; it may take `factor` times the timeout."""

    timeout: asyncio.Timeout
    start: float
    factor: float


class AdaptiveTimeout:
    """Gives requests a timeout, and learns from the replies."""

    def __init__(self, longest: float) -> None:
        """`longest` is the configured timeout in seconds."""
        self._longest = longest
        self._seconds = longest
        self._latencies: deque[float] = deque(maxlen=_SAMPLE)
        self._replies = 0
        self._waits: set[_Wait] = set()

    @asynccontextmanager
    async def limit(self, timeouts: int) -> AsyncIterator[None]:
        """Raise TimeoutError if the block takes too long.

        Each of the question's earlier `timeouts` doubles the time, so a question whose answer
        really takes long gets its reply in the end.
        """
        now = asyncio.get_running_loop().time()
        # Its end is set by `_reschedule`, which is called again when the estimate changes.
        wait = _Wait(asyncio.timeout(None), now, 2.0**timeouts)
        self._waits.add(wait)
        try:
            async with wait.timeout:
                self._reschedule(wait)
                yield
        finally:
            self._waits.discard(wait)

    def replied(self, seconds: float) -> None:
        """Report how long a reply took."""
        self._latencies.append(seconds)
        self._replies += 1
        if self._replies % _UPDATE_EVERY:
            return
        slow = sorted(self._latencies)[int(len(self._latencies) * _SLOW_QUANTILE)]
        self._seconds = max(_SHORTEST, _FACTOR * slow)
        # This ends requests that already hang sooner, too.
        for wait in self._waits:
            self._reschedule(wait)

    def _reschedule(self, wait: _Wait) -> None:
        if not wait.timeout.expired():
            seconds = min(self._longest, wait.factor * self._seconds)
            wait.timeout.reschedule(wait.start + seconds)
