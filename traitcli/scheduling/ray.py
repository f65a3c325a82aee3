"""A crew of Ray actors, on whatever machines a cluster has: what they make is streamed back here.

No file system is shared: an actor is handed all it needs, and knows nothing of the run directory.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Queue, SimpleQueue
from typing import Any

from traitcli.config import Config, ModelConfig
from traitcli.errors import UserError
from traitcli.pipeline.messages import Gone, Logged, Message, Order, Ready, Tell
from traitcli.pipeline.worker_context import Worker
from traitcli.scheduling.memory_check import check_fit
from traitcli.scheduling.placement import Placement
from traitcli.scheduling.pool import Take
from traitcli.scheduling.worker import create_worker, renumber, serve

_UNREAD = 64
"""Messages of an actor that wait to be taken, at most: then it waits too."""
_SECONDS_TO_JOIN = 5.0
_SECONDS_TO_END = 1.5
"""In which actors end that were told to, before they are killed."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """What a Ray cluster has; `cpus` of each machine."""

    cpus: tuple[int, ...]
    gpus: int


def join_cluster(address: str) -> Cluster:
    """Connect this process to a cluster: `auto` is one that runs on this machine, `local` a new one for this command.

    Raises UserError when Ray is not installed, or there is no such cluster.
    """
    try:
        import ray
    except ImportError:
        raise UserError(
            "Ray is not installed",
            cause="--scheduler ray needs it",
            fix="pip install 'traitcli[ray]'",
        ) from None
    _check_address(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    where: dict[str, Any] = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error", **where)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise _no_cluster(address, error) from None
    cpus = tuple(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    return Cluster(cpus, int(ray.cluster_resources().get("GPU", 0)))


def _check_address(address: str) -> None:
    """Raise UserError at once where Ray would try for minutes."""
    if address.startswith("ray://"):
        raise UserError(
            f"--ray-address {address} is an address for Ray's client",
            cause="results are streamed back, which that cannot do",
            fix="run the command on a machine of the cluster, with --ray-address auto",
        )
    host, _, port = address.rpartition(":")
    if address not in {"auto", "local"}:
        try:
            socket.create_connection((host, int(port)), timeout=_SECONDS_TO_JOIN).close()
        except (OSError, ValueError) as error:
            raise _no_cluster(address, error) from None


def _no_cluster(address: str, error: Exception) -> UserError:
    return UserError(
        f"no Ray cluster at {address}"
        if address != "auto"
        else "no Ray cluster runs on this machine",
        cause=_first_line(error),
        fix="ray start --head, then the same command; or --ray-address local",
    )


class RayPool:
    """Actors of the cluster that this process has joined."""

    def __init__(
        self, config: Config, site: Placement, trust_remote_code: bool, logs: Path
    ) -> None:
        """Each place has a name of its own until its actor is there, and then that of its machine and device."""
        self.places = list(site.places)
        self._names = site.places
        self._gpus_each = site.gpus_each
        self._cpus_each = site.cpus_each
        self._post = (_with_whole_paths(config), trust_remote_code)
        self._at: dict[int, tuple[Any, Any]] = {}
        """Of each place the actor and the stream of what it says."""
        self._talk = ExitStack()  # Ray prints of nodes that are lost, and stdout is the command's
        logs.mkdir(parents=True, exist_ok=True)
        log = self._talk.enter_context((logs / "ray.log").open("a", encoding="utf-8"))
        self._talk.enter_context(redirect_stdout(log))

    def hire(self, place: int) -> None:
        import ray

        self.places[place] = self._names[place]
        options = {
            "num_cpus": self._cpus_each,
            "num_gpus": self._gpus_each,
            "max_concurrency": 2,
            "scheduling_strategy": "SPREAD",
        }
        kind = ray.remote(Actor).options(**options)
        actor = kind.remote(*self._post, self._gpus_each)
        listening = actor.listen.options(
            num_returns="streaming", _generator_backpressure_num_objects=_UNREAD
        )
        self._at[place] = actor, listening.remote()

    def send(self, place: int, order: Order) -> None:
        if place in self._at:
            self._at[place][0].order.remote(order)

    def hear(self, take: Take, timeout: float) -> None:
        import ray

        streams = {stream: place for place, (_, stream) in self._at.items()}
        if not streams:
            time.sleep(timeout)
            return
        first, _ = ray.wait(list(streams), num_returns=1, timeout=timeout, fetch_local=False)
        if first:
            first, _ = ray.wait(
                list(streams), num_returns=len(streams), timeout=0, fetch_local=False
            )
        for stream in first:
            place = streams[stream]
            if place in self._at and self._at[place][1] is stream:
                take(place, self._next(place, stream))

    def end(self, place: int) -> None:
        import ray

        if place in self._at:
            actor, _ = self._at.pop(place)
            ray.kill(actor)

    def close(self) -> None:
        import ray

        until = time.monotonic() + _SECONDS_TO_END
        try:
            while self._at and time.monotonic() < until:
                self.hear(lambda place, message: None, 0.1)
        finally:
            for place in list(self._at):
                self.end(place)
            ray.shutdown()
            self._talk.close()

    def _next(self, place: int, stream: Any) -> Message:
        import ray
        from ray.exceptions import RayError

        try:
            message: Message = ray.get(next(stream))
        except StopIteration:
            self._at.pop(place)
            return Gone("its worker ended")
        except RayError as error:
            self._at.pop(place)
            return Gone(f"its worker died ({_first_line(error)})")
        if isinstance(message, Ready):
            self.places[place] = message.where
        return message


class Actor:
    """A worker on some machine: one thread of it works, one takes orders."""

    def __init__(self, config: Config, trust_remote_code: bool, gpus: int) -> None:
        self._config = config
        self._trust = trust_remote_code
        self._gpus = gpus
        self._orders: SimpleQueue[Order] = SimpleQueue()

    def order(self, order: Order) -> None:
        self._orders.put(order)

    def listen(self) -> Iterator[Message]:
        """All that the worker says, until it ends."""
        import ray

        said: Queue[Message | None] = Queue(_UNREAD)
        node = ray.util.get_node_ip_address()
        where = f"{node} {'+'.join(f'cuda:{index}' for index in ray.get_gpu_ids()) or 'cpu'}"

        def work() -> None:
            try:
                serve(self._worker, _Queue(self._orders), said.put, where)
            finally:
                said.put(None)

        threading.Thread(target=work, daemon=True).start()
        while (message := said.get()) is not None:
            yield message

    def _worker(self, tell: Tell) -> Worker:
        import torch

        place = renumber(self._gpus)
        check_fit(self._config, Placement((place,)), self._trust)
        if not self._gpus:
            torch.set_num_threads(_cpus())
        else:
            tell(Logged(f"CUDA_VISIBLE_DEVICES is {os.environ.get('CUDA_VISIBLE_DEVICES')}\n"))
        return create_worker(self._config, place, self._trust, tell)


class _Queue:
    """A worker's orders, as they come to its actor."""

    def __init__(self, orders: SimpleQueue[Order]) -> None:
        self._orders = orders

    def waits(self) -> bool:
        return not self._orders.empty()

    def take(self) -> Order:
        return self._orders.get()


def _with_whole_paths(config: Config) -> Config:
    """Models that are files here, as an actor finds them that works in another folder."""

    def whole(model: ModelConfig) -> ModelConfig:
        path = Path(model.id)
        return model.model_copy(update={"id": str(path.absolute())}) if path.exists() else model

    local = config.judge.local
    if local.model:
        local = local.model_copy(update={"model": whole(local.model)})
    judge = config.judge.model_copy(update={"local": local})
    return config.model_copy(update={"model": whole(config.model), "judge": judge})


def _cpus() -> int:
    """Threads for a worker without a GPU: those that OMP_NUM_THREADS names, which Ray sets to the CPUs it reserved."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    return int(named) if named.isdecimal() and int(named) else 1


def _first_line(error: Exception) -> str:
    with suppress(IndexError):
        return str(error).strip().splitlines()[0].rstrip(".")
    return type(error).__name__
