"""Starts the server that `traitcli serve` asks for."""

from __future__ import annotations

import ipaddress
import json
import os
import threading
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from traitcli.api.alarm_rules import read_rules
from traitcli.api.vector_source import VectorSource
from traitcli.cli.output import show_warning
from traitcli.config import Config
from traitcli.errors import TraitError, UserError
from traitcli.output_paths import check_output_folder

if TYPE_CHECKING:
    import socket

    from traitcli.api.model import Model
    from traitcli.serving.guard import Access
    from traitcli.serving.service import Service

KEY_VARIABLE = "TRAITCLI_API_KEY"


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """The options of one serve command; what the config holds is not repeated here.

    queue     answers that may wait
    context   tokens of a prompt and its answer
    max_tokens  tokens of an answer whose request does not say; none: what `context` leaves
    timeout   seconds of a request
    max_body  bytes of a request
    """

    host: str
    port: int
    traits: tuple[str, ...]
    stop_on: tuple[str, ...]
    record: Path | None
    api_key: str | None
    cors: tuple[str, ...]
    slots: int | None
    queue: int
    context: int
    max_tokens: int | None
    timeout: float
    max_body: int
    trust: bool

    @property
    def key(self) -> str | None:
        """The key of --api-key, or of the environment."""
        return self.api_key if self.api_key is not None else os.environ.get(KEY_VARIABLE) or None

    def check(self) -> None:
        """Raise UserError for options that do not fit together."""
        key = self.key
        if key is not None and (not key.strip() or key != key.strip() or not key.isprintable()):
            raise UserError(
                "invalid --api-key",
                cause="it is empty, or has a space or a control character at an end",
                fix="choose another key, for example the output of: openssl rand -hex 32",
            )
        if key is None and not is_loopback(self.host):
            raise UserError(
                f"cannot serve on {self.host} without a key",
                cause="everybody in the network could use the model",
                fix=f"set {KEY_VARIABLE} or --api-key, or leave --host out",
            )
        if key is None and "*" in self.cors:
            raise UserError(
                "cannot serve with --cors * and without a key",
                cause="every page that you open could use the model and read its answers",
                fix=f"set {KEY_VARIABLE} or --api-key, or name the origins",
            )
        for origin in self.cors:
            if origin != "*" and origin.rstrip("/").count("/") != 2:
                raise UserError(
                    f"invalid --cors {origin}",
                    cause="an origin is a scheme, a host and a port",
                    fix="--cors https://chat.example.org, or --cors http://localhost:3000",
                )


def serve_model(options: ServeOptions, config: Config) -> None:
    """Load the model and serve it until a signal ends the server."""
    check_extra()
    options.check()

    from traitcli.serving.http_server import open_socket

    # Loading a model takes seconds to minutes, so what can be checked before is.
    source = VectorSource(config, None, options.traits, None)
    vectors = source.load()
    read_rules(options.stop_on, "stop", source, source.chosen(vectors))
    if options.record is not None:
        check_output_folder(options.record, "--record")
    with open_socket(options.host, options.port) as listener:
        _serve(options, config, listener)


def check_extra() -> None:
    """Raise UserError unless the packages of `traitcli[serve]` are installed."""
    for name in ("starlette", "uvicorn", "prometheus_client"):
        if find_spec(name) is None:
            raise UserError(
                "serve needs packages that are not installed",
                cause=f"there is no {name}",
                fix="pip install 'traitcli[serve]'",
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _serve(options: ServeOptions, config: Config, listener: socket.socket) -> None:
    from traitcli.generation.live_batch import LiveLimits
    from traitcli.serving.app import Endpoints, make_app
    from traitcli.serving.http_server import HttpServer
    from traitcli.serving.metrics import Metrics
    from traitcli.serving.service import Service
    from traitcli.serving.token_bytes import TokenBytes

    model = open_model(config, trust=options.trust)
    limits = LiveLimits(options.slots, options.context, options.queue)
    service = Service(
        model,
        traits=options.traits or None,
        stop_on=options.stop_on,
        records=options.record,
        limits=limits,
        seconds=options.timeout,
    )
    longest = options.max_tokens or options.context
    with service:
        endpoints = Endpoints(
            service,
            Metrics(service, options.stop_on),
            config.monitor.sampling.model_copy(update={"max_new_tokens": longest}),
            TokenBytes(model.loaded.tokenizer),
            options.max_body,
        )
        has_key = options.key is not None
        server = HttpServer(
            make_app(endpoints, access_of(options)),
            endpoints,
            options.timeout,
            lambda: show_start(service, listener, has_key=has_key),
        )
        server.run([listener])
    if server.has_cut_off:
        raise TraitError(
            "the server stopped before all answers were complete",
            cause=f"it was stopped twice, or they took longer than {options.timeout:g} seconds",
            fix="wait for the answers, or lower --timeout",
        )


def open_model(config: Config, *, trust: bool) -> Model:
    """Load the model in a thread that ends, so that only the batch's own thread has helpers.

    OpenMP keeps helpers for each thread that has computed something. If there are more of them than
    cores, it lets them sleep between operations: a step of 8 answers takes 1.35 times as long.
    """
    from traitcli.api.model import Model

    opened: list[Model] = []
    problems: list[BaseException] = []

    def load() -> None:
        try:
            opened.append(Model.open(config, show_warning, trust))
        except BaseException as error:  # noqa: BLE001 - raised again below
            problems.append(error)

    # A daemon: Ctrl-C need not wait until the model is loaded.
    thread = threading.Thread(target=load, name="load", daemon=True)
    thread.start()
    thread.join()
    for problem in problems:
        raise problem
    return opened[0]


def access_of(options: ServeOptions) -> Access:
    """Who may talk to the server."""
    from traitcli.serving.guard import LOOPBACK_HOSTS, Access

    hosts = dict.fromkeys([*LOOPBACK_HOSTS, options.host])
    return Access(options.key, tuple(hosts), tuple(one.rstrip("/") for one in options.cors))


def show_start(service: Service, listener: socket.socket, *, has_key: bool) -> None:
    """Say where the server is, what it scores, and how to ask it."""
    host, port, *_ = listener.getsockname()
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    body = {
        "model": service.model,
        "messages": [{"role": "user", "content": "Hello!"}],
        "stream": True,
    }
    key = f" -H 'Authorization: Bearer '\"${KEY_VARIABLE}\"" if has_key else ""
    lines = [
        f"serving {service.model} at {address} with {service.counts.slots} slots",
        f"traits: {', '.join(service.traits) or 'none'}",
        f"try:    curl -N{key} {address}/v1/chat/completions -d '{json.dumps(body)}'",
    ]
    typer.echo("\n".join(lines), err=True)
