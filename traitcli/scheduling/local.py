"""A pool of worker processes on this machine, one for each device.

Each process has its own pipe. So a process that is killed in the middle of a message blocks no
other. A worker may start processes of its own, as vLLM does. They end with it, however it ends,
and it ends with the command. At our end a thread reads each pipe and writes the states that come,
so that pipes and disk work at the same time.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import current_process, parent_process, resource_tracker
from multiprocessing.connection import wait
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from traitcli.config import Config
from traitcli.pipeline.flush import pack_states
from traitcli.pipeline.messages import (
    Message,
    RolloutsMade,
    Send,
    WorkerGone,
    WorkerInput,
)
from traitcli.pipeline.worker_context import Worker
from traitcli.scheduling.devices import threads_per_worker
from traitcli.scheduling.logs import log_path
from traitcli.scheduling.memory_check import check_fit
from traitcli.scheduling.outbox import Outbox
from traitcli.scheduling.placement import Placement
from traitcli.scheduling.pool import Receive, Store
from traitcli.scheduling.transport import receive_message, send_message
from traitcli.scheduling.worker import create_worker, run_worker, visible_devices

_SECONDS_TO_END = 1.5
"""Time that workers get to end by themselves, before they are killed."""

_Received = Message | BaseException | None
"""From a reading thread: a message, an error of `store`, or None at the end of the pipe."""


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a worker process is started with."""

    config: Config
    device: str
    threads: int | None
    trust_remote_code: bool
    log: Path


@dataclass(frozen=True, slots=True)
class _Running:
    """A worker process, our end of its pipe, and the thread that reads it."""

    process: Any
    pipe: Any
    reader: threading.Thread


class LocalPool:
    """Worker processes of this machine."""

    def __init__(
        self,
        config: Config,
        devices: Sequence[str],
        trust_remote_code: bool,
        logs: Path,
        store: Store,
    ) -> None:
        """Each entry of `devices` is one worker; several devices of a worker are joined by +.

        `store` is called in the threads that read the pipes.
        """
        self.devices = devices
        self._config = config
        self._trust_remote_code = trust_remote_code
        self._logs = logs
        self._store = store
        self._running: dict[int, _Running] = {}
        """By worker number."""
        self._received: SimpleQueue[tuple[int, Any, _Received]] = SimpleQueue()
        """Worker number, pipe and message."""
        self._waiting: deque[tuple[int, Any, _Received]] = deque()
        """The same, taken from the queue by `poll`."""

    def start(self, worker: int) -> None:
        from torch import multiprocessing

        threads = threads_per_worker(self.devices, os.cpu_count() or 1)
        log = log_path(self._logs, worker)
        device = self.devices[worker]
        spec = WorkerSpec(self._config, device, threads, self._trust_remote_code, log)

        context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        ours, theirs = context.Pipe()
        # A daemon is terminated when the command ends, whatever else went wrong.
        process = context.Process(target=self.main(), args=(spec, theirs), daemon=True)
        with _interrupts_blocked():
            process.start()
        theirs.close()  # while we hold it open, the end of the worker would not end the pipe
        reader = threading.Thread(target=self._read, args=(worker, ours), daemon=True)
        self._running[worker] = _Running(process, ours, reader)
        reader.start()

    def main(self) -> Callable[[WorkerSpec, Any], None]:
        """The main function of a worker process; it gets its end of the pipe."""
        return _run_process

    def _read(self, worker: int, pipe: Any) -> None:
        """Receive the messages of a worker and store the states in them; runs in a thread."""
        while True:
            try:
                message: Message = receive_message(pipe)
            except (EOFError, OSError):
                self._received.put((worker, pipe, None))
                return
            try:
                message = self._store(message)
            except BaseException as error:  # noqa: BLE001 - raised by `poll`
                self._received.put((worker, pipe, error))
                return
            self._received.put((worker, pipe, message))

    def send(self, worker: int, message: WorkerInput) -> None:
        if worker in self._running:
            with suppress(ConnectionError):  # `poll` notices a dead worker
                self._running[worker].pipe.send(message)

    def poll(self, receive: Receive, timeout: float) -> None:
        with suppress(Empty):
            if not self._waiting:
                self._take(*self._received.get(timeout=timeout))
            for _ in range(self._received.qsize()):
                self._take(*self._received.get_nowait())
        # Taken one by one: what `receive` raises must not lose the others.
        for _ in range(len(self._waiting)):
            self._pass_on(receive, *self._waiting.popleft())

    def _take(self, worker: int, pipe: Any, message: _Received) -> None:
        """Note a message; rollouts join those that the same worker sent just before.

        A ledger is synced to disk for each message, which takes longer than all else here.
        """
        same = [index for index, (_, other, _) in enumerate(self._waiting) if other is pipe]
        before = self._waiting[same[-1]][2] if same else None
        if isinstance(message, RolloutsMade) and isinstance(before, RolloutsMade):
            joined = replace(before, rollouts=before.rollouts + message.rollouts)
            self._waiting[same[-1]] = worker, pipe, joined
        else:
            self._waiting.append((worker, pipe, message))

    def _pass_on(self, receive: Receive, worker: int, pipe: Any, message: _Received) -> None:
        running = self._running.get(worker)
        if running is None or running.pipe is not pipe:
            return  # the scheduler has ended or replaced it meanwhile
        if isinstance(message, BaseException):
            raise message
        if message is None:
            del self._running[worker]
            running.process.join(_SECONDS_TO_END)
            _kill(running.process)
            message = WorkerGone(f"its worker died (exit code {running.process.exitcode})")
        receive(worker, message)

    def end(self, worker: int) -> None:
        if worker in self._running:
            running = self._running.pop(worker)
            _kill(running.process)
            running.process.join()
            # What it has delivered is stored before others make it again: the newer states count.
            # With a timeout, because a child of the worker may hold its end of the pipe open.
            running.reader.join(_SECONDS_TO_END)

    def close(self) -> None:
        try:
            deadline = time.monotonic() + _SECONDS_TO_END
            for running in self._running.values():
                running.process.join(max(0.0, deadline - time.monotonic()))
        finally:
            for worker in list(self._running):
                self.end(worker)


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Block Ctrl-C; a process started meanwhile ignores it for life, as the scheduler ends it."""
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # if it starts later, it unblocks Ctrl-C again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class PipeInbox:
    """Messages to a worker process, from its pipe."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe

    def has_message(self) -> bool:
        try:
            return bool(self._pipe.poll())
        except OSError:
            return True  # `receive` then finds that the parent is gone

    def receive(self) -> WorkerInput:
        try:
            return self._pipe.recv()  # type: ignore[no-any-return]
        except OSError:
            raise EOFError from None


