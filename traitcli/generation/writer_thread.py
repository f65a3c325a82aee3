"""Writes answers in a thread, so that the last ones can be read meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from traitcli.config import SamplingConfig
from traitcli.generation.request import Request
from traitcli.generation.writer import Answer, Writer


class _WritingStoppedError(Exception):
    """Ends a `write` that nobody waits for."""


class WriterThread:
    """Lets a writer that has processes of its own write beside the caller, a round at a time.

    A context manager: at its end the writer is stopped at its next step, and the thread has ended.
    """

    def __init__(self, writer: Writer, sampling: SamplingConfig) -> None:
        self._writer = writer
        self._sampling = sampling
        self._rounds: SimpleQueue[Sequence[Request] | None] = SimpleQueue()
        """What to write; None ends the thread."""
        self._events: SimpleQueue[int | list[Answer] | BaseException] = SimpleQueue()
        """Tokens of each step, and at the end of a round its answers or the error."""
        self._result: list[Answer] | BaseException | None = None
        self._stopped = threading.Event()
        # A daemon: a writer that hangs must not keep the whole process alive.
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def __enter__(self) -> WriterThread:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped.set()
        self._rounds.put(None)
        self._thread.join()

    def begin(self, requests: Sequence[Request]) -> None:
        """Begin to write a round, after those that have begun."""
        self._rounds.put(requests)

    def report(self, on_step: Callable[[int], None]) -> None:
        """Call `on_step` once, with the tokens written since the last report. Does not wait."""
        tokens = 0
        while self._result is None and not self._events.empty():
            tokens += self._next_event()
        on_step(tokens)

    def wait(self, on_step: Callable[[int], None]) -> list[Answer]:
        """The answers of the first round that was not waited for.

        Calls `on_step` with the tokens of each step meanwhile; raises the writer's error.
        """
        while self._result is None:
            on_step(self._next_event())
        result, self._result = self._result, None
        if isinstance(result, BaseException):
            raise result
        return result

    def _next_event(self) -> int:
        """Wait for the next event and return its tokens; the end of a round is kept."""
        event = self._events.get()
        if isinstance(event, int):
            return event
        self._result = event
        return 0

    def _run(self) -> None:
        while not self._stopped.is_set() and (requests := self._rounds.get()) is not None:
            try:
                answers = self._writer.write(requests, self._sampling, self._count)
            except BaseException as error:  # noqa: BLE001 - raised by `wait`
                self._events.put(error)
            else:
                self._events.put(answers)

    def _count(self, tokens: int) -> None:
        if self._stopped.is_set():
            raise _WritingStoppedError
        self._events.put(tokens)
