"""Keep caps on requests and tokens a minute by spacing requests evenly."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


class RateCaps:
    """Caps that a user has configured; None means no cap.

    Even spacing keeps a cap in every window of time, however the endpoint measures it.
    """

    def __init__(
        self,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._requests_per_minute = requests_per_minute
        self._tokens_per_minute = tokens_per_minute
        self._clock = clock
        self._next_by_requests = 0.0
        self._next_by_tokens = 0.0

    async def wait(self, tokens: int) -> None:
        """Wait until both caps allow a request with this many tokens."""
        now = self._clock()
        # Time without requests is not made up for: a burst would break the cap.
        by_requests, by_tokens = max(now, self._next_by_requests), max(now, self._next_by_tokens)
        start = now
        if self._requests_per_minute:
            start = max(start, by_requests)
            self._next_by_requests = by_requests + 60 / self._requests_per_minute
        if self._tokens_per_minute:
            start = max(start, by_tokens)
            self._next_by_tokens = by_tokens + tokens * 60 / self._tokens_per_minute
        if start > now:
            await asyncio.sleep(start - now)
