"""A server of a tiny model on a real socket, in a thread."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import httpx2

from traitcli.config import MonitorSamplingConfig
from traitcli.models.hooks import find_blocks
from traitcli.serving.app import Endpoints, make_app
from traitcli.serving.guard import LOOPBACK_HOSTS, Access
from traitcli.serving.http_server import HttpServer, open_socket
from traitcli.serving.metrics import Metrics
from traitcli.serving.service import Service
from traitcli.serving.token_bytes import TokenBytes

CHAT = {"messages": [{"role": "user", "content": "How does it work?"}]}


@dataclass
class Running:
    """A server that runs; `client` is a plain HTTP client of it."""

    service: Service
    server: HttpServer
    address: str
    port: int

    @cached_property
    def client(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.address, timeout=30, trust_env=False)

    def chat(self, **body: Any) -> httpx2.Response:
        return self.client.post("/v1/chat/completions", json=CHAT | body)

    def metric(self, name: str) -> float:
        """The value of a metric, which is 0 before it is counted."""
        for line in self.client.get("/metrics").text.splitlines():
            if line.startswith(f"{name} "):
                return float(line.rpartition(" ")[2])
        return 0.0

    @property
    def ended(self) -> float:
        """How many requests for chats have ended, those whose client has gone included."""
        lines = self.client.get("/metrics").text.splitlines()
        name = 'traitcli_requests_total{path="/v1/chat/completions"'
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    @contextmanager
    def held(self, steps: int) -> Iterator[Callable[[], None]]:
        """Hold the model after some passes, until the end of the block.

        Else a tiny model might write a whole answer before a client has done what is tested. Gives
        a function that waits until the server knows that a client has gone.
        """
        may_go_on, passes, before = threading.Event(), itertools.count(), self.ended

        def wait(*_: object) -> None:
            if next(passes) >= steps:
                may_go_on.wait(60)

        block = find_blocks(self.service._loaded.model)[0]
        hook = block.register_forward_pre_hook(wait)
        try:
            yield lambda: wait_until(lambda: self.ended > before)
        finally:
            may_go_on.set()
            hook.remove()

    def wait_until_free(self) -> None:
        """Return as soon as no slot is in use and nothing waits; fail if that takes too long."""
        deadline = time.monotonic() + 20
        while (counts := self.service.counts).running or counts.waiting:
            assert time.monotonic() < deadline, counts
            time.sleep(0.005)


def wait_until(condition: Callable[[], bool]) -> None:
    """Return as soon as the condition is true; fail if that takes too long."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextmanager
def serving(
    service: Service,
    loaded: Any,
    *,
    access: Access | None = None,
    max_body: int = 100_000,
    drain_seconds: float = 20,
    host: str = "127.0.0.1",
) -> Iterator[Running]:
    """Serve until the end of `with`; the service is entered here."""
    started = threading.Event()
    with service, open_socket(host, 0) as listener:
        endpoints = Endpoints(
            service,
            Metrics(service, ("any(evil)>-1000",)),
            MonitorSamplingConfig(max_new_tokens=10_000),
            TokenBytes(loaded.tokenizer),
            max_body,
        )
        app = make_app(endpoints, access or Access(None, LOOPBACK_HOSTS))
        server = HttpServer(app, endpoints, drain_seconds, started.set)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        assert started.wait(20)
        port = listener.getsockname()[1]
        running = Running(service, server, f"http://{host}:{port}", port)
        try:
            yield running
        finally:
            running.client.close()
            server.stop()
            thread.join(20)
            assert not thread.is_alive()


def read_events(text: str) -> list[dict[str, Any]]:
    """The chunks of a stream, which must have exactly OpenAI's form."""
    *events, done, rest = text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    assert all(event.startswith("data: {") and "\n" not in event for event in events)
    return [json.loads(event.removeprefix("data: ")) for event in events]
