"""A crew of one: the work is done in this process, when the lead listens."""

from __future__ import annotations

import time

from traitcli.pipeline.messages import Generating, Gone, Message, Order, Ready, Scoring, Stop
from traitcli.pipeline.worker_context import Worker
from traitcli.scheduling.pool import Take
from traitcli.scheduling.worker import WorkerLoop


class InlinePool:
    """Does each task as soon as it is listened to; the lead takes what is made in the same thread."""

    def __init__(self, worker: Worker) -> None:
        self.places = (worker.device,)
        self._worker = worker
        self._orders: list[Order | None] = []
        """What is to be done; none: the worker begins."""

    def hire(self, place: int) -> None:
        self._orders.append(None)

    def send(self, place: int, order: Order) -> None:
        self._orders.append(order)

    def hear(self, take: Take, timeout: float) -> None:
        if not self._orders:
            time.sleep(timeout)
            return

        def tell(message: Message) -> None:
            take(0, message)

        match self._orders.pop(0):
            case None:
                tell(Ready())
            case Stop():
                tell(Gone("it was stopped"))
            case Generating() | Scoring() as task:
                WorkerLoop(self._worker, _Empty(), tell).do(task)

    def end(self, place: int) -> None:
        self._orders.clear()

    def close(self) -> None:
        self._orders.clear()


class _Empty:
    """An inbox into which nothing comes while a task is done: who would send it is busy with it."""

    def waits(self) -> bool:
        return False

    def take(self) -> Order:
        raise EOFError
