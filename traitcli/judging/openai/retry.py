"""Decide when a question is asked again: at most five requests, with growing waits between failures."""

from __future__ import annotations

import email.utils
import math
from collections.abc import Awaitable, Callable, Mapping

from traitcli.records import Usage

MAX_REQUESTS = 5
DELAYS = (1.0, 2.0, 4.0, 8.0)
"""Seconds to wait after each failure but the last."""
LONGEST_WAIT = 120.0
"""A Retry-After is followed up to this many seconds."""

Sleep = Callable[[float], Awaitable[object]]


class GaveUpError(Exception):
    """The allowance of a question is spent; the text says on what."""


class RetryBudget:
    """The requests that one question may cost, and what they did cost; `hung` counts those that got no reply."""

    def __init__(self, sleep: Sleep) -> None:
        self._sleep = sleep
        self._requests = 0
        self._failures: list[str] = []
        self.hung = 0
        self.usage = Usage()

    @property
    def failures(self) -> int:
        """Requests that came to nothing so far."""
        return len(self._failures)

    def check(self) -> None:
        """Raise GaveUpError when no request is left."""
        if self._requests == MAX_REQUESTS:
            last = f"; the last: {self._failures[-1]}" if self._failures else ""
            raise GaveUpError(f"no usable reply in {self._requests} requests{last}")

    def spend(self) -> None:
        """Count a request that is about to be made. Raises GaveUpError when none is left."""
        self.check()
        self._requests += 1
        self.usage += Usage(requests=1)

    async def wait(
        self, failure: str, retry_after: float | None = None, seconds: float = 0.0
    ) -> None:
        """Note a failure, then wait until the next request is due. Raises GaveUpError after the last.

        The delay counts from when the request was sent: the `seconds` that it hung were waited already.
        """
        self._failures.append(failure)
        self.hung += seconds > 0
        self.check()
        due = max(0.0, DELAYS[len(self._failures) - 1] - seconds)
        await self._sleep(due if retry_after is None else min(retry_after, LONGEST_WAIT))


def read_retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that the server asks to wait, from its headers; `now` is Unix time, for dates."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        return seconds if math.isfinite(seconds) and seconds >= 0 else None
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    return max(0.0, date.timestamp() - now)
