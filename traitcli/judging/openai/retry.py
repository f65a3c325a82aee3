"""Decide when to ask a question again: at most five requests, with growing waits after failures."""

from __future__ import annotations

import email.utils
import math
from collections.abc import Awaitable, Callable, Mapping

from traitcli.records import Usage

MAX_REQUESTS = 5
"""Requests of one question, the first one included."""
DELAYS = (1.0, 2.0, 4.0, 8.0)
"""Seconds to wait after the first, second, third and fourth failure."""
LONGEST_WAIT = 120.0
"""Longest time in seconds that a Retry-After header can ask for."""

Sleep = Callable[[float], Awaitable[object]]


class GaveUpError(Exception):
    """A question has used all its requests; the text says what went wrong.

    answered  the last reply came, and could not be read
    """

    answered = False


class RetryBudget:
    """Counts the requests of one question and waits between them.

    timeouts  requests that got no reply in time
    usage     what all requests of the question cost
    """

    def __init__(self, sleep: Sleep) -> None:
        self._sleep = sleep
        self._requests = 0
        self._failures: list[str] = []
        self._answered = False
        self.timeouts = 0
        self.usage = Usage()

    @property
    def failures(self) -> int:
        """How many requests have failed so far."""
        return len(self._failures)

    def check(self) -> None:
        """Raise GaveUpError if no request is left."""
        if self._requests == MAX_REQUESTS:
            last = f"; the last: {self._failures[-1]}" if self._failures else ""
            end = GaveUpError(f"no usable reply in {self._requests} requests{last}")
            end.answered = self._answered
            raise end

    def count_request(self) -> None:
        """Count a request before it is sent. Raises GaveUpError if no request is left."""
        self.check()
        self._requests += 1
        self.usage += Usage(requests=1)

    async def wait(
        self,
        failure: str,
        retry_after: float | None = None,
        waited: float = 0.0,
        *,
        answered: bool = False,
    ) -> None:
        """Record a failure, then sleep until the next request is due.

        Args:
            failure: why the request failed, for the message when all requests are used.
            retry_after: seconds that the endpoint asked to wait, instead of the usual delay.
            waited: seconds that a request without a reply already took. The delay counts from when
                the request was sent.
            answered: whether the endpoint replied with something that cannot be read.

        Raises GaveUpError after the last request.
        """
        self._failures.append(failure)
        self._answered = answered
        self.timeouts += waited > 0
        self.check()
        delay = max(0.0, DELAYS[len(self._failures) - 1] - waited)
        await self._sleep(delay if retry_after is None else min(retry_after, LONGEST_WAIT))


def read_retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that a server asks to wait, or None if it does not say.

    `now` is Unix time; it is needed for headers that hold a date.
    """
    # Some endpoints send milliseconds too, which are more exact.
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        # float() also accepts "nan", "inf" and negative numbers.
        return seconds if math.isfinite(seconds) and seconds >= 0 else None
    if reset := _read_reset(headers, now):
        return reset
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    return max(0.0, date.timestamp() - now)


def _read_reset(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds until X-RateLimit-Reset, which is a time in seconds or milliseconds, or a delay."""
    try:
        value = float(headers.get("x-ratelimit-reset", ""))
    except ValueError:
        return None
    if not math.isfinite(value) or value < 0:
        return None
    if value > _MILLISECONDS:
        value /= 1000
    return max(0.0, value - now) if value > _SECONDS else value


_SECONDS, _MILLISECONDS = 1e9, 1e11
"""Larger numbers are times since 1970 in this unit."""
