"""A pool of Ray actors on the machines of a cluster, which stream their results back.

No shared file system is needed: an actor gets all it needs in messages, and does not know the run
directory.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from queue import Queue, SimpleQueue
from typing import Any

from traitcli.config import Config, ModelConfig
from traitcli.errors import UserError
from traitcli.pipeline.flush import pack_states
from traitcli.pipeline.messages import (
    LogWritten,
    Message,
    Send,
    WorkerGone,
    WorkerInput,
    WorkerReady,
)
from traitcli.pipeline.worker_context import Worker
from traitcli.scheduling.memory_check import check_fit
from traitcli.scheduling.placement import Placement
from traitcli.scheduling.pool import Receive
from traitcli.scheduling.worker import create_worker, run_worker, visible_devices

_MAX_UNREAD = 64
"""Unread messages of an actor; at this number the actor waits, so that memory stays bounded."""
_SECONDS_TO_JOIN = 5.0
"""Time that a cluster gets to accept a connection."""
_SECONDS_TO_END = 1.5
"""Time that actors get to end by themselves, before they are killed."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """The CPUs of each machine of a cluster, and the GPUs of all."""

    cpus: tuple[int, ...]
    gpus: int


def join_cluster(address: str) -> Cluster:
    """Connect this process to a cluster.

    `auto` is the cluster that runs on this machine, `local` a new one for this command only.
    Raises UserError if Ray is not installed or no cluster answers.
    """
    try:
        import ray
    except ImportError:
        raise UserError(
            "Ray is not installed",
            cause="--scheduler ray uses it",
            fix="pip install 'traitcli[ray]'",
        ) from None

    _check_address(address)
    # By default Ray reports usage statistics over the network.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Workers without a GPU keep CUDA_VISIBLE_DEVICES; Ray warns unless this says so.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

    options: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        # Workers send their logs as messages. Printed by Ray, they would break the live view.
        ray.init(address=address, log_to_driver=False, logging_level="error", **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise _no_cluster(address, error) from None

    cpus = tuple(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    return Cluster(cpus, int(ray.cluster_resources().get("GPU", 0)))


def _check_address(address: str) -> None:
    """Raise UserError at once; Ray itself would try to connect for minutes."""
    if address.startswith("ray://"):
        raise UserError(
            f"--ray-address {address} is an address for Ray Client",
            cause="workers stream their results, and Ray Client cannot stream",
            fix="run the command on a machine of the cluster with --ray-address auto",
        )
    host, _, port = address.rpartition(":")
    if address not in {"auto", "local"}:
        try:
            socket.create_connection((host, int(port)), timeout=_SECONDS_TO_JOIN).close()
        except (OSError, ValueError) as error:
            raise _no_cluster(address, error) from None


def _no_cluster(address: str, error: Exception) -> UserError:
    here = "no Ray cluster runs on this machine"
    return UserError(
        here if address == "auto" else f"no Ray cluster at {address}",
        cause=_first_line(error),
        fix="run ray start --head and then the same command, or use --ray-address local",
    )


class RayPool:
    """Actors of the cluster that this process has joined."""

    def __init__(
        self, config: Config, placement: Placement, trust_remote_code: bool, logs: Path
    ) -> None:
        self.devices = list(placement.devices)
        """A worker has a made-up name until its actor runs, then its machine and device."""
        self._names = placement.devices
        self._gpus = placement.gpus_per_worker
        self._cpus = placement.cpus_per_worker
        self._spec = (_with_absolute_paths(config), trust_remote_code)
        self._running: dict[int, tuple[Any, Any]] = {}
        """Worker number -> its actor and the stream of its messages."""

        # Ray prints about lost nodes, and the command's stdout is for its own output.
        self._output = ExitStack()
        logs.mkdir(parents=True, exist_ok=True)
        log = self._output.enter_context((logs / "ray.log").open("a", encoding="utf-8"))
        self._output.enter_context(redirect_stdout(log))

    def start(self, worker: int) -> None:
        import ray

        # The number may have belonged to an actor on another machine.
        self.devices[worker] = self._names[worker]
        options = {
            "num_cpus": self._cpus,
            "num_gpus": self._gpus,
            "max_concurrency": 2,  # one thread runs tasks, one receives messages
            "scheduling_strategy": "SPREAD",
        }
        actor = ray.remote(Actor).options(**options).remote(*self._spec, self._gpus)
        messages = actor.messages.options(
            num_returns="streaming", _generator_backpressure_num_objects=_MAX_UNREAD
        )
        self._running[worker] = actor, messages.remote()

    def send(self, worker: int, message: WorkerInput) -> None:
        if worker in self._running:
            self._running[worker][0].receive.remote(message)

    def poll(self, receive: Receive, timeout: float) -> None:
        import ray

        streams = {stream: worker for worker, (_, stream) in self._running.items()}
        if not streams:
            time.sleep(timeout)
            return
        waiting = list(streams)
        found, _ = ray.wait(waiting, num_returns=1, timeout=timeout, fetch_local=False)
        if found:
            # The call above returns one stream at most: ask for all that have a message already.
            found, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0, fetch_local=False)
        for stream in found:
            worker = streams[stream]
            if worker in self._running and self._running[worker][1] is stream:
                receive(worker, self._next_message(worker, stream))

    def end(self, worker: int) -> None:
        import ray

        if worker in self._running:
            actor, _ = self._running.pop(worker)
            ray.kill(actor)

    def close(self) -> None:
        import ray

        deadline = time.monotonic() + _SECONDS_TO_END
        try:
            while self._running and time.monotonic() < deadline:
                self.poll(lambda worker, message: None, 0.1)
        finally:
            for worker in list(self._running):
                self.end(worker)
            ray.shutdown()
            self._output.close()

    def _next_message(self, worker: int, stream: Any) -> Message:
        import ray
        from ray.exceptions import RayError

        try:
            message: Message = ray.get(next(stream))
        except StopIteration:
            self._running.pop(worker)
            return WorkerGone("its worker ended")
        except RayError as error:
            self._running.pop(worker)
            return WorkerGone(f"its worker died ({_first_line(error)})")
        if isinstance(message, WorkerReady):
            self.devices[worker] = message.location
        return message


class Actor:
    """A worker on some machine of the cluster."""

    def __init__(self, config: Config, trust_remote_code: bool, gpus: int) -> None:
        self._config = config
        self._trust_remote_code = trust_remote_code
        self._gpus = gpus
        self._inbox: SimpleQueue[WorkerInput] = SimpleQueue()

    def receive(self, message: WorkerInput) -> None:
        self._inbox.put(message)

    def messages(self) -> Iterator[Message]:
        """Run the worker and yield its messages until it ends."""
        import ray

        sent: Queue[Message | None] = Queue(_MAX_UNREAD)
        node = ray.util.get_node_ip_address()
        devices = "+".join(f"cuda:{index}" for index in ray.get_gpu_ids()) or "cpu"

        def work() -> None:
            try:
                inbox = _QueueInbox(self._inbox)
                run_worker(self._create_worker, inbox, sent.put, f"{node} {devices}")
            finally:
                sent.put(None)

        # A thread, because the worker sends from deep inside its loop, where it cannot yield.
        threading.Thread(target=work, daemon=True).start()
        while (message := sent.get()) is not None:
            yield pack_states(message)

    def _create_worker(self, send: Send) -> Worker:
        import torch

        device = visible_devices(self._gpus)
        check_fit(self._config, Placement((device,)), self._trust_remote_code)
        if self._gpus:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            send(LogWritten(f"CUDA_VISIBLE_DEVICES is {visible}\n"))
        else:
            torch.set_num_threads(_reserved_cpus())
        return create_worker(self._config, device, self._trust_remote_code, send)


class _QueueInbox:
    """Messages to a worker, as its actor receives them."""

    def __init__(self, messages: SimpleQueue[WorkerInput]) -> None:
        self._messages = messages

    def has_message(self) -> bool:
        return not self._messages.empty()

    def receive(self) -> WorkerInput:
        return self._messages.get()


def _with_absolute_paths(config: Config) -> Config:
    """Make paths of local models absolute: an actor works in another folder."""

    def absolute(model: ModelConfig) -> ModelConfig:
        path = Path(model.id)
        return model.model_copy(update={"id": str(path.absolute())}) if path.exists() else model

    local = config.judge.local
    if local.model:
        local = local.model_copy(update={"model": absolute(local.model)})
    judge = config.judge.model_copy(update={"local": local})
    return config.model_copy(update={"model": absolute(config.model), "judge": judge})


def _reserved_cpus() -> int:
    """The CPUs of a worker without a GPU: Ray sets OMP_NUM_THREADS to the CPUs it reserved."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return int(threads) if threads.isdecimal() and int(threads) else 1


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
