"""Brings the events of answers from the batch's thread to the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Self

from traitcli.serving.served import ServedEnd, ServedEvent

if TYPE_CHECKING:
    from traitcli.serving.metrics import Metrics
    from traitcli.serving.openai_requests import ApiRequest
    from traitcli.serving.served_answer import ServedAnswer
    from traitcli.serving.service import Service


class AnswerEvents:
    """The answers to one HTTP request, inside `with`; at its end, those that still run stop.

    A client that reads slowly does not slow down the batch: what it has not read waits here, which
    is never more than its answers.

    Args:
        service: What answers.
        asked: What is asked for.
        metrics: Counts what comes, whether or not somebody still reads it.
    """

    def __init__(self, service: Service, asked: ApiRequest, metrics: Metrics) -> None:
        self._service = service
        self._asked = asked
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, ServedEvent]] = asyncio.Queue()
        # The rest is shared with the thread that starts the answers.
        self._lock = threading.Lock()
        self._answers: list[ServedAnswer] = []
        self._is_closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        with self._lock:
            self._is_closed = True
            for answer in self._answers:
                answer.cancel()

    async def start(self) -> None:
        """Let the answers wait for a slot; raises what `Service.start` raises."""
        # In a thread: the chat template and the tokenizer may take a while for a long prompt.
        await asyncio.to_thread(self._start)

    def _start(self) -> None:
        for index, request in enumerate(self._asked.answers):
            answer = self._service.start(request, partial(self._take, index))
            with self._lock:
                self._answers.append(answer)
                if self._is_closed:
                    # The client has gone meanwhile, or another answer could not start.
                    answer.cancel()
                    return

    @property
    def record_ids(self) -> list[str]:
        """Under which the records of the answers will be kept."""
        return [answer.id for answer in self._answers]

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts; one that has several answers counts once."""
        return sum(answer.prompt_tokens for answer in self._answers[:: self._asked.per_prompt])

    def __aiter__(self) -> AsyncIterator[list[tuple[int, ServedEvent]]]:
        return self._batches()

    async def _batches(self) -> AsyncIterator[list[tuple[int, ServedEvent]]]:
        """All events that have come, in lists, with the index of their answer."""
        running = len(self._asked.answers)
        while running:
            batch = [await self._events.get()]
            while not self._events.empty():
                batch.append(self._events.get_nowait())
            running -= sum(isinstance(event, ServedEnd) for _, event in batch)
            yield batch

    def _take(self, index: int, event: ServedEvent) -> None:
        """Called from the batch's thread, which must not wait."""
        # The loop is closed when the server has stopped; then nobody waits for the event.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._put, index, event)

    def _put(self, index: int, event: ServedEvent) -> None:
        self._metrics.add(event)
        self._events.put_nowait((index, event))