def _kill(process: Any) -> None:
    """Kill a worker process, and the processes that it has started.

    vLLM's processes outlive their parent if it is killed, and keep their GPU memory.
    """
    if sys.platform != "win32":
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()


def _end_with_parent(engine: str) -> None:
    """End this process, and all that it starts, when its parent is gone.

    The pipe would tell too, but nobody reads it while a model loads or vLLM writes.
    """
    parent = parent_process()
    assert parent  # noqa: S101 - only child processes call it
    # With vLLM it leads a process group, which its children belong to. Without children it stays in
    # the group of the command, so that Ctrl-Z stops it too.
    leads_group = engine == "vllm" and sys.platform != "win32"
    if leads_group:
        os.setpgid(0, 0)

    def watch() -> None:
        wait([parent.sentinel])
        if leads_group:
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _run_process(spec: WorkerSpec, pipe: Any) -> None:
    """The main function of a worker process."""
    _end_with_parent(spec.config.extract.engine)
    current_process().daemon = False  # a daemon may have no children, and vLLM starts some
    _redirect_output(spec.log)
    device = spec.device
    if "+" in device:
        _hide_other_gpus(device)
        device = visible_devices(len(device.split("+")))
    import torch

    # The import takes seconds. Do it now, while the scheduler checks the memory.
    from traitcli.models import load  # noqa: F401

    if spec.threads:
        torch.set_num_threads(spec.threads)
    outbox = Outbox(lambda message: deliver(pipe, message))
    try:
        run_worker(lambda send: _create_worker(spec, device, send), PipeInbox(pipe), outbox.send)
    finally:
        outbox.close()


def deliver(pipe: Any, message: Message) -> None:
    """Send a message of a worker, its states in the precision in which they are stored."""
    try:
        send_message(pipe, pack_states(message))
    except ConnectionError:
        raise SystemExit(1) from None  # the parent is gone


def _create_worker(spec: WorkerSpec, device: str, send: Send) -> Worker:
    """Raises ModelError if a GPU is too small.

    The scheduler checks CPUs only: a look at a GPU would take GPU memory in its process.
    """
    if device.startswith("cuda"):
        check_fit(spec.config, Placement((device,)), spec.trust_remote_code)
    return create_worker(spec.config, device, spec.trust_remote_code, send)


def _hide_other_gpus(devices: str) -> None:
    """Make only the named GPUs visible to this process. Call it before CUDA starts."""
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    indices = [int(device.partition(":")[2]) for device in devices.split("+")]
    names = [visible[index] if visible else str(index) for index in indices]
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(names)


def _redirect_output(log: Path) -> None:
    """Send all that this process prints to its log, also what C libraries print."""
    with suppress(OSError):
        log.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        for stream in (1, 2):
            os.dup2(file, stream)
        os.close(file)
