"""Get replies from an endpoint: cached, or requested with retries and within the budget."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from httpx2 import ConnectError, Response
from openai import APIConnectionError, APIStatusError, APITimeoutError, AsyncOpenAI

from traitcli.config import OpenAIConfig
from traitcli.judging.budget import Budget, Price, find_price
from traitcli.judging.openai import failures
from traitcli.judging.openai.adaptive_timeout import AdaptiveTimeout
from traitcli.judging.openai.cache import ReplyCache, cache_key, default_cache_path
from traitcli.judging.openai.concurrency import AdaptiveConcurrency, Permit
from traitcli.judging.openai.connections import open_pool, open_ssl_context
from traitcli.judging.openai.endpoint import Endpoint
from traitcli.judging.openai.rate_caps import RateCaps
from traitcli.judging.openai.replies import Reply, UnreadableReplyError, find_error, read_reply
from traitcli.judging.openai.retry import RetryBudget, read_retry_after
from traitcli.records import Usage

_BYTES_PER_TOKEN = 4
"""A guess for the cap on tokens a minute; costs use the endpoint's own count."""
_TEMPLATE_TOKENS = 50
"""More tokens than a chat template adds to a message."""
_POOL_CONNECTIONS = 8
"""Connections in a pool, about."""
_BUDGET_POLL = 0.05
"""Seconds between two checks of a budget that requests in flight have reserved."""


class BudgetSpentError(Exception):
    """The next request could cost more than is left; `usage` is what its question cost before."""

    usage = Usage()


@dataclass(frozen=True, slots=True)
class Request:
    """A chat completion to ask for; `sample` numbers several draws of the same request."""

    body: dict[str, Any]
    sample: int = 0

    @property
    def max_completion_tokens(self) -> int:
        """The most tokens that the reply may have."""
        return int(self.body.get("max_tokens") or self.body.get("max_completion_tokens") or 0)

    @property
    def max_prompt_tokens(self) -> int:
        """An upper bound of the prompt's tokens: every token has at least one byte."""
        text_bytes = sum(len(message["content"].encode()) for message in self.body["messages"])
        return text_bytes + _TEMPLATE_TOKENS


