"""Servers that the page at / talks to: a real one with a tiny model, and one that is hostile."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from playwright.sync_api import BrowserContext, Page, expect
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from traitcli.serving.http_server import open_socket
from traitcli.serving.page_files import page_routes


class Tabs:
    """Opens tabs of a server, and stores what no page may do: errors, and requests elsewhere."""

    def __init__(self, context: BrowserContext) -> None:
        self.context = context
        self.errors: list[str] = []

    def open(self, address: str) -> Page:
        """A new tab that shows the page, and knows the traits."""
        page = self.context.new_page()
        page.set_default_timeout(30_000)
        page.on("console", lambda message: self._logged(message.text))
        page.on("pageerror", lambda error: self.errors.append(f"error: {error}"))
        page.on("dialog", lambda dialog: self.errors.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: self._requested(request.url, address))
        page.goto(f"{address}/")
        return page

    def _logged(self, text: str) -> None:
        # Chromium says so itself of each status that is not a success.
        if not text.startswith("Failed to load resource"):
            self.errors.append(f"console: {text}")

    def _requested(self, url: str, address: str) -> None:
        if not url.startswith((f"{address}/", "data:", "blob:")):
            self.errors.append(f"request: {url}")


def ask(page: Page, text: str) -> None:
    """Send a message with Enter, and wait for the end of the answer."""
    page.locator("#message").fill(text)
    page.locator("#message").press("Enter")
    expect(page.locator("#send")).to_be_visible(timeout=30_000)


def download(page: Page) -> list[dict[str, Any]]:
    """The records of the file that the page offers."""
    expect(page.locator("#download")).to_be_enabled()
    with page.expect_download() as found:
        page.locator("#download").click()
    lines = found.value.path().read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@dataclass
class Script:
    """What a server with a script answers.

    traits  as GET /v1/traitcli/traits gives them
    chunks  of an answer, in order
    status, error, headers  of an answer that is an error
    is_cut  whether the connection ends in the middle of the answer
    may_go_on  the answer waits for it before its first chunk
    may_load  the list of traits waits for it; it is set at first
    """

    traits: list[dict[str, Any]]
    chunks: list[dict[str, Any]] = field(default_factory=list)
    status: int = 200
    error: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    is_cut: bool = False
    may_go_on: threading.Event = field(default_factory=threading.Event)
    model: str = "scripted"
    may_load: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.may_load.set()

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": self.model}]})

    async def list_traits(self, request: Request) -> Response:
        while not self.may_load.is_set():
            await asyncio.sleep(0.01)
        return JSONResponse({"object": "list", "data": self.traits})

    async def chat(self, request: Request) -> Response:
        if self.status != 200:
            body = {"error": {"message": self.error}}
            return JSONResponse(body, self.status, dict(self.headers))
        return StreamingResponse(self._stream(), media_type="text/event-stream")

    async def _stream(self) -> AsyncIterator[bytes]:
        while not self.may_go_on.is_set():
            await asyncio.sleep(0.01)
        for chunk in self.chunks:
            yield f"data: {json.dumps(chunk)}\n\n".encode()
        if self.is_cut:
            # A browser throws away what it has not read yet when a connection is lost.
            await asyncio.sleep(0.5)
            raise ConnectionError
        yield b"data: [DONE]\n\n"


@contextmanager
def scripted(script: Script) -> Iterator[str]:
    """Serve the page with answers of a script; gives the address."""
    routes = [
        Route("/v1/models", script.models),
        Route("/v1/traitcli/traits", script.list_traits),
        Route("/v1/chat/completions", script.chat, methods=["POST"]),
        *page_routes(),
    ]
    config = uvicorn.Config(
        Starlette(routes=routes), log_config=None, lifespan="off", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    with open_socket("127.0.0.1", 0) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            script.may_go_on.set()
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


def token(text: str, index: int, **scores: float) -> dict[str, Any]:
    """The chunk of a token."""
    own = {"index": index, "scores": scores}
    delta = {"content": text}
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": None, "traitcli": own}]}


def end(reason: str, **own: Any) -> dict[str, Any]:
    """The chunk that ends an answer."""
    last = {"index": 0, "delta": {}, "finish_reason": reason, "traitcli": own}
    return {"choices": [last]}
