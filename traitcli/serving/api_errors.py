"""Errors of the HTTP interface, in the form that OpenAI's clients read."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from traitcli.errors import BusyError, LengthError, TraitError, UserError

RETRY_AFTER_SECONDS = 2
"""When a client may come back after the queue was full; OpenAI's clients then double it."""


class ApiError(Exception):
    """What a client gets instead of an answer.

    status   HTTP status
    param    the key of the request that is at fault; none for another reason
    code     a word for programs; none if the status says it all
    headers  of the response, besides the usual ones
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    @property
    def body(self) -> dict[str, Any]:
        """The error as JSON. OpenAI's form has all four keys, with null where nothing is known."""
        return {
            "error": {
                "message": self.message,
                "type": _TYPES.get(self.status, "invalid_request_error"),
                "param": self.param,
                "code": self.code,
            }
        }


_TYPES: dict[int, str] = {
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
    HTTPStatus.INTERNAL_SERVER_ERROR: "server_error",
    HTTPStatus.SERVICE_UNAVAILABLE: "server_error",
}


def is_stopping() -> ApiError:
    """Status 503: the server finishes what it has, and takes nothing new."""
    return ApiError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "the server is about to stop and takes no more requests",
        code="server_stopping",
        headers={"retry-after": str(RETRY_AFTER_SECONDS), "connection": "close"},
    )


def of_trait_error(error: TraitError) -> ApiError:
    """Status 400 for a mistake of the client, 429 if too many requests wait, else 500."""
    if isinstance(error, LengthError):
        # By this code, clients know that they must shorten the chat.
        code = "context_length_exceeded"
        return ApiError(HTTPStatus.BAD_REQUEST, one_line(error), code=code)
    if isinstance(error, UserError):
        return ApiError(HTTPStatus.BAD_REQUEST, one_line(error))
    if isinstance(error, BusyError):
        return ApiError(
            HTTPStatus.TOO_MANY_REQUESTS,
            one_line(error),
            code="rate_limit_exceeded",
            headers={"retry-after": str(RETRY_AFTER_SECONDS)},
        )
    return ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, one_line(error))


def one_line(error: TraitError) -> str:
    """Problem, cause and fix as one text, each up to 500 characters: it may quote a request."""
    problem, cause, fix = (_short(part) for part in (error.problem, error.cause, error.fix))
    text = f"{problem}: {cause}" if cause else problem
    return f"{text} (fix: {fix})" if fix else text


def _short(text: str, most: int = 500) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
