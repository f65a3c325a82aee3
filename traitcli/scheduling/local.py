"""A pool of worker processes on this machine, one for each device.

Each process has its own pipe. So a process that is killed in the middle of a message blocks no
other. A worker may start processes of its own, as vLLM does. They end with it, however it ends,
and it ends with the command.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import current_process, parent_process, resource_tracker
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from traitcli.config import Config
from traitcli.pipeline.messages import Message, Send, WorkerGone, WorkerInput
from traitcli.pipeline.worker_context import Worker
from traitcli.scheduling.devices import threads_per_worker
from traitcli.scheduling.logs import log_path
from traitcli.scheduling.memory_check import check_fit
from traitcli.scheduling.placement import Placement
from traitcli.scheduling.pool import Receive
from traitcli.scheduling.worker import create_worker, run_worker, visible_devices

_SECONDS_TO_END = 1.5
"""Time that workers get to end by themselves, before they are killed."""


@dataclass(frozen=True, slots=True)
class _WorkerSpec:
    """What a worker process is started with."""

    config: Config
    device: str
    threads: int | None
    trust_remote_code: bool
    log: Path


class LocalPool:
    """Worker processes of this machine."""

    def __init__(
        self, config: Config, devices: Sequence[str], trust_remote_code: bool, logs: Path
    ) -> None:
        """Each entry of `devices` is one worker; several devices of a worker are joined by +."""
        self.devices = devices
        self._config = config
        self._trust_remote_code = trust_remote_code
        self._logs = logs
        self._running: dict[int, tuple[Any, Any]] = {}
        """Worker number -> its process and our end of its pipe."""

    def start(self, worker: int) -> None:
        from torch import multiprocessing

        threads = threads_per_worker(self.devices, os.cpu_count() or 1)
        log = log_path(self._logs, worker)
        device = self.devices[worker]
        spec = _WorkerSpec(self._config, device, threads, self._trust_remote_code, log)

        context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
        ours, theirs = context.Pipe()
        # A daemon is terminated when the command ends, whatever else went wrong.
        process = context.Process(target=_run_process, args=(spec, theirs), daemon=True)
        with _interrupts_blocked():
            process.start()
        theirs.close()  # while we hold it open, the end of the worker would not end the pipe
        self._running[worker] = process, ours

    def send(self, worker: int, message: WorkerInput) -> None:
        if worker in self._running:
            with suppress(ConnectionError):  # `poll` notices a dead worker
                self._running[worker][1].send(message)

    def poll(self, receive: Receive, timeout: float) -> None:
        pipes = {pipe: worker for worker, (_, pipe) in self._running.items()}
        if not pipes:
            time.sleep(timeout)
            return

        for pipe in wait(list(pipes), timeout):
            worker = pipes[pipe]
            if worker not in self._running or self._running[worker][1] is not pipe:
                continue  # an earlier message of this poll made the scheduler end or replace it
            message: Message
            try:
                message = pipe.recv()
            except (EOFError, OSError):
                process, _ = self._running.pop(worker)
                process.join(_SECONDS_TO_END)
                _kill(process)
                message = WorkerGone(f"its worker died (exit code {process.exitcode})")
            receive(worker, message)

    def end(self, worker: int) -> None:
        if worker in self._running:
            process, _ = self._running.pop(worker)
            _kill(process)
            process.join()

    def close(self) -> None:
        try:
            deadline = time.monotonic() + _SECONDS_TO_END
            for process, _ in self._running.values():
                process.join(max(0.0, deadline - time.monotonic()))
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


class _PipeInbox:
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


def _run_process(spec: _WorkerSpec, pipe: Any) -> None:
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
    lock = threading.Lock()

    def send(message: Message) -> None:
        try:
            with lock:  # a judge sends from its own threads
                pipe.send(message)
        except ConnectionError:
            raise SystemExit(1) from None  # the parent is gone

    run_worker(lambda send: _create_worker(spec, device, send), _PipeInbox(pipe), send)


def _create_worker(spec: _WorkerSpec, device: str, send: Send) -> Worker:
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
