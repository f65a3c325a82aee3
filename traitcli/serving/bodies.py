"""Reads the body of an HTTP request, up to a limit of size and time."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING

from traitcli.serving.api_errors import ApiError

if TYPE_CHECKING:
    from starlette.requests import Request

_SECONDS = 60.0
"""For a body to arrive; a client that sends a byte now and then would hold its place for ever."""
# The rest of the body would otherwise be read, and thrown away.
_CLOSE = {"connection": "close"}


async def read_body(request: Request, limit: int, seconds: float = _SECONDS) -> bytes:
    """The body of a request.

    Args:
        request: The request.
        limit: Bytes at most.
        seconds: Time at most.

    Raises:
        ApiError: The body is too large, or it takes too long.
        ClientDisconnect: The client has gone.
    """
    announced = request.headers.get("content-length", "")
    # h11 has checked that it is a number.
    if announced.isdigit() and int(announced) > limit:
        raise _too_large(limit)
    data = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for part in request.stream():
                data += part
                if len(data) > limit:
                    raise _too_large(limit)
    except TimeoutError:
        raise ApiError(
            HTTPStatus.REQUEST_TIMEOUT,
            f"the body did not arrive in {seconds:g} seconds",
            headers=_CLOSE,
        ) from None
    return bytes(data)


def _too_large(limit: int) -> ApiError:
    return ApiError(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        f"the body is larger than {limit} bytes; the server's --max-body sets this",
        code="body_too_large",
        headers=_CLOSE,
    )
