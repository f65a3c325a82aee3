"""What a lead knows of workers: how they are hired, spoken to and heard, whatever they run on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from traitcli.pipeline.messages import Generating, Message, Order, Task

_WORTH = 2
"""Rollouts that a worker has not begun, from which on some are taken over."""

Take = Callable[[int, Message], None]
"""Is told by which worker something was said, and what."""


class WorkerPool(Protocol):
    """Workers, one at each place at most."""

    @property
    def places(self) -> Sequence[str]:
        """The device of each place; the names of several are joined by +."""
        ...

    def hire(self, place: int) -> None:
        """Start a worker; it says Ready."""
        ...

    def send(self, place: int, order: Order) -> None:
        """Tell a worker something; whether it is alive is noticed when it is heard."""
        ...

    def hear(self, take: Take, timeout: float) -> None:
        """WorkerState over what workers say, waiting for the first word up to so many seconds."""
        ...

    def end(self, place: int) -> None:
        """End a worker at once, if there is one."""
        ...

    def close(self) -> None:
        """End all, by force those that do not end by themselves in a moment."""
        ...


@dataclass(slots=True)
class WorkerState:
    """A worker as its lead sees it.

    heard  when it last said something
    since  when its task was at work
    left   what of its task is not finished
    total  how much the task is, without what was given up
    moved  something of it is
    asked  it was asked to give something up, and has not answered
    """

    place: int
    heard: float
    ready: bool = False
    task: Task | None = None
    left: set[str] = field(default_factory=set)
    total: int = 0
    since: float = 0.0
    began: bool = False
    moved: bool = False
    unbegun: int = 0
    asked: bool = False
    memory: int = 0

    def give(self, task: Task, now: float) -> None:
        self.task, self.left = task, set(task.ids)
        self.total = self.unbegun = len(task.ids)
        self.began = self.moved = self.asked = False
        self.since = self.heard = now

    @property
    def done(self) -> int:
        return self.total - len(self.left)

    @property
    def is_idle(self) -> bool:
        return self.ready and self.task is None

    @property
    def can_give(self) -> bool:
        return isinstance(self.task, Generating) and self.unbegun >= _WORTH and not self.asked


def log_path(folder: Path, place: int) -> Path:
    """Where a worker's log is."""
    return folder / f"worker-{place}.log"
