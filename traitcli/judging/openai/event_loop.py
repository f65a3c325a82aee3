"""Run coroutines for several threads in one event loop, so that all traits share one client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, TypeVar, TypeVarTuple

import anyio
from anyio.from_thread import BlockingPortal

T = TypeVar("T")
Args = TypeVarTuple("Args")


class EventLoopThread:
    """An event loop in a daemon thread of its own; the first `submit` starts it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._portal: BlockingPortal | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    def submit(self, work: Callable[[*Args], Awaitable[T]], *args: *Args) -> Future[T]:
        """Start a coroutine. Cancelling the future cancels the coroutine."""
        with self._lock:
            if self._portal is None:
                self._thread, self._portal = _start_portal()
            return self._portal.start_task_soon(self._track, work, *args)

    def close(self, last: Callable[[], Awaitable[None]]) -> None:
        """Cancel all coroutines, wait for them, run `last`, and end the thread."""
        with self._lock:
            thread, portal = self._thread, self._portal
            self._thread = self._portal = None
        if thread is not None and portal is not None:
            portal.call(self._cancel_all)
            portal.call(last)
            portal.call(portal.stop)
            thread.join()

    async def _track(self, work: Callable[[*Args], Awaitable[T]], *args: *Args) -> T:
        task = asyncio.current_task()
        assert task  # noqa: S101 - a portal runs every coroutine in a task
        self._tasks.add(task)
        try:
            return await work(*args)
        finally:
            self._tasks.discard(task)

    async def _cancel_all(self) -> None:
        # A cancelled anyio scope interrupts every later await as well. A single cancellation lets a
        # coroutine wait for the tasks that it has started.
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _start_portal() -> tuple[threading.Thread, BlockingPortal]:
    # Not `anyio.from_thread.start_blocking_portal`: if nobody closes it, Python's exit waits
    # forever for its thread, which no longer runs.
    started: Future[BlockingPortal] = Future()

    async def serve() -> None:
        async with BlockingPortal() as portal:
            started.set_result(portal)
            await portal.sleep_until_stopped()

    thread = threading.Thread(target=anyio.run, args=(serve,), name="judge", daemon=True)
    thread.start()
    return thread, started.result()
