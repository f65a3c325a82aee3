"""Get replies out of an endpoint: from the cache if it was asked before, else paced, retried and within budget."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from httpx2 import ConnectError, Response, create_ssl_context
from openai import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AsyncOpenAI,
    DefaultAsyncHttpxClient,
)
from platformdirs import user_cache_path

from traitcli.config import OpenAIConfig
from traitcli.judging.budget import Budget, Price, find_price
from traitcli.judging.openai import failures
from traitcli.judging.openai.cache import ReplyCache, cache_key
from traitcli.judging.openai.concurrency import AdaptiveConcurrency, Permit
from traitcli.judging.openai.endpoint import Endpoint
from traitcli.judging.openai.replies import Reply, UnreadableReplyError, read_reply
from traitcli.judging.openai.retry import RetryBudget, read_retry_after
from traitcli.records import Usage

_BYTES_PER_TOKEN = 4
_CONNECTIONS = 8
"""In a pool, about."""
_SETTLING = 0.05
"""Seconds between two looks at a budget that requests under way have set aside."""


class BudgetSpentError(Exception):
    """The next request could cost more than the budget has left; `usage` is what its question took before."""

    usage = Usage()


@dataclass(frozen=True, slots=True)
class Request:
    """A chat completion to ask for; `sample` tells several draws of the same one apart."""

    body: dict[str, Any]
    sample: int = 0

    @property
    def room(self) -> int:
        """Completion tokens that the reply may cost."""
        return int(self.body.get("max_tokens") or self.body.get("max_completion_tokens") or 0)

    @property
    def size(self) -> int:
        """Prompt tokens at most: a token has a byte or more, and a few go to the template."""
        return sum(len(message["content"].encode()) for message in self.body["messages"]) + 50


class Client:
    """Asks one endpoint, for all questions of a judge; lives in one event loop."""

    def __init__(self, config: OpenAIConfig, endpoint: Endpoint, budget: Budget | None) -> None:
        self._config = config
        self._endpoint = endpoint
        self._budget = budget
        self._price = find_price(config)
        self._pace = AdaptiveConcurrency(
            config.max_concurrency,
            config.timeout,
            config.requests_per_minute,
            config.tokens_per_minute,
        )
        self._cache = ReplyCache(_cache_path()) if config.cache else None
        self._asked: dict[str, asyncio.Event] = {}
        self._under_way = 0
        self.reached = False
        self._lanes: list[AsyncOpenAI] = []
        self._turn = count()
        self._ssl = create_ssl_context()

    @property
    def appetite(self) -> int:
        """Questions worth having open: under way, waiting to be asked again, and a few that will be next."""
        return 2 * self._pace.limit + 16

    async def ask(self, request: Request, allowance: RetryBudget) -> Reply:
        """The reply to a request, which is asked until it can be read.

        Raises GaveUpError when the allowance is spent, BudgetSpentError, and APIStatusError when the
        endpoint refuses it for good.
        """
        if self._cache is None:
            return await self._insist(request, allowance, None)
        key = cache_key(self._endpoint.url, request.body, request.sample)
        while other := self._asked.get(key):
            await other.wait()  # the same text is being asked about
        if known := self._known(key, allowance):
            return known
        answered = self._asked[key] = asyncio.Event()
        try:
            return await self._insist(request, allowance, key)
        finally:
            del self._asked[key]
            answered.set()

    async def close(self) -> None:
        for lane in self._lanes:
            await lane.close()
        if self._cache:
            self._cache.close()

    async def _post(self, body: dict[str, Any]) -> bytes:
        """The body of a reply. The SDK's typed method would rebuild every request for longer than it takes to send."""
        response = await self._lane().post("/chat/completions", cast_to=Response, body=body)
        return response.content

    def _lane(self) -> AsyncOpenAI:
        """A connection pool in turn: each looks at all its connections for every request, so they are kept small."""
        lanes = 1 + self._pace.limit // _CONNECTIONS
        while len(self._lanes) < lanes:
            # The SDK's own retries would multiply with ours.
            client = AsyncOpenAI(
                api_key=self._endpoint.key or "not-needed",
                base_url=self._endpoint.url,
                max_retries=0,
                timeout=self._config.timeout,
                http_client=DefaultAsyncHttpxClient(verify=self._ssl),
            )
            self._lanes.append(client)
        return self._lanes[next(self._turn) % lanes]

    def _known(self, key: str | None, allowance: RetryBudget) -> Reply | None:
        if key is None or self._cache is None:
            return None
        known = self._cache.get(key)
        allowance.usage += Usage(cached=int(known is not None))
        return known

    async def _insist(self, request: Request, allowance: RetryBudget, key: str | None) -> Reply:
        while True:
            reply = await self._attempt(request, allowance, key)
            if isinstance(reply, Reply):
                return reply
            await allowance.wait(reply.told, reply.retry_after, reply.seconds)

    async def _attempt(
        self, request: Request, allowance: RetryBudget, key: str | None
    ) -> Reply | _Failure:
        """Make one request; raises APIStatusError for a refusal that asking again would not change."""
        tokens = request.size // _BYTES_PER_TOKEN + request.room
        async with self._pace.slot(tokens, urgent=allowance.failures > 0) as place:
            if known := self._known(key, allowance):  # another process was faster
                return known
            allowance.check()
            async with self._paid(request, allowance) as bill:
                allowance.spend()
                reply = await self._exchange(request, allowance, place, bill)
        if key and self._cache and isinstance(reply, Reply) and reply.says_something:
            self._cache.put(key, reply)
        return reply

    async def _exchange(
        self, request: Request, allowance: RetryBudget, place: Permit, bill: _RequestCost
    ) -> Reply | _Failure:
        start = time.monotonic()
        try:
            async with self._pace.patience(allowance.hung):
                reply = read_reply(await self._post(request.body))
        except APIStatusError as error:
            self.reached = True
            bill.usd = 0.0
            return self._refused(place, error)
        except (APITimeoutError, TimeoutError):
            self.reached = True
            waited = time.monotonic() - start
            self._pace.timed_out(waited)
            return _Failure(f"no reply within {round(waited, 1):g} s", seconds=waited)
        except APIConnectionError as error:
            return self._lost(error, bill)
        except UnreadableReplyError as error:
            self.reached = True
            self._pace.failed()
            return _Failure(str(error))
        self.reached = True
        self._pace.replied(time.monotonic() - start)
        bill.take(reply, self._price)
        return reply

    def _lost(self, error: APIConnectionError, bill: _RequestCost) -> _Failure:
        if isinstance(error.__cause__, ConnectError):
            bill.usd = 0.0
        else:
            self.reached = True
        self._pace.failed()
        return _Failure(
            failures.redact(f"connection lost: {error.__cause__ or error}", self._endpoint.key)
        )

    def _refused(self, place: Permit, error: APIStatusError) -> _Failure:
        if not failures.is_passing(error):
            raise error
        wait = read_retry_after(error.response.headers, time.time())
        if error.status_code == 429:
            self._pace.refused(place, wait)
        else:
            self._pace.failed()
        return _Failure(failures.quote(error, self._endpoint.key), wait)

    @asynccontextmanager
    async def _paid(self, request: Request, allowance: RetryBudget) -> AsyncIterator[_RequestCost]:
        """Set aside the most that a request can cost, and settle what it did cost.

        A request that got no reply may have been billed all the same, so it counts in full.
        """
        most = self._price.of(request.size, request.room) if self._price else 0.0
        while self._budget and not self._budget.reserve(most):
            if not self._under_way:
                raise BudgetSpentError
            await asyncio.sleep(_SETTLING)
        bill = _RequestCost(most)
        self._under_way += 1
        try:
            yield bill
        finally:
            self._under_way -= 1
            if self._budget:
                self._budget.settle(most, bill.usd)
            usd = bill.usd if self._price else None
            allowance.usage += Usage(0, 0, bill.prompt_tokens, bill.completion_tokens, usd)


@dataclass(slots=True)
class _RequestCost:
    """What a request has cost, as far as is known."""

    usd: float
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def take(self, reply: Reply, price: Price | None) -> None:
        """Where the endpoint does not count tokens, the price stays at the most that it can be."""
        self.prompt_tokens, self.completion_tokens = reply.prompt_tokens, reply.completion_tokens
        if price and reply.prompt_tokens:
            self.usd = price.of(reply.prompt_tokens, reply.completion_tokens)


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a request came to nothing, in how many seconds the endpoint wants to be asked again, and what it took."""

    told: str
    retry_after: float | None = None
    seconds: float = 0.0


def _cache_path() -> Path:
    return user_cache_path("traitcli") / "judge-replies.sqlite"
