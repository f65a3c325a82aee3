"""The page at /: a chat whose tokens are colored, with lines of all traits beside it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.routing import Route

from traitcli.views.report.assets import PALETTE, STYLES, chart_library, read_asset

if TYPE_CHECKING:
    from starlette.requests import Request

_SHARED_SCRIPTS = ("record.js", "charts.js", "tokens.js")
"""Those of the report that the page needs."""
_SCRIPTS = ("api.js", "answer.js", "panel.js", "page.js")

_HEADERS = {
    # Nothing is loaded from elsewhere, and no text can become a script: the page has no inline
    # script or style, and trusted types forbid innerHTML and what is like it.
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    """A file of the page, with its media type."""

    text: str
    kind: str


def page_files() -> Mapping[str, PageFile]:
    """Path -> file. Colors, charts and styles are the report's own."""
    shared = "\n".join(map(read_asset, _SHARED_SCRIPTS))
    own = "\n".join(map(_own, _SCRIPTS))
    style = "\n".join([*map(read_asset, STYLES), _own("page.css")])
    return {
        "/": PageFile(_own("index.html"), "text/html"),
        "/page.css": PageFile(style, "text/css"),
        "/page.js": PageFile(
            f"const PALETTE = {json.dumps(PALETTE)};\n{shared}\n{own}", "text/javascript"
        ),
        "/uplot.js": PageFile(chart_library(), "text/javascript"),
    }


def page_routes() -> Iterator[Route]:
    """The routes of the files, which are read now."""
    for path, file in page_files().items():
        yield Route(path, _endpoint(file))


def _endpoint(file: PageFile) -> Callable[[Request], Awaitable[Response]]:
    async def answer(request: Request) -> Response:
        return Response(file.text, media_type=file.kind, headers=_HEADERS)

    return answer


def _own(name: str) -> str:
    return files("traitcli.serving").joinpath("page", name).read_text(encoding="utf-8")