class Client:
    """Sends all requests of a judge to one endpoint. It belongs to one event loop."""

    def __init__(self, config: OpenAIConfig, endpoint: Endpoint, budget: Budget | None) -> None:
        self._config = config
        self._endpoint = endpoint
        self._budget = budget
        self._price = find_price(config)
        caps = RateCaps(config.requests_per_minute, config.tokens_per_minute)
        self._concurrency = AdaptiveConcurrency(config.max_concurrency, config.timeout, caps)
        self._timeout = AdaptiveTimeout(config.timeout)
        self._cache = ReplyCache(default_cache_path()) if config.cache else None
        self._pending: dict[str, asyncio.Event] = {}
        self._in_flight = 0
        self.reached = False
        """True once the endpoint has received a request."""
        self._pools: list[AsyncOpenAI] = []
        self._serial = count()
        self._ssl = open_ssl_context()
        self._pools.append(open_pool(endpoint, config.timeout, self._ssl))

    @property
    def max_in_flight(self) -> int:
        """How many questions to keep open: in flight, waiting for a retry, and a few more."""
        return 2 * self._concurrency.limit + 16

    async def ask(self, request: Request, retries: RetryBudget) -> Reply:
        """Return the reply to a request, from the cache or from the endpoint.

        Raises GaveUpError if the question has used all its requests, BudgetSpentError, and
        APIStatusError if the endpoint refuses the request and a retry cannot help.
        """
        if self._cache is None:
            return await self._send_until_read(request, retries, None)

        key = cache_key(self._endpoint.url, request.body, request.sample)
        # Two rollouts can have the same text. The second waits for the first and finds its reply
        # in the cache. If the first fails, one of those that wait sends its own request.
        while first := self._pending.get(key):
            await first.wait()
        if cached := self._look_up(key, retries):
            return cached

        answered = self._pending[key] = asyncio.Event()
        try:
            return await self._send_until_read(request, retries, key)
        finally:
            del self._pending[key]
            answered.set()

    async def close(self) -> None:
        for pool in self._pools:
            await pool.close()
        if self._cache:
            self._cache.close()

    def _look_up(self, key: str | None, retries: RetryBudget) -> Reply | None:
        if key is None or self._cache is None:
            return None
        reply = self._cache.get(key)
        if reply:
            retries.usage += Usage(cached=1)
        return reply

    async def _send_until_read(
        self, request: Request, retries: RetryBudget, key: str | None
    ) -> Reply:
        while True:
            reply = await self._attempt(request, retries, key)
            if isinstance(reply, Reply):
                return reply
            await retries.wait(
                reply.message, reply.retry_after, reply.waited, answered=reply.answered
            )

    async def _attempt(
        self, request: Request, retries: RetryBudget, key: str | None
    ) -> Reply | _Failure:
        """Send one request. Raises APIStatusError if the endpoint refuses it for good."""
        tokens = request.max_prompt_tokens // _BYTES_PER_TOKEN + request.max_completion_tokens
        async with self._concurrency.permit(tokens) as permit:
            # Another process may have stored the reply while this one waited for its permit.
            if cached := self._look_up(key, retries):
                return cached
            # Before any money is reserved: a question without requests left must not cost anything.
            retries.check()
            async with self._charge(request, retries) as cost:
                retries.count_request()
                reply = await self._send(request, retries, permit, cost)

        if key and self._cache and isinstance(reply, Reply) and reply.has_content:
            self._cache.put(key, reply)
        return reply

    async def _send(
        self, request: Request, retries: RetryBudget, permit: Permit, cost: RequestCost
    ) -> Reply | _Failure:
        """Send one request, and tell the concurrency limit what came of it."""
        start = time.monotonic()
        try:
            async with self._timeout.limit(retries.timeouts):
                reply = read_reply(await self._post(request.body))
        except APIStatusError as error:
            self.reached = True
            cost.usd = 0.0
            return self._on_refusal(permit, error)
        except (APITimeoutError, TimeoutError):
            self.reached = True
            waited = time.monotonic() - start
            self._concurrency.timed_out(waited)
            return _Failure(f"no reply within {round(waited, 1):g} s", waited=waited)
        except APIConnectionError as error:
            return self._on_connection_error(error, cost)
        except UnreadableReplyError as error:
            self.reached = True
            self._concurrency.failed()
            return _Failure(str(error), answered=True)

        self.reached = True
        seconds = time.monotonic() - start
        self._timeout.replied(seconds)
        self._concurrency.replied(seconds)
        cost.settle(reply, self._price)
        return reply

    def _on_connection_error(self, error: APIConnectionError, cost: RequestCost) -> _Failure:
        # A request on a connection that never opened was not received, so it costs nothing.
        if isinstance(error.__cause__, ConnectError):
            cost.usd = 0.0
        else:
            self.reached = True
        self._concurrency.failed()
        message = f"connection lost: {error.__cause__ or error}"
        return _Failure(failures.redact(message, self._endpoint.key))

    def _on_refusal(self, permit: Permit, error: APIStatusError) -> _Failure:
        if not failures.is_temporary(error):
            raise error
        retry_after = read_retry_after(error.response.headers, time.time())
        if error.status_code == 429:
            self._concurrency.refused(permit, retry_after)
        else:
            self._concurrency.failed()
        return _Failure(failures.quote(error, self._endpoint.key), retry_after)

    async def _post(self, body: dict[str, Any]) -> bytes:
        """Send a request body and return the body of the reply."""
        # The SDK's typed method rebuilds every request, which takes longer than sending it.
        response = await self._next_pool().post("/chat/completions", cast_to=Response, body=body)
        if error := find_error(response.content):
            # As if it had come with its own status: then all errors are treated alike.
            stands_for = Response(error.status, headers=error.headers, request=response.request)
            raise APIStatusError(str(error.body), response=stands_for, body=error.body)
        return response.content

    def _next_pool(self) -> AsyncOpenAI:
        """Return the connection pools in turn."""
        # A pool looks at all its connections for every request, so one large pool is slow.
        pools = 1 + self._concurrency.limit // _POOL_CONNECTIONS
        while len(self._pools) < pools:
            self._pools.append(open_pool(self._endpoint, self._config.timeout, self._ssl))
        return self._pools[next(self._serial) % pools]

    @asynccontextmanager
    async def _charge(self, request: Request, retries: RetryBudget) -> AsyncIterator[RequestCost]:
        """Reserve the most that a request can cost, and settle what it did cost.

        Raises BudgetSpentError if the budget cannot cover the request.
        """
        reserved = 0.0
        if self._price:
            reserved = self._price.of(request.max_prompt_tokens, request.max_completion_tokens)
        # Requests in flight have reserved more than they will cost. Only when none is left is the
        # budget known to be too small.
        while self._budget and not self._budget.reserve(reserved):
            if not self._in_flight:
                raise BudgetSpentError
            await asyncio.sleep(_BUDGET_POLL)

        # A request without a reply may have been billed, so it counts in full unless it is settled.
        cost = RequestCost(reserved)
        self._in_flight += 1
        try:
            yield cost
        finally:
            self._in_flight -= 1
            if self._budget:
                self._budget.settle(reserved, cost.usd)
            usd = cost.usd if self._price else None
            retries.usage += Usage(0, 0, cost.prompt_tokens, cost.completion_tokens, usd)


@dataclass(slots=True)
class RequestCost:
    """What one request has cost, as far as is known."""

    usd: float
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def settle(self, reply: Reply, price: Price | None) -> None:
        """Take over the token counts of the reply.

        If the endpoint does not count tokens, the cost stays the most that it can be.
        """
        self.prompt_tokens = reply.prompt_tokens
        self.completion_tokens = reply.completion_tokens
        if price and reply.prompt_tokens:
            self.usd = price.of(reply.prompt_tokens, reply.completion_tokens)


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why a request failed.

    retry_after  seconds that the endpoint asks to wait
    waited       seconds that the request took without a reply, 0 if the endpoint answered
    answered     whether a reply came that cannot be read
    """

    message: str
    retry_after: float | None = None
    waited: float = 0.0
    answered: bool = False
