"""Sends the answers to one HTTP request, as a stream or as one body, while the client reads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from traitcli.errors import TraitError
from traitcli.serving.answer_events import AnswerEvents
from traitcli.serving.api_errors import ApiError, is_stopping, of_trait_error
from traitcli.serving.openai_responses import DONE, Responses, to_bytes, to_event
from traitcli.serving.served import ServedEnd, ServedEvent, ServedToken

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from traitcli.serving.metrics import Metrics

RECORD_HEADER = "x-traitcli-record"
_MOST_IDS = 16
"""Ids in the header: proxies refuse long ones. Each choice has its own, too."""


class Reply:
    """An ASGI response that starts the answers, and cancels them when the client goes away.

    Nothing is sent before the first event, so that an answer that fails at once has the status of
    an error.

    Args:
        events: The answers.
        responses: Writes them as JSON.
        metrics: Counts the request.
    """

    def __init__(self, events: AnswerEvents, responses: Responses, metrics: Metrics) -> None:
        self._events = events
        self._responses = responses
        self._metrics = metrics
        self._begun = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; raises ApiError before anything is sent, and nothing after."""
        with self._events:
            await _while_connected(receive, self._answer(send))

    async def _answer(self, send: Send) -> None:
        await self._events.start()
        self._metrics.add_prompt(self._events.prompt_tokens)
        if self._responses.request.is_stream:
            await self._stream(send)
        else:
            await self._send_body(send)
        self._metrics.add_whole(time.monotonic() - self._begun)

    async def _stream(self, send: Send) -> None:
        ends: list[ServedEnd] = []
        has_begun = False
        async for batch in self._events:
            failed = next(filter(None, map(_failure, batch)), None)
            if failed and not has_begun:
                raise failed
            if not has_begun:
                self._note_first()
                await send(self._start("text/event-stream; charset=utf-8"))
                has_begun = True
            if failed:
                # An event of its own, which OpenAI's clients raise as an error.
                await send(_part(to_event(failed.body) + DONE, is_last=True))
                return
            ends += [event for _, event in batch if isinstance(event, ServedEnd)]
            await send(_part(b"".join(map(to_event, self._chunks(batch)))))
        last = DONE
        if self._responses.request.includes_usage:
            last = to_event(self._responses.usage_chunk(self._events.prompt_tokens, ends)) + DONE
        await send(_part(last, is_last=True))

    def _chunks(self, batch: list[tuple[int, ServedEvent]]) -> Iterator[Mapping[str, Any]]:
        for index, event in batch:
            if isinstance(event, ServedEnd):
                yield self._responses.last_chunk(index, event)
            else:
                yield self._responses.chunk(index, event)

    async def _send_body(self, send: Send) -> None:
        tokens: list[list[ServedToken]] = [[] for _ in self._responses.request.answers]
        ends: dict[int, ServedEnd] = {}
        async for batch in self._events:
            if not any(tokens):
                self._note_first()
            for index, event in batch:
                if failed := _failure((index, event)):
                    raise failed
                if isinstance(event, ServedEnd):
                    ends[index] = event
                else:
                    tokens[index].append(event)
        answers = [(own, ends[index]) for index, own in enumerate(tokens)]
        body = to_bytes(self._responses.body(self._events.prompt_tokens, answers))
        length = {"content-length": str(len(body))}
        await send(self._start("application/json", length))
        await send(_part(body, is_last=True))

    def _note_first(self) -> None:
        self._metrics.add_first_token(time.monotonic() - self._begun)

    def _start(self, kind: str, more: Mapping[str, str] | None = None) -> dict[str, Any]:
        headers = {
            "content-type": kind,
            "cache-control": "no-store",
            # nginx would otherwise hold a stream back until its buffer is full.
            "x-accel-buffering": "no",
            RECORD_HEADER: ", ".join(self._events.record_ids[:_MOST_IDS]),
            **(more or {}),
        }
        return {
            "type": "http.response.start",
            "status": HTTPStatus.OK.value,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }


def _part(data: bytes, *, is_last: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": data, "more_body": not is_last}


def _failure(of: tuple[int, ServedEvent]) -> ApiError | None:
    """The error that ended an answer; none for an answer that goes on, or is complete."""
    _, event = of
    if not isinstance(event, ServedEnd):
        return None
    if event.reason == "cancelled":
        # Not by its client, who would not read on.
        return is_stopping()
    if event.reason != "error":
        return None
    return of_trait_error(event.error or TraitError("the answer has failed"))


async def _while_connected(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Do the work, but cancel it as soon as the client goes away."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_leave(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
        if not working.done():
            working.cancel()
        await asyncio.wait({working, leaving})
    if not working.cancelled():
        working.result()


async def _leave(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
