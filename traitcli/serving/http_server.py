"""Runs the HTTP interface until a signal comes, and then lets the last answers end."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from traitcli.errors import UserError

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from traitcli.serving.app import Endpoints

_STALLED_SECONDS = 60
"""How long a connection may take nothing of what it was sent."""
_GRACE_SECONDS = 10
"""For clients to read the end of answers that are complete."""


def open_socket(host: str, port: int) -> socket.socket:
    """Take an address, so that it is known to be free before a model is loaded.

    Args:
        host: A name or an address of this machine.
        port: 0 takes any free one.

    Returns:
        A socket that does not listen yet.

    Raises:
        UserError: The address is not one of this machine, or it is in use.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        opened = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _no_address(host, port, error) from None
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # Connections inherit it: one whose client has stopped to read would stay for ever.
            milliseconds = _STALLED_SECONDS * 1000
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        opened.bind(address)
    except OSError as error:
        opened.close()
        raise _no_address(host, port, error) from None
    return opened


def _no_address(host: str, port: int, error: OSError) -> UserError:
    return UserError(
        f"cannot serve on {host}:{port}",
        cause=error.strerror or str(error),
        fix="choose another --port, or another --host",
    )


class HttpServer(uvicorn.Server):
    """Serves until SIGTERM or Ctrl-C: answers that run then are finished, and new ones get a 503.

    A second signal stops at once.

    Args:
        app: What answers.
        endpoints: Its state.
        drain_seconds: How long answers may take to end.
        on_start: Called when requests are taken.

    Example:
        with open_socket("127.0.0.1", 8000) as listener:
            HttpServer(app, endpoints, 60, print).run([listener])
    """

    def __init__(
        self,
        app: Starlette,
        endpoints: Endpoints,
        drain_seconds: float,
        on_start: Callable[[], None],
    ) -> None:
        config = uvicorn.Config(
            app,
            # Others would be taken as soon as they are installed; this one is tested.
            http="h11",
            ws="none",
            lifespan="off",
            # Nothing is logged: the guard says what clients do not see.
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        super().__init__(config)
        self._endpoints = endpoints
        self._drain_seconds = drain_seconds
        self._on_start = on_start
        self.has_cut_off = False
        """Whether it stopped before all answers were complete."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to take requests."""
        await super().startup(sockets)
        self._on_start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Obey a signal."""
        # Not kept: uvicorn would raise it again at its end, as if it had not been obeyed.
        self.stop()

    def stop(self) -> None:
        """Begin to stop, or stop at once if that has begun; may be called from any thread."""
        if self._endpoints.is_stopping:
            self.has_cut_off = self._endpoints.service.counts.running > 0
            self.should_exit = self.force_exit = True
            return
        # It goes on listening meanwhile, so that clients and load balancers learn of it.
        self._endpoints.is_stopping = True
        threading.Thread(target=self._drain, name="drain", daemon=True).start()

    def _drain(self) -> None:
        if not self._endpoints.service.drain(self._drain_seconds):
            self.has_cut_off = True
        self.should_exit = True
