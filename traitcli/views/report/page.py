"""Writes the report as one HTML file that needs no network."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from traitcli.files import write_atomic
from traitcli.report_records import Report
from traitcli.views.report.assets import PALETTE, STYLES, chart_library, read_asset
from traitcli.views.report.contents import contents
from traitcli.views.report.packing import pack_record

SCRIPTS = (
    *("record.js", "charts.js", "tokens.js", "pane.js", "vectors.js", "runs.js", "drift.js"),
    "report.js",
)
"""Joined in this order into one script. A module could not import the others without a server."""

_MARKUP_AS_UNICODE = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&"}


def write_page(path: Path, report: Report) -> None:
    """Write the page; an old file is replaced in one step. Raises StorageError.

    The page contains only what it shows, so no local path leaks when the file is shared.
    """
    style = "\n".join(map(read_asset, STYLES))
    script = "\n".join(map(read_asset, SCRIPTS))
    library = chart_library()
    shown = contents(report)
    # As HTML, so that they can be read without JavaScript.
    sentences = shown.pop("findings")
    data = {
        # Records are packed, which rounds them already and better.
        **_rounded({**shown, "records": []}),
        "records": list(map(pack_record, shown["records"])),
        "palette": PALETTE,
    }

    # StrictUndefined: a wrong name in the template fails instead of writing nothing.
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(
        read_asset("report.html.j2")
    )
    page = template.render(
        policy=_policy([script, library], style),
        style=style,
        script=script,
        library=library,
        data=_inert_json(data),
        made_at=report.made_at,
        findings=sentences,
    )
    write_atomic(path, page)


def _rounded(value: Any) -> Any:
    """The value with every float rounded to six digits."""
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        # No chart shows more digits, and they would make the file larger.
        return float(f"{value:.6g}")
    return value


def _inert_json(value: Any) -> str:
    """JSON that no HTML parser reads as markup: ASCII without `<`, `>` or `&`.

    ASCII also escapes lone surrogates, which a UTF-8 file cannot hold.
    """
    return json.dumps(value, allow_nan=False, separators=(",", ":")).translate(_MARKUP_AS_UNICODE)


def _policy(scripts: list[str], style: str) -> str:
    """A Content-Security-Policy: nothing is loaded, and only our own scripts and style run."""
    allowed_scripts = " ".join(map(_source_hash, scripts))
    return (
        f"default-src 'none'; script-src {allowed_scripts}; style-src {_source_hash(style)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _source_hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
