"""A worker pool of one: the work is done in this process, while the scheduler polls."""

from __future__ import annotations

import time

from traitcli.pipeline.messages import (
    GenerateTask,
    Message,
    ReadTask,
    ScoreTask,
    StopRequest,
    WorkerGone,
    WorkerInput,
    WorkerReady,
)
from traitcli.pipeline.worker_context import Worker
from traitcli.scheduling.pool import Receive
from traitcli.scheduling.worker import WorkerLoop


class InlinePool:
    """Runs one message a poll; the scheduler receives the results in the same thread."""

    def __init__(self, worker: Worker) -> None:
        self.devices = (worker.device,)
        self._worker = worker
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

        def send(message: Message) -> None:
            receive(0, message)

        # A ReleaseRequest has no effect: its task has ended before the request is read.
        match self._messages.pop(0):
            case None:
                send(WorkerReady())
            case StopRequest():
                send(WorkerGone("it was stopped"))
            case GenerateTask() | ReadTask() | ScoreTask() as task:
                WorkerLoop(self._worker, _EmptyInbox(), send).run_task(task)

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
