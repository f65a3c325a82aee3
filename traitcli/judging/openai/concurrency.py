"""Find out how many requests an endpoint takes at the same time, and how long to wait for one.

Requests are counted in rounds, each as long as the limit was when it began, or as it takes to see
that most of it is refused:

- Until an eighth of a round is refused, and `_FEW` at least, the limit doubles with every round of
  replies; from then on it rises by a quarter, at most by `_RISE`, in rounds of which less is refused.
- At the end of a round the limit falls by the share of it that was refused (HTTP 429), at most by
  half. Falling in proportion, as DCTCP does (Alizadeh et al., 2010), tells an endpoint that refuses
  one request in twenty whatever its load from one that is full.
- A round that was refused altogether stops everything for as long as Retry-After says.
- A round with a server error is held. So is one whose replies took nearly twice as long as those
  at half the limit: there a higher limit only lengthens a queue.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

_START = 16
_RISE = 4.0
_FULL = 1 / 8
_FEW = 4
_MOSTLY = 1 / 2
_QUEUE = 0.8
_SAMPLE = 200
_ENOUGH = 20
_PATIENCE = 4.0
_SHORTEST_PATIENCE = 0.5


@dataclass(slots=True)
class _Round:
    """What has come back since the round began."""

    size: int
    seconds: list[float] = field(default_factory=list)
    refused: int = 0
    failed: int = 0
    asks_to_wait: float = 0.0

    @property
    def total(self) -> int:
        return len(self.seconds) + self.refused + self.failed


@dataclass(slots=True)
class Permit:
    """A place among the requests under way; it stays taken so many seconds after its request has ended."""

    stays: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class _Wait:
    """A request under way, since `start`; it may take `factor` times as long as others, and `most` seconds."""

    timeout: asyncio.Timeout
    start: float
    factor: float
    most: float

    def reschedule(self, slow: float) -> None:
        if not self.timeout.expired():
            self.timeout.reschedule(self.start + min(self.most, self.factor * slow))


class AdaptiveConcurrency:
    """Lets requests pass; each is ended by `replied`, `refused`, `timed_out` or `failed`."""

    def __init__(
        self,
        most: int,
        timeout: float,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`most` requests under way, each for `timeout` seconds at most; caps are kept by spacing requests evenly."""
        self._most = most
        self._timeout = timeout
        self._caps = (requests_per_minute, tokens_per_minute)
        self._clock = clock
        self._limit = float(min(_START, most))
        self._busy = 0
        self._waiting: list[tuple[bool, int, asyncio.Future[None]]] = []
        self._serial = count()
        self._free_at = [0.0, 0.0]
        self._shut_until = 0.0
        self._starting = True
        self._times: dict[int, float] = {}
        self._typical = 0.0
        self._latencies: deque[float] = deque(maxlen=_SAMPLE)
        self._slow = float("inf")
        self._waits: set[_Wait] = set()
        self._round = _Round(size=_START)

    @property
    def limit(self) -> int:
        """Requests that may be under way now."""
        return max(1, int(self._limit))

    @asynccontextmanager
    async def patience(self, hung: int) -> AsyncIterator[None]:
        """Raise TimeoutError when the block takes several times as long as slow replies do, or the timeout.

        The time doubles with each of the question's requests that `hung` before, and grows and shrinks with
        what is learned meanwhile.
        """
        wait = _Wait(
            asyncio.timeout(None), asyncio.get_running_loop().time(), 2.0**hung, self._timeout
        )
        self._waits.add(wait)
        try:
            async with wait.timeout:
                wait.reschedule(self._slow)
                yield
        finally:
            self._waits.discard(wait)

    @asynccontextmanager
    async def slot(self, tokens: int, urgent: bool) -> AsyncIterator[Permit]:
        """Wait for a place among the requests under way; `urgent` ones, which were asked before, go first.

        A refusal comes at once; its place stays taken for as long as a reply would have taken, or a few
        places too many would get through question after question.
        """
        await self._enter(urgent)
        place = Permit()
        try:
            await self._space_out(tokens)
            yield place
        finally:
            if place.stays:
                asyncio.get_running_loop().call_later(place.stays, self._leave)
            else:
                self._leave()

    def replied(self, seconds: float) -> None:
        """A request got its reply."""
        if not self._latencies:
            # So few that an endpoint which serves one after the other comes to the last in time.
            self._limit = min(self._limit, max(1.0, self._timeout / 4 / max(seconds, 0.001)))
            self._times[1] = seconds
            self._round = _Round(size=self.limit)
        self._round.seconds.append(seconds)
        self._latencies.append(seconds)
        if (
            self._starting
            and not self._round.failed
            and self._is_used()
            and not self._is_queueing(seconds)
        ):
            self._limit = min(self._most, self._limit + 1)
        self._end_round()

    def timed_out(self, seconds: float) -> None:
        """A request was given up: as slow a reply as any, for all that is known."""
        self._round.seconds.append(seconds)
        self._end_round()

    def refused(self, place: Permit, retry_after: float | None) -> None:
        """A request got 429, and was asked to wait perhaps."""
        place.stays = self._typical
        self._round.refused += 1
        self._round.asks_to_wait = max(self._round.asks_to_wait, retry_after or 0.0)
        self._end_round()

    def failed(self) -> None:
        """A request got a server error, or its connection broke."""
        self._round.failed += 1
        self._end_round()

    def _is_used(self) -> bool:
        return bool(self._waiting) or self._busy >= self.limit

    def _end_round(self) -> None:
        done = self._round
        if done.total < done.size and done.refused < max(_FEW, _MOSTLY * done.size):
            return
        share = done.refused / max(done.total, done.size)
        if share:
            self._limit = max(1.0, self._limit * max(0.5, 1 - share))
        if not done.seconds and not done.failed:
            self._shut_until = self._clock() + done.asks_to_wait
        queueing = False
        if done.seconds:
            self._typical = sum(done.seconds) / len(done.seconds)
            queueing = self._is_queueing(self._typical)
            level = done.size.bit_length()
            self._times[level] = min(self._typical, self._times.get(level, self._typical))
        full = share > _FULL
        self._starting = self._starting and not queueing and not (full and done.refused >= _FEW)
        if not self._starting and not full and not queueing and not done.failed and self._is_used():
            self._limit = min(self._most, self._limit + min(_RISE, self._limit / 4))
        self._round = _Round(size=self.limit)
        if len(self._latencies) >= _ENOUGH:
            self._slow = max(
                _SHORTEST_PATIENCE,
                _PATIENCE * sorted(self._latencies)[int(len(self._latencies) * 0.95)],
            )
            for wait in self._waits:
                wait.reschedule(self._slow)

    def _is_queueing(self, seconds: float) -> bool:
        """Whether replies took about as many times longer as there were more requests than at a lower limit."""
        level = self._round.size.bit_length()
        lower = max((known for known in self._times if known < level), default=None)
        return lower is not None and seconds > _QUEUE * 2 ** (level - lower) * self._times[lower]

    async def _enter(self, urgent: bool) -> None:
        if self._busy < self.limit and not self._waiting:
            self._busy += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (not urgent, next(self._serial), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # let in, and cancelled before it could go
                self._leave()
            raise

    def _leave(self) -> None:
        self._busy -= 1
        while self._waiting and self._busy < self.limit:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                self._busy += 1
                turn.set_result(None)

    async def _space_out(self, tokens: int) -> None:
        """Wait until neither cap nor a round that was refused altogether forbids the next request."""
        now = self._clock()
        due = max(now, self._shut_until)
        for place, (cap, amount) in enumerate(zip(self._caps, (1, tokens), strict=True)):
            if cap:
                start = max(now, self._free_at[place])
                self._free_at[place] = start + amount * 60 / cap
                due = max(due, start)
        if due > now:
            await asyncio.sleep(due - now)
