"""What one worker holds while it works, its device, its models and its judge, and how it does a task."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from traitcli.config import Config
from traitcli.errors import TraitError
from traitcli.pipeline.messages import (
    Began,
    Ended,
    Fatal,
    GaveUp,
    Generating,
    Gone,
    Heartbeat,
    Judged,
    Logged,
    Message,
    Order,
    Ready,
    Scoring,
    Share,
    Stop,
    StoppedError,
    Task,
    Tell,
)
from traitcli.pipeline.worker_context import FATAL, Worker
from traitcli.records import Judgement

if TYPE_CHECKING:
    pass

_BETWEEN_TICKS = 0.2
"""Seconds between two signs of life, at least."""


class Inbox(Protocol):
    """Where a worker finds its orders."""

    def waits(self) -> bool:
        """Whether there is one."""
        ...

    def take(self) -> Order:
        """The next one, when it comes; raises EOFError when there never will be another."""
        ...


class WorkerLoop:
    """A worker at work: does the tasks that come, and heeds what it is asked meanwhile."""

    def __init__(
        self, worker: Worker, inbox: Inbox, tell: Tell, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._worker = worker
        self._inbox = inbox
        self._tell = tell
        self._clock = clock
        self._ticked = clock()
        self._tokens = 0
        self._unbegun = 0
        self._asked: float | None = None
        self._promised = 0
        self._given: list[str] = []

    def serve(self) -> None:
        """Do tasks until there are no more to come, or it is told to stop."""
        try:
            while True:
                match self._inbox.take():
                    case Stop():
                        return
                    case Share():  # it came too late: the task has ended
                        pass
                    case task:
                        self.do(task)
        except (EOFError, StoppedError):
            return

    def do(self, task: Task) -> None:
        """Do one task; raises what no task could go on after, and StoppedError."""
        self._asked, self._promised, self._given, self._unbegun = None, 0, [], len(task.ids)
        failure = None
        try:
            if isinstance(task, Generating):
                self._generate(task)
            else:
                self._score(task)
        except FATAL:
            raise
        except TraitError as error:
            failure = error
        self._tell(Ended(failure))

    def _generate(self, task: Generating) -> None:
        from traitcli.pipeline.extract import generate_rollouts
        from traitcli.pipeline.read_responses import read_labelled_responses

        make = read_labelled_responses if task.trait.responses else generate_rollouts
        make(task, self._worker.settings, self._worker, self._report, self._tick, self._withdraw)
        if self._tokens:
            self._sign()

    def _score(self, task: Scoring) -> None:
        def hand_over(judgements: Sequence[Judgement]) -> None:
            self._tell(Judged(tuple(judgements)))
            self._tick(0)

        self._tell(Began())
        self._worker.judge.score(task.trait, task.answers, hand_over)

    def _report(self, message: Message) -> None:
        """Pass a message on; rollouts that are given up go together."""
        if not isinstance(message, GaveUp):
            self._tell(message)
            return
        self._given += message.ids
        if len(self._given) == self._promised:
            self._tell(GaveUp(tuple(self._given)))
            self._given, self._promised = [], 0

    def _tick(self, tokens: int) -> None:
        """Give a sign of life, now and then, and heed what was asked."""
        self._heed()
        self._tokens += tokens
        if self._clock() - self._ticked >= _BETWEEN_TICKS:
            self._sign()

    def _sign(self) -> None:
        self._tell(Heartbeat(self._tokens, self._unbegun, self._worker.memory()))
        self._ticked, self._tokens = self._clock(), 0

    def _withdraw(self, unbegun: int) -> int:
        """How many of the rollouts that are not begun to give up."""
        self._heed()
        asked, self._asked = self._asked, None
        if asked is not None:
            self._promised = round(asked * unbegun)
            if not self._promised:
                self._tell(GaveUp(()))
        self._unbegun = unbegun - self._promised
        return self._promised

    def _heed(self) -> None:
        """Read what was asked meanwhile."""
        while self._inbox.waits():
            match self._inbox.take():
                case Stop():
                    raise StoppedError
                case Share(part):
                    self._asked = part


def serve(make: Callable[[Tell], Worker], inbox: Inbox, tell: Tell, where: str = "") -> None:
    """A worker's life: whatever ends it is told. `where` is its machine and device, if the lead does not know.

    What is no mistake of the user's, a CUDA error say, costs this worker and not the run.
    """
    try:
        worker = make(tell)
        tell(Ready(where))
        WorkerLoop(worker, inbox, tell).serve()
        tell(Gone("it was stopped"))
    except TraitError as error:
        tell(Fatal(error))
    except Exception as error:  # noqa: BLE001 - any at all: it is told, and others go on
        cause, *_ = str(error).splitlines() or [""]
        tell(Logged(traceback.format_exc()))
        tell(Gone(f"its worker failed ({type(error).__name__}: {cause})"))


def renumber(gpus: int) -> str:
    """The place of a process that sees so many GPUs and no others; without one it is the CPU."""
    return "+".join(f"cuda:{index}" for index in range(gpus)) or "cpu"


def create_worker(config: Config, place: str, trust_remote_code: bool, tell: Tell) -> Worker:
    """A worker on its device, or with its model spread over all that its process sees, where they are several."""
    if "+" not in place:
        return Worker(config, place, tell, trust_remote_code)
    model = config.model.model_copy(update={"device_map": "auto"})
    return Worker(config.model_copy(update={"model": model}), "auto", tell, trust_remote_code)
