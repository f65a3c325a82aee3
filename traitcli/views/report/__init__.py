"""The report: one HTML file that shows records token by token, offline and by itself."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from traitcli.files import write_atomic

SCRIPTS = ("record.js", "charts.js", "vectors.js", "report.js")
"""Joined in this order into one script."""

RECORD_KEYS = (
    *("name", "prompt", "response", "tokens", "trait_scores", "projections", "calibrated_scores", "layers"),
    *("model", "prompt_tokens", "seed", "finish_reason", "created"),
)
VECTOR_KEYS = (
    *("trait", "model", "rows", "hidden_size", "layer", "layer_choice", "verdict", "verdict_reason"),
    *("positive_total", "negative_total", "positive_kept", "negative_kept", "empty", "missing"),
    *("filter", "coherence", "judge", "judge_auroc", "positive_score", "negative_score", "contrast"),
    *("magnitude", "relative_magnitude", "auroc", "auroc_rows", "d", "evaluation_rollouts"),
)

_MARKUP_AS_UNICODE = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&"}
_LARGEST_EXACT_IN_JS = 2**53 - 1


def write_report(
    path: Path, records: Sequence[Mapping[str, Any]], vectors: Sequence[Mapping[str, Any]], made_at: str
) -> None:
    """Writes the page, replacing the file at `path` in one step; raises TraitError when it cannot.

    Only what the page shows goes in, so no local path travels with a report that is sent on.

    records  monitoring records as stored; `projections` may stand in place of `trait_scores`
    vectors  one row per trait vector, as `inspect vectors` gives them
    """
    style = _asset("report.css")
    script = "\n".join(_asset(name) for name in SCRIPTS)
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(_asset("report.html.j2"))
    page = template.render(
        policy=_policy(script, style),
        style=style,
        script=script,
        data=_inert_json({"records": _only(RECORD_KEYS, records), "vectors": _only(VECTOR_KEYS, vectors)}),
        made_at=made_at,
    )
    write_atomic(path, page)


def _asset(name: str) -> str:
    return files(__name__).joinpath(name).read_text(encoding="utf-8")


def _only(keys: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{key: _plain(row[key]) for key in keys if key in row} for row in rows]


def _plain(value: Any) -> Any:
    """What JSON.parse reads back as it was: no NaN, no integer beyond a double, six digits of a float."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, int) and abs(value) > _LARGEST_EXACT_IN_JS:
        return str(value)
    return value


def _inert_json(value: Any) -> str:
    """JSON that no HTML parser takes for markup: pure ASCII without `<`, `>` or `&`.

    ASCII also keeps U+2028 and lone surrogates, which a file in UTF-8 could not hold, as escapes.
    """
    return json.dumps(value, allow_nan=False, separators=(",", ":")).translate(_MARKUP_AS_UNICODE)


def _policy(script: str, style: str) -> str:
    """Nothing may be loaded from anywhere, and only our own script and style may run."""
    return (
        f"default-src 'none'; script-src {_source_hash(script)}; style-src {_source_hash(style)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _source_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
