"""The report's page: one HTML file that shows all of it, offline and by itself."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from traitcli.files import write_atomic
from traitcli.records import Report
from traitcli.views.palette import ABOVE, BELOW, FAINT, LIMIT
from traitcli.views.report.contents import contents
from traitcli.views.report.packing import pack_record

SCRIPTS = ("record.js", "charts.js", "pane.js", "vectors.js", "runs.js", "report.js")
"""Joined in this order into one script."""

_MARKUP_AS_UNICODE = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&"}


def write_page(path: Path, report: Report) -> None:
    """Writes the page, replacing the file at `path` in one step; raises TraitError when it cannot.

    Only what the page shows goes in, so no local path travels with a report that is sent on.
    """
    style = "\n".join(_asset(name) for name in ("uplot/uplot.min.css", "report.css"))
    script = "\n".join(_asset(name) for name in SCRIPTS)
    library = f"/*!\n{_asset('uplot/LICENSE').strip()}\n*/\n{_asset('uplot/uplot.min.js')}"
    held = contents(report)
    palette = {"below": BELOW, "above": ABOVE, "faint": FAINT, "limit": LIMIT}
    told = _rounded({**held, "records": []}) | {
        "records": list(map(pack_record, held["records"])),
        "palette": palette,
    }
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(
        _asset("report.html.j2")
    )
    page = template.render(
        policy=_policy([script, library], style),
        style=style,
        script=script,
        library=library,
        data=_inert_json(told),
        made_at=report.made_at,
    )
    write_atomic(path, page)


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _rounded(value: Any) -> Any:
    """Six digits of every float."""
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}")
    return value


def _inert_json(value: Any) -> str:
    """JSON that no HTML parser takes for markup: pure ASCII without `<`, `>` or `&`.

    ASCII also keeps U+2028 and lone surrogates, which a file in UTF-8 could not hold, as escapes.
    """
    return json.dumps(value, allow_nan=False, separators=(",", ":")).translate(_MARKUP_AS_UNICODE)


def _policy(scripts: list[str], style: str) -> str:
    """Nothing may be loaded from anywhere, and only our own scripts and style may run."""
    return (
        f"default-src 'none'; script-src {' '.join(map(_source_hash, scripts))}; style-src {_source_hash(style)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _source_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
