"""A worker pool of one: the work is done in this process, while the scheduler polls.

A thread writes the states, so that decoding does not wait for the disk.
"""

from __future__ import annotations

import time
from queue import SimpleQueue

from traitcli.pipeline.messages import (
    GenerateTask,
    Message,
    ReadTask,
    ScoreTask,
    StopRequest,
    Task,
    WorkerGone,
    WorkerInput,
    WorkerReady,
)
from traitcli.pipeline.worker_context import Worker
from traitcli.scheduling.outbox import Outbox
from traitcli.scheduling.pool import Receive, Store
from traitcli.scheduling.worker import WorkerLoop


class InlinePool:
    """Runs one message a poll; the scheduler receives the results in the same thread."""

    def __init__(self, worker: Worker, store: Store) -> None:
        self.devices = (worker.device,)
        self._worker = worker
        self._store = store
        self._messages: list[WorkerInput | None] = []
        """Messages to the worker, in order; None stands for its start."""

    def start(self, worker: int) -> None:
        self._messages.append(None)

    def send(self, worker: int, message: WorkerInput) -> None:
        self._messages.append(message)

    def poll(self, receive: Receive, timeout: float) -> None:
        if not self._messages:
            # The worker has nothing to do, but judging in the background may still run.
            time.sleep(timeout)
            return

        # A ReleaseRequest has no effect: its task has ended before the request is read.
        match self._messages.pop(0):
            case None:
                receive(0, WorkerReady())
            case StopRequest():
                receive(0, WorkerGone("it was stopped"))
            case GenerateTask() | ReadTask() | ScoreTask() as task:
                self._run_task(task, receive)

    def _run_task(self, task: Task, receive: Receive) -> None:
        stored: SimpleQueue[Message] = SimpleQueue()
        outbox = Outbox(lambda message: stored.put(self._store(message)))

        def pass_on() -> None:
            while not stored.empty():
                receive(0, stored.get())

        def send(message: Message) -> None:
            outbox.send(message)
            pass_on()

        try:
            WorkerLoop(self._worker, _EmptyInbox(), send).run_task(task)
        finally:
            # Also after Ctrl-C: what is complete is kept.
            try:
                outbox.close()
            finally:
                pass_on()

    def end(self, worker: int) -> None:
        self._messages.clear()

    def close(self) -> None:
        self._messages.clear()


class _EmptyInbox:
    """No message can come during a task: the scheduler waits in `poll` until it ends."""

    def has_message(self) -> bool:
        return False

    def receive(self) -> WorkerInput:
        raise EOFError
