"""Adapt the number of requests in flight to what an endpoint takes.

How many requests an endpoint takes at once is written nowhere, differs between accounts and changes
by the hour. So the limit starts low and follows what comes back. It changes once a round. A round
ends when as many requests have ended as the limit was when the round began.

    limit
      │            ╱╲            falls by the share of a round that was refused (HTTP 429)
      │          ╱   ╲   ╱╲   ╱
      │        ╱      ╲╱    ╲╱   rises by a quarter in a round with few refusals
      │      ╱
      │    ╱   doubles each round until an eighth of one is refused, or replies queue
      │  ╱
      └────────────────────────────── rounds

The fall is proportional as in DCTCP (Alizadeh et al., 2010). It distinguishes an endpoint that
refuses one request in twenty at any load from one that is full. The design page 0010 says what each
part gains.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from traitcli.judging.openai.rate_caps import RateCaps

_START = 16
"""Requests in flight at the beginning."""
_RISE = 5 / 4
"""Growth of the limit in a round with few refusals, after the first phase."""
_LARGEST_FALL = 1 / 2
"""A round of refusals only leaves this share of the limit."""
_FULL = 1 / 8
"""A round of which more is refused means that the endpoint is full."""
_QUEUEING = 0.8
"""Replies queue if their time grows by this share of what the limit grew by."""


@dataclass(slots=True)
class _Round:
    """What has come back since the round began.

    size         requests that end the round
    seconds      how long replies took, and requests without a reply
    refused      requests that got HTTP 429
    failed       requests that got another error, or lost their connection
    retry_after  the longest time in seconds that a refusal asked to wait
    """

    size: int
    seconds: list[float] = field(default_factory=list)
    refused: int = 0
    failed: int = 0
    retry_after: float = 0.0

    @property
    def is_over(self) -> bool:
        return len(self.seconds) + self.refused + self.failed >= self.size


@dataclass(slots=True)
class Permit:
    """The permission to have one request in flight.

    kept_for  seconds that the permit stays taken after its request has ended
    """

    kept_for: float = 0.0


class AdaptiveConcurrency:
    """Gives out permits for requests, and learns from how the requests end.

    The caller reports every request with one of `replied`, `refused`, `timed_out` and `failed`.
    """

    def __init__(
        self,
        max_concurrency: int,
        timeout: float,
        rate_caps: RateCaps,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`timeout` is the longest time in seconds that a request may take."""
        self._max = max_concurrency
        self._timeout = timeout
        self._rate_caps = rate_caps
        self._clock = clock
        self._limit = float(min(_START, max_concurrency))
        self._in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._closed_until = 0.0
        self._is_starting = True
        self._has_replied = False
        # The shortest mean time of a reply, by the number of bits in the round's size.
        self._reply_time: dict[int, float] = {}
        self._last_reply_time = 0.0
        self._round = _Round(size=_START)

    @property
    def limit(self) -> int:
        """How many requests may be in flight now."""
        return max(1, int(self._limit))

    @asynccontextmanager
    async def permit(self, tokens: int) -> AsyncIterator[Permit]:
        """Wait until a request with this many tokens may be sent."""
        await self._acquire()
        permit = Permit()
        try:
            await self._wait_until_open()
            await self._rate_caps.wait(tokens)
            yield permit
        finally:
            if permit.kept_for:
                asyncio.get_running_loop().call_later(permit.kept_for, self._release)
            else:
                self._release()

    def replied(self, seconds: float) -> None:
        """Report a request that got its reply."""
        if not self._has_replied:
            self._limit_by_first_reply(seconds)
        self._round.seconds.append(seconds)
        # One more for each reply doubles the limit in a round. Errors hold it where it is.
        can_rise = self._is_used() and not self._round.failed and not self._is_queueing(seconds)
        if self._is_starting and can_rise:
            self._limit = min(self._max, self._limit + 1)
        self._end_round()

    def timed_out(self, seconds: float) -> None:
        """Report a request that got no reply in time."""
        # It counts as a slow reply: both show that the endpoint is too busy.
        self._round.seconds.append(seconds)
        self._end_round()

    def refused(self, permit: Permit, retry_after: float | None) -> None:
        """Report a request that got HTTP 429, with the seconds of its Retry-After header."""
        # A refusal returns at once. If its permit were free at once too, two permits too many could
        # cause more refusals than all others get replies, and the refused share would say nothing.
        permit.kept_for = self._last_reply_time
        self._round.refused += 1
        self._round.retry_after = max(self._round.retry_after, retry_after or 0.0)
        self._end_round()

    def failed(self) -> None:
        """Report a request that got a server error, or lost its connection."""
        self._round.failed += 1
        self._end_round()

    def _limit_by_first_reply(self, seconds: float) -> None:
        """Lower the limit to what an endpoint could answer one by one within the timeout.

        An endpoint that works on one request at a time would let the last of sixteen time out.
        """
        self._has_replied = True
        in_time = self._timeout / 4 / max(seconds, 0.001)
        self._limit = min(self._limit, max(1.0, in_time))
        self._reply_time[1] = seconds
        self._round = _Round(size=self.limit)

    def _end_round(self) -> None:
        done = self._round
        if not done.is_over:
            return

        refused_share = done.refused / done.size
        self._limit = max(1.0, self._limit * max(_LARGEST_FALL, 1 - refused_share))
        # To stop at fewer refusals is too much: a few requests too many can make half a round fail.
        if done.refused == done.size:
            self._closed_until = self._clock() + done.retry_after

        is_queueing = False
        if done.seconds:
            mean = sum(done.seconds) / len(done.seconds)
            is_queueing = self._is_queueing(mean)
            level = done.size.bit_length()
            self._reply_time[level] = min(mean, self._reply_time.get(level, mean))
            self._last_reply_time = mean

        # A limit that rises while the endpoint is full sends the same questions to be refused again
        # and again, until they have no requests left.
        is_full = refused_share > _FULL
        if is_full or is_queueing:
            self._is_starting = False
        elif not self._is_starting and not done.failed and self._is_used():
            self._limit = min(self._max, self._limit * _RISE)
        self._round = _Round(size=self.limit)

    def _is_used(self) -> bool:
        """Whether all permits are taken. Replies under a lower load say nothing about the limit."""
        return bool(self._waiting) or self._in_flight >= self.limit

    def _is_queueing(self, seconds: float) -> bool:
        """Whether replies slow down as much as the limit grows; raising it gains nothing then."""
        level = self._round.size.bit_length()
        lower_levels = [known for known in self._reply_time if known < level]
        if not lower_levels:
            return False
        lower = max(lower_levels)
        growth: int = 2 ** (level - lower)
        return seconds > _QUEUEING * growth * self._reply_time[lower]

    async def _acquire(self) -> None:
        if self._in_flight < self.limit and not self._waiting:
            self._in_flight += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            # The task was cancelled after it got its permit and before it could run.
            if turn.done() and not turn.cancelled():
                self._release()
            raise

    def _release(self) -> None:
        self._in_flight -= 1
        while self._waiting and self._in_flight < self.limit:
            turn = self._waiting.popleft()
            # Cancelled ones stay in the queue until their turn.
            if not turn.done():
                self._in_flight += 1
                turn.set_result(None)

    async def _wait_until_open(self) -> None:
        """Wait for as long as a round of nothing but refusals asked for."""
        seconds = self._closed_until - self._clock()
        if seconds > 0:
            await asyncio.sleep(seconds)
