"""Runs tasks in a worker: the same loop in this process, in a local process and in a Ray actor."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from typing import Protocol

from traitcli.config import Config
from traitcli.errors import TraitError
from traitcli.events import Warned
from traitcli.pipeline.messages import (
    GenerateTask,
    Heartbeat,
    LogWritten,
    Message,
    ReadTask,
    ReleaseRequest,
    RolloutsJudged,
    RolloutsReleased,
    RunFailed,
    ScoreTask,
    Send,
    StoppedError,
    StopRequest,
    Task,
    TaskEnded,
    TaskStarted,
    WorkerGone,
    WorkerInput,
    WorkerReady,
)
from traitcli.pipeline.worker_context import FATAL, Worker
from traitcli.records import Judgement

_PERMANENT = (
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    NotImplementedError,
    RecursionError,
    TypeError,
    ValueError,
)
"""The same code raises these again. Errors of devices, files and connections may not come again."""
_SECONDS_BETWEEN_HEARTBEATS = 0.2
"""At least: a decode step may take a few milliseconds, and a message each would cost more."""


class Inbox(Protocol):
    """Where a worker finds the messages that the scheduler sends to it."""

    def has_message(self) -> bool: ...

    def receive(self) -> WorkerInput:
        """Wait for the next message; raises EOFError when there will never be another."""
        ...


class WorkerLoop:
    """Runs the tasks that come in, and obeys ReleaseRequest and StopRequest meanwhile."""

    def __init__(
        self, worker: Worker, inbox: Inbox, send: Send, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._worker = worker
        self._inbox = inbox
        self._send = send
        self._clock = clock
        self._last_heartbeat = clock()
        self._tokens = 0
        self._unstarted = 0
        self._requested_fraction: float | None = None
        self._release_count = 0
        self._released: list[str] = []

    def run(self) -> None:
        """Run tasks until a StopRequest, or until the scheduler is gone."""
        try:
            while True:
                match self._inbox.receive():
                    case StopRequest():
                        return
                    case ReleaseRequest():
                        pass  # it came too late: the task has ended
                    case task:
                        self.run_task(task)
        except (EOFError, StoppedError):
            return

    def run_task(self, task: Task) -> None:
        """Run one task; raises StoppedError, and errors that no task can continue after."""
        self._requested_fraction, self._release_count, self._released = None, 0, []
        self._unstarted = len(task.ids)
        failure = None
        try:
            match task:
                case GenerateTask():
                    self._generate(task)
                case ReadTask():
                    self._read(task)
                case ScoreTask():
                    self._score(task)
        except FATAL:
            raise
        except TraitError as error:
            failure = error
        self._send(TaskEnded(failure))

    def _generate(self, task: GenerateTask) -> None:
        from traitcli.pipeline.extract import generate_rollouts
        from traitcli.pipeline.read_responses import read_labelled_responses

        make = read_labelled_responses if task.trait.responses else generate_rollouts
        settings = self._worker.settings
        make(task, settings, self._worker, self._forward, self._count_tokens, self._release)
        # The tokens since the last heartbeat would be missing from the speed that is shown.
        if self._tokens:
            self._send_heartbeat()

    def _read(self, task: ReadTask) -> None:
        from traitcli.pipeline.read_neutral import read_neutral

        settings = self._worker.settings
        callbacks = self._count_tokens, self._release
        read_neutral(task, settings, self._worker, self._forward, *callbacks)

    def _score(self, task: ScoreTask) -> None:
        def deliver(judgements: Sequence[Judgement]) -> None:
            self._send(RolloutsJudged(tuple(judgements)))
            # After the judgements are sent: a StopRequest raises here, and they are kept.
            self._count_tokens(0)

        self._send(TaskStarted())
        judge = self._worker.judge
        judge.score(task.trait, task.answers, deliver)
        for note in judge.take_notes():
            self._send(Warned(task.trait.name, note))

    def _forward(self, message: Message) -> None:
        """Send a message. Released rollouts come one by one and are sent together."""
        if not isinstance(message, RolloutsReleased):
            self._send(message)
            return
        self._released += message.ids
        if len(self._released) == self._release_count:
            self._send(RolloutsReleased(tuple(self._released)))
            self._released, self._release_count = [], 0

    def _count_tokens(self, tokens: int) -> None:
        """Called after every step: send a heartbeat if one is due."""
        self._poll_control()
        self._tokens += tokens
        if self._clock() - self._last_heartbeat >= _SECONDS_BETWEEN_HEARTBEATS:
            self._send_heartbeat()

    def _send_heartbeat(self) -> None:
        self._send(Heartbeat(self._tokens, self._unstarted, self._worker.memory()))
        self._last_heartbeat, self._tokens = self._clock(), 0

    def _release(self, unstarted: int) -> int:
        """How many of the unstarted rollouts to release now."""
        self._poll_control()
        fraction, self._requested_fraction = self._requested_fraction, None
        if fraction is not None:
            self._release_count = round(fraction * unstarted)
            if not self._release_count:
                self._send(RolloutsReleased(()))  # the scheduler waits for an answer
        self._unstarted = unstarted - self._release_count
        return self._release_count

    def _poll_control(self) -> None:
        """Read the control messages that came during the task."""
        while self._inbox.has_message():
            match self._inbox.receive():
                case StopRequest():
                    raise StoppedError
                case ReleaseRequest(fraction):
                    self._requested_fraction = fraction


def run_worker(
    make: Callable[[Send], Worker], inbox: Inbox, send: Send, location: str = ""
) -> None:
    """Run a worker until it ends, and send why it ended.

    `location` is its machine and device, if the scheduler does not know them. An error that is not
    the user's, such as a CUDA error, costs this worker and not the run. `WorkerGone.permanent` says
    whether another worker should try.
    """
    try:
        worker = make(send)
        send(WorkerReady(location))
        WorkerLoop(worker, inbox, send).run()
        send(WorkerGone("it was stopped"))
    except TraitError as error:
        send(RunFailed(error))
    except Exception as error:  # noqa: BLE001 - it is logged, and other workers continue
        cause, *_ = str(error).splitlines() or [""]
        send(LogWritten(traceback.format_exc()))
        sentence = f"its worker failed ({type(error).__name__}: {cause})"
        send(WorkerGone(sentence, isinstance(error, _PERMANENT)))


def visible_devices(gpus: int) -> str:
    """The device of a worker whose process sees exactly this many GPUs; the CPU for none."""
    return "+".join(f"cuda:{index}" for index in range(gpus)) or "cpu"


def create_worker(config: Config, device: str, trust_remote_code: bool, send: Send) -> Worker:
    """A worker on one device, or with its model spread over all devices that its process sees."""
    if "+" not in device:
        return Worker(config, device, send, trust_remote_code)
    model = config.model.model_copy(update={"device_map": "auto"})
    return Worker(config.model_copy(update={"model": model}), "auto", send, trust_remote_code)
