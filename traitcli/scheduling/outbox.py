"""Delivers the messages of a worker from a thread, so that decoding does not wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Full, Queue

from traitcli.pipeline.messages import Message

_MAX_WAITING = 64
"""Messages in memory. With sixteen rollouts of an 8B model each, they are about 700 MB."""


class Outbox:
    """Messages on their way, in their order.

    waits  how often `send` had to wait because too many messages were on their way
    """

    def __init__(self, deliver: Callable[[Message], None], limit: int = _MAX_WAITING) -> None:
        """`deliver` is called in a thread; what it raises, the next `send` or `close` raises."""
        self.waits = 0
        self._deliver = deliver
        self._messages: Queue[Message | None] = Queue(limit)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        self._thread.start()

    def send(self, message: Message) -> None:
        """Hand a message over; any thread may."""
        self._raise_error()
        try:
            self._messages.put_nowait(message)
        except Full:
            self.waits += 1
            self._messages.put(message)

    def close(self) -> None:
        """Return when all messages are delivered."""
        self._messages.put(None)
        self._thread.join()
        self._raise_error()

    def _run(self) -> None:
        while (message := self._messages.get()) is not None:
            # After an error the queue is still emptied: whoever waits for room must go on.
            if self._error is None:
                try:
                    self._deliver(message)
                except BaseException as error:  # noqa: BLE001 - raised where the worker sends
                    self._error = error

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error
