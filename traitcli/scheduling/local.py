"""A crew of worker processes on this machine, one for each device.

Each has a pipe of its own, so one killed in the middle of a message blocks no other, and workers
whose parent is gone find their pipe broken and end.
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
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from traitcli.config import Config
from traitcli.pipeline.messages import Gone, Message, Order, Tell
from traitcli.pipeline.worker_context import Worker
from traitcli.scheduling.devices import threads_per_worker
from traitcli.scheduling.memory_check import check_fit
from traitcli.scheduling.placement import Placement
from traitcli.scheduling.pool import Take, log_path
from traitcli.scheduling.worker import create_worker, renumber, serve

_SECONDS_TO_END = 1.5
"""In which workers end that were told to, before they are killed."""


@dataclass(frozen=True, slots=True)
class _WorkerSpec:
    """What a worker process is started with."""

    config: Config
    device: str
    threads: int | None
    trust: bool
    log: Path


class LocalPool:
    """Worker processes of this machine."""

    def __init__(
        self, config: Config, places: Sequence[str], trust_remote_code: bool, logs: Path
    ) -> None:
        """`places` are devices; one of several devices is written with + between them."""
        self.places = places
        self._config = config
        self._trust = trust_remote_code
        self._logs = logs
        self._at: dict[int, tuple[Any, Any]] = {}
        """Of each place the process and our end of its pipe."""

    def hire(self, place: int) -> None:
        from torch import multiprocessing

        threads = threads_per_worker(self.places, os.cpu_count() or 1)
        post = _WorkerSpec(
            self._config, self.places[place], threads, self._trust, log_path(self._logs, place)
        )
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(post, theirs), daemon=True)
        with _interrupt_held():
            process.start()
        theirs.close()  # or the end of the worker would not end the pipe
        self._at[place] = process, ours

    def send(self, place: int, order: Order) -> None:
        if place in self._at:
            with suppress(ConnectionError):  # a dead worker is noticed when it is heard
                self._at[place][1].send(order)

    def hear(self, take: Take, timeout: float) -> None:
        pipes = {pipe: place for place, (_, pipe) in self._at.items()}
        if not pipes:
            time.sleep(timeout)
            return
        for pipe in wait(list(pipes), timeout):
            place = pipes[pipe]
            if place not in self._at or self._at[place][1] is not pipe:
                continue  # ended meanwhile
            try:
                message = pipe.recv()
            except (EOFError, OSError):
                process, _ = self._at.pop(place)
                process.join(_SECONDS_TO_END)
                message = Gone(f"its worker died (exit code {process.exitcode})")
            take(place, message)

    def end(self, place: int) -> None:
        if place in self._at:
            process, _ = self._at.pop(place)
            process.kill()
            process.join()

    def close(self) -> None:
        try:
            until = time.monotonic() + _SECONDS_TO_END
            for process, _ in self._at.values():
                process.join(max(0.0, until - time.monotonic()))
        finally:
            for place in list(self._at):
                self.end(place)


@contextmanager
def _interrupt_held() -> Iterator[None]:
    """Hold Ctrl-C back; processes started meanwhile inherit that for life, because their parent ends them."""
    if sys.platform == "win32":
        yield
        return
    resource_tracker.ensure_running()  # starting it later would let Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Pipe:
    """A worker's orders, as they come through its pipe."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe

    def waits(self) -> bool:
        try:
            return bool(self._pipe.poll())
        except OSError:
            return True  # `take` finds the parent gone

    def take(self) -> Order:
        try:
            return self._pipe.recv()  # type: ignore[no-any-return]
        except OSError:
            raise EOFError from None


def _work(post: _WorkerSpec, pipe: Any) -> None:
    """A worker process's life."""
    _write_to(post.log)
    place = post.device
    if "+" in place:
        _see_only(place)
        place = renumber(len(place.split("+")))
    import torch

    from traitcli.models import load  # noqa: F401 - it takes seconds, in which the lead looks what will fit

    if post.threads:
        torch.set_num_threads(post.threads)
    lock = threading.Lock()

    def tell(message: Message) -> None:
        try:
            with lock:
                pipe.send(message)
        except ConnectionError:
            raise SystemExit(1) from None  # the parent is gone

    serve(lambda tell: _make_worker(post, place, tell), _Pipe(pipe), tell)


def _make_worker(post: _WorkerSpec, place: str, tell: Tell) -> Worker:
    """Raises ModelError where a GPU is too small; the lead looks at the CPU only, or it would take GPU memory."""
    if place.startswith("cuda"):
        check_fit(post.config, Placement((place,)), post.trust)
    return create_worker(post.config, place, post.trust, tell)


def _see_only(place: str) -> None:
    """See no other GPUs than those of a place; before CUDA is woken."""
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    indices = [int(device.partition(":")[2]) for device in place.split("+")]
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(
        visible[i] if visible else str(i) for i in indices
    )


def _write_to(log: Path) -> None:
    """Let all that this process prints, also from C, go to its log."""
    with suppress(OSError):
        log.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        for stream in (1, 2):
            os.dup2(file, stream)
        os.close(file)
