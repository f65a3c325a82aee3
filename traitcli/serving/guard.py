"""Decides who may talk to the server, and turns every error into OpenAI's form."""

from __future__ import annotations

import secrets
import sys
import traceback
from collections.abc import Collection
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from traitcli.errors import TraitError
from traitcli.serving.api_errors import ApiError, of_trait_error
from traitcli.serving.openai_responses import to_bytes

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from traitcli.serving.metrics import Metrics

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "::1")
CLIENT_GONE = 499
"""What metrics count for a request whose client left before an answer; nginx has it, too."""


@dataclass(frozen=True, slots=True)
class Access:
    """Who may talk to the server.

    key      the API key; none: everybody who can reach the address
    hosts    names that a request without a key may call the server by, without a port
    origins  pages of other sites whose scripts may read answers
    """

    key: str | None
    hosts: Collection[str]
    origins: Collection[str] = ()

    def check(self, headers: Headers, path: str) -> None:
        """Raise ApiError unless these headers may read that path."""
        host = headers.get("host", "")
        # Without a key, the address is the only lock. A page on the internet may give its own name
        # this machine's address (DNS rebinding), and its script would then read the answers.
        if self.key is None and _host_name(host) not in self.hosts:
            raise ApiError(
                HTTPStatus.FORBIDDEN,
                f"the host {host[:100]!r} is not allowed; use {', '.join(self.hosts)}, or start "
                "the server with --api-key",
                code="host_not_allowed",
            )
        # Such a page could not read answers, but use the model: a browser sends requests for it.
        origin = headers.get("origin", "")
        is_own = not origin or _net_location(origin) == host
        if self.key is None and not is_own and not {"*", origin} & set(self.origins):
            raise ApiError(
                HTTPStatus.FORBIDDEN,
                f"pages of {origin[:100]!r} are not allowed; allow them with --cors",
                code="origin_not_allowed",
            )
        if self.key is not None and _needs_key(path):
            self._check_key(headers)

    def _check_key(self, headers: Headers) -> None:
        kind, _, sent = headers.get("authorization", "").partition(" ")
        # Bytes, because text that is not ASCII cannot be compared. Headers are read as Latin-1.
        own = (self.key or "").encode()
        is_right = secrets.compare_digest(sent.strip().encode("latin-1"), own)
        if kind.lower() != "bearer" or not is_right:
            raise ApiError(
                HTTPStatus.UNAUTHORIZED,
                "the API key is missing or wrong; send it as Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )


def _needs_key(path: str) -> bool:
    # The page itself holds nothing; it asks for the key. A load balancer has none.
    return path.startswith("/v1/") or path == "/metrics"


def _net_location(origin: str) -> str:
    """The host and port of an origin; "" if it has none."""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""


def _host_name(host: str) -> str:
    """The name in a Host header, without its port and the brackets of an IPv6 address."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


class Guard:
    """ASGI middleware: checks access, and answers errors of what is inside.

    Args:
        app: What is inside.
        access: Who may talk to the server.
        metrics: Counts requests by route and status.
    """

    def __init__(self, app: ASGIApp, access: Access, metrics: Metrics) -> None:
        self._app = app
        self._access = access
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            self._access.check(Headers(scope=scope), scope["path"])
            await self._app(scope, receive, note)
        # Whatever it is: a client waits, and other requests must go on.
        except Exception as error:
            found = _as_api_error(error, scope)
            # After the start there is no other way to tell the client than to close.
            if status:
                raise
            await send_error(found, note)
        finally:
            # Only names of routes: paths are the client's, and each label is a series of its own.
            route = scope.get("route")
            self._metrics.add_request(getattr(route, "path", "other"), status or CLIENT_GONE)


async def send_error(error: ApiError, send: Send) -> None:
    """Answer with an error."""
    body = to_bytes(error.body)
    headers = {
        "content-type": "application/json",
        "content-length": str(len(body)),
        **error.headers,
    }
    await send(
        {
            "type": "http.response.start",
            "status": error.status,
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": body})


def _as_api_error(error: Exception, scope: Scope) -> ApiError:
    if isinstance(error, ApiError):
        return error
    if isinstance(error, TraitError):
        return of_trait_error(error)
    if isinstance(error, HTTPException):
        return ApiError(error.status_code, _explain(error, scope), headers=error.headers)
    _print_place(error)
    return ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, "the server made a mistake")


def _explain(error: HTTPException, scope: Scope) -> str:
    """What is wrong with a path or a method; Starlette says only the name of the status."""
    path = scope["path"][:100]
    if error.status_code == HTTPStatus.NOT_FOUND:
        return f"there is no {path!r}; the API is under /v1, for example /v1/chat/completions"
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return f"{path!r} does not take {scope['method'][:20]}"
    return error.detail


def _print_place(error: Exception) -> None:
    """Say on stderr where an unexpected error was raised, without its text."""
    # Its text may quote a prompt, and prompts are kept by --record alone.
    places = traceback.extract_tb(error.__traceback__)
    where = "".join(f" at {place.filename}:{place.lineno}" for place in places[-1:])
    sys.stderr.write(f"error: {type(error).__name__}{where}; open an issue\n")
