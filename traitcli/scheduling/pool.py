"""What the scheduler needs of a worker pool, and what it knows of each worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from traitcli.pipeline.messages import GenerateTask, Message, ReadTask, Task, WorkerInput

_WORTH_STEALING = 2
"""A worker with fewer unstarted rollouts keeps them: half of one is none."""

Receive = Callable[[int, Message], None]
"""Called with the number of a worker and a message from it."""

Store = Callable[[Message], Message]
"""Writes the states in a message, and returns it without them; any thread may call it."""


class WorkerPool(Protocol):
    """Workers by number, on whatever they run: this process, local processes or a Ray cluster.

    Each worker number belongs to one device. A worker that ended can be started again.
    """

    @property
    def devices(self) -> Sequence[str]:
        """The device of each worker number; several devices of one worker are joined by +."""
        ...

    def start(self, worker: int) -> None:
        """Start a worker; it sends WorkerReady."""
        ...

    def send(self, worker: int, message: WorkerInput) -> None:
        """Send without waiting. A dead worker is noticed by `poll`, not here."""
        ...

    def poll(self, receive: Receive, timeout: float) -> None:
        """Pass on the messages of workers; waits at most `timeout` seconds for the first one."""
        ...

    def end(self, worker: int) -> None:
        """Kill a worker, if it runs."""
        ...

    def close(self) -> None:
        """End all workers; those that do not end by themselves in a moment are killed."""
        ...


@dataclass(slots=True)
class WorkerState:
    """What the scheduler knows of a worker.

    last_message_at    clock seconds of its last message
    ready              its process runs and takes tasks
    task_started_at    clock seconds at which its model was loaded and its task began
    unfinished         ids of its task that it has not delivered
    total              size of its task without the released rollouts
    task_started       its model is loaded and the task runs
    has_progress       it has delivered something of its task
    unstarted          rollouts that it could still release
    release_requested  it was asked to release some and has not answered
    memory             bytes that it uses on its device
    """

    number: int
    last_message_at: float
    ready: bool = False
    task: Task | None = None
    unfinished: set[str] = field(default_factory=set)
    total: int = 0
    task_started_at: float = 0.0
    task_started: bool = False
    has_progress: bool = False
    unstarted: int = 0
    release_requested: bool = False
    memory: int = 0

    def assign(self, task: Task, now: float) -> None:
        """Note that a task was sent."""
        self.task, self.unfinished = task, set(task.ids)
        self.total = self.unstarted = len(task.ids)
        self.task_started = self.has_progress = self.release_requested = False
        # The timeout begins with the task: an idle worker sends no heartbeats.
        self.task_started_at = self.last_message_at = now

    @property
    def done(self) -> int:
        return self.total - len(self.unfinished)

    @property
    def is_idle(self) -> bool:
        return self.ready and self.task is None

    @property
    def can_release(self) -> bool:
        # Scoring is not stolen: a judge reads the answers to one question together.
        enough = self.unstarted >= _WORTH_STEALING
        return (
            isinstance(self.task, GenerateTask | ReadTask) and enough and not self.release_requested
        )
