"""The HTTP interface: its routes, and what each of them answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from traitcli.record_json import to_json
from traitcli.serving.answer_events import AnswerEvents
from traitcli.serving.api_errors import ApiError, is_stopping
from traitcli.serving.bodies import read_body
from traitcli.serving.guard import Access, Guard
from traitcli.serving.metrics import CONTENT_TYPE, Metrics
from traitcli.serving.openai_requests import ApiRequest, read_chat, read_completion
from traitcli.serving.openai_responses import Responses, TokenBytes, to_bytes
from traitcli.serving.page_files import page_routes
from traitcli.serving.record_store import KEPT
from traitcli.serving.replies import RECORD_HEADER, Reply

if TYPE_CHECKING:
    from traitcli.config import SamplingConfig
    from traitcli.generation.projections import Probe
    from traitcli.serving.service import Service

ReadBody = Callable[[bytes, str, "SamplingConfig", str], ApiRequest]


def trait_row(name: str, probe: Probe) -> dict[str, Any]:
    """What a client may know of a trait; a score with a scale is −1 and +1 at the class means."""
    row = {"name": name, "layer": probe.layer, "has_scale": probe.is_calibrated}
    verdict = probe.vector.quality.verdict
    return row | {"verdict": verdict} if verdict else row


async def pass_on(request: Request, error: Exception) -> Response:
    """Leave an error to the guard, which answers all of them in one form."""
    raise error


@dataclass(slots=True)
class Endpoints:
    """What the routes answer from.

    service      what answers requests
    metrics      what is counted
    sampling     of requests that do not say; their length limit is lowered to what fits
    bytes_of     token -> its bytes
    max_body     bytes of a body at most
    is_stopping  whether new requests are refused, because the server is about to stop
    created      when the server started, in seconds since 1970
    """

    service: Service
    metrics: Metrics
    sampling: SamplingConfig
    bytes_of: TokenBytes
    max_body: int
    is_stopping: bool = False
    created: int = field(default_factory=lambda: int(time.time()))

    async def chat(self, request: Request) -> Reply:
        """Answer POST /v1/chat/completions."""
        return await self._complete(request, read_chat)

    async def completion(self, request: Request) -> Reply:
        """Answer POST /v1/completions."""
        return await self._complete(request, read_completion)

    async def models(self, request: Request) -> Response:
        """Answer GET /v1/models."""
        return JSONResponse({"object": "list", "data": [self._model]})

    async def model(self, request: Request) -> Response:
        """Answer GET /v1/models/{id}."""
        if request.path_params["id"] != self.service.model:
            raise ApiError(
                HTTPStatus.NOT_FOUND,
                f"this server has {self.service.model}",
                param="model",
                code="model_not_found",
            )
        return JSONResponse(self._model)

    async def traits(self, request: Request) -> Response:
        """Answer GET /v1/traitcli/traits: what may be scored."""
        return JSONResponse(
            {"object": "list", "data": [trait_row(*item) for item in self.service.probes.items()]}
        )

    async def record(self, request: Request) -> Response:
        """Answer GET /v1/traitcli/records/{id}."""
        name = request.path_params["id"]
        record = await asyncio.to_thread(self.service.record, name)
        if record is None:
            raise ApiError(
                HTTPStatus.NOT_FOUND,
                "no answer that has ended has this record; without --record, only the last "
                f"{KEPT} are kept",
                param="id",
                code="record_not_found",
            )
        return Response(to_bytes(to_json(record)), media_type="application/json")

    async def health(self, request: Request) -> Response:
        """Answer GET /health: 503 as soon as the server is about to stop."""
        counts = self.service.counts
        body = {
            "status": "stopping" if self.is_stopping else "ok",
            "slots": counts.slots,
            "running": counts.running,
            "waiting": counts.waiting,
        }
        status = HTTPStatus.SERVICE_UNAVAILABLE if self.is_stopping else HTTPStatus.OK
        return JSONResponse(body, status)

    async def show_metrics(self, request: Request) -> Response:
        """Answer GET /metrics."""
        return Response(self.metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def _complete(self, request: Request, read: ReadBody) -> Reply:
        if self.is_stopping:
            raise is_stopping()
        try:
            body = await read_body(request, self.max_body)
        except ClientDisconnect:
            raise ApiError(HTTPStatus.BAD_REQUEST, "the client has gone") from None
        client = request.client.host if request.client else ""
        asked = read(body, self.service.model, self.sampling, client)
        if len(asked.answers) > (most := self.service.counts.most):
            # A 429 would let the client try for ever.
            raise ApiError(
                HTTPStatus.BAD_REQUEST,
                f"{len(asked.answers)} answers were asked for, and this server takes {most} at "
                "once; ask for fewer, or start it with a larger --queue",
                param="n",
            )
        responses = Responses(asked, self.service.model, self.bytes_of)
        events = AnswerEvents(self.service, asked, self.metrics)
        return Reply(events, responses, self.metrics)

    @property
    def _model(self) -> dict[str, object]:
        return {
            "id": self.service.model,
            "object": "model",
            "created": self.created,
            "owned_by": "traitcli",
        }


def make_app(endpoints: Endpoints, access: Access) -> Starlette:
    """The application that an ASGI server runs.

    Args:
        endpoints: What the routes answer from.
        access: Who may talk to the server.
    """
    routes: list[BaseRoute] = [
        Route("/v1/chat/completions", endpoints.chat, methods=["POST"]),
        Route("/v1/completions", endpoints.completion, methods=["POST"]),
        Route("/v1/models", endpoints.models),
        Route("/v1/models/{id:path}", endpoints.model),
        Route("/v1/traitcli/traits", endpoints.traits),
        Route("/v1/traitcli/records/{id}", endpoints.record),
        Route("/health", endpoints.health),
        Route("/metrics", endpoints.show_metrics),
        *page_routes(),
    ]
    middleware = []
    if access.origins:
        # Outside of the guard: a browser asks for permission without the key, and reads errors.
        cors = Middleware(
            CORSMiddleware,
            allow_origins=list(access.origins),
            allow_methods=["GET", "POST"],
            # OpenAI's client for browsers has a dozen of its own.
            allow_headers=["*"],
            expose_headers=[RECORD_HEADER, "retry-after"],
        )
        middleware.append(cors)
    middleware.append(Middleware(Guard, access, endpoints.metrics))
    handlers = {HTTPException: pass_on}
    app = Starlette(routes=routes, middleware=middleware, exception_handlers=handlers)
    # A redirect would lead to http, also behind a proxy with TLS.
    app.router.redirect_slashes = False
    return app
