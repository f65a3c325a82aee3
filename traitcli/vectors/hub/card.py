"""Writes the vector card: the README.md of a repository of trait vectors, for people and for the hub."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined

from traitcli.config import EMBEDDED
from traitcli.records import POSITIONS

TAGS = ("traitcli", "trait-vector", "steering-vector")
MARKER = "<!-- Written by traitcli. What stands below this line is kept when vectors are pushed again. -->"

_NONE = "–"
_LONGEST = 300
"""Characters of a text from a header that are shown."""
_EMBEDDED_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_MARKDOWN = re.compile(r"([\\`*_\[\]|~$:@^=]|(?<=www)\.)", re.IGNORECASE)
_FRONT = re.compile(r"---\n(.*?)^---[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Kept:
    """What a card's owner has added, which a new card keeps.

    front  front matter: the licence, more tags, …
    notes  Markdown below the marker
    """

    front: Mapping[str, Any] = field(default_factory=dict)
    notes: str = ""


def read_card(text: str) -> Kept | None:
    """What to keep of a README.md; none if somebody else wrote it. One without a body is nobody's."""
    text = text.replace("\r\n", "\n")
    found = _FRONT.match(text)
    body = text[found.end() :] if found else text
    above, marker, notes = body.partition(MARKER)
    if above.strip() and not marker:
        return None
    try:
        front = yaml.safe_load(found.group(1)) if found else None
    except yaml.YAMLError:
        front = None
    return Kept(front if isinstance(front, dict) else {}, notes.strip())


def make_card(headers: Sequence[Mapping[str, Any]], repo: str, kept: Kept) -> str:
    """The card of a repository that holds these vectors, all of one model; the same input gives the same text.

    `headers` are those of `read_header`; their traits and `repo` are names that have been checked.
    Whatever else a header says is shown as plain text, whatever it holds.
    """
    ranked = sorted(headers, key=lambda header: str(header["trait"]))
    settings = _mapping(_mapping(ranked[0]["provenance"]).get("run_settings"))
    model = _model_id(settings)
    rows = [_row(header) for header in ranked]
    example = next(
        (header for header in ranked if _quality(header).get("verdict") == "good"), ranked[0]
    )
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_inert,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    page = environment.from_string(
        files(__package__).joinpath("card.md.j2").read_text(encoding="utf-8")
    ).render(
        front=_front_matter(model, kept.front),
        model=ranked[0]["model"],
        model_id=model or ranked[0]["model"],
        revision=settings.get("model.revision") or "not pinned when the vectors were made",
        shape=_shape(ranked),
        rows=rows,
        origins=_origins(ranked),
        doubtful=", ".join(
            f"{row['trait']} ({row['verdict']})" for row in rows if row["verdict"] != "good"
        ),
        repo=repo,
        example=_example(example),
        marker=MARKER,
        notes=kept.notes,
    )
    return f"{page.rstrip()}\n"


def _front_matter(model: str | None, kept: Mapping[str, Any]) -> str:
    """The YAML that the hub reads; the licence is the owner's to choose, so it is only kept."""
    more = kept.get("tags")
    tags = [*TAGS, *(tag for tag in (more if isinstance(more, list) else []) if tag not in TAGS)]
    front = {"library_name": "traitcli", "tags": tags} | ({"base_model": model} if model else {})
    return yaml.safe_dump(
        front | {key: value for key, value in kept.items() if key not in front}, sort_keys=False
    )


def _model_id(settings: Mapping[str, Any]) -> str | None:
    """The model's name on the hub, if it came from there."""
    name = settings.get("model.id")
    if name == EMBEDDED:
        return _EMBEDDED_HUB_ID
    from_hub = isinstance(name, str) and _HUB_ID.fullmatch(name) and not Path(name).exists()
    return str(name) if from_hub else None


def _row(header: Mapping[str, Any]) -> dict[str, str]:
    """A vector's line in both tables, all of it text."""
    quality = _quality(header)
    kept = "positive_kept", "negative_kept"
    return {
        "trait": str(header["trait"]),
        "verdict": str(quality.get("verdict") or "not measured"),
        "reason": str(quality.get("verdict_reason") or "no reason is given"),
        "layer": str(header["layer"]),
        "auroc": _with_interval(quality, "auroc", "{:.2f}"),
        "d": _with_interval(quality, "d", "{:.1f}"),
        "contrast": _number(quality.get("contrast"), "{:+.0f}"),
        "kept": " + ".join(_number(quality.get(key), "{:.0f}") for key in kept),
        "method": str(header["method"]),
        "position": str(quality.get("position") or _NONE),
        "judge": str(quality.get("judge") or _NONE),
        "judge_auroc": _number(quality.get("judge_auroc"), "{:.2f}"),
        "filter": str(quality.get("filter") or _NONE),
        "held_out": _number(quality.get("evaluation_rollouts"), "{:.0f}"),
    }


def _example(header: Mapping[str, Any]) -> dict[str, Any]:
    """What the card's code names: goes into code blocks, so nothing in it may be other than it should."""
    position, layer = _quality(header).get("position"), header["layer"]
    whole = layer if isinstance(layer, int) else 1
    return {
        "trait": header["trait"],
        "position": position if position in POSITIONS else POSITIONS[0],
        "layer": whole,
        "block": max(whole - 1, 0),
    }


def _shape(headers: Sequence[Mapping[str, Any]]) -> str:
    quality = _quality(headers[0])
    rows, hidden = (_number(quality.get(key), "{:.0f}") for key in ("rows", "hidden_size"))
    return f"float32 [{rows}, {hidden}]: rows, hidden size"


def _origins(headers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Settings and versions, once for all traits that share them."""
    groups: dict[str, dict[str, Any]] = {}
    for header in headers:
        origin = _mapping(header["provenance"])
        settings = dict(_mapping(origin.get("run_settings")))
        if settings.get("model.id") not in (None, EMBEDDED) and not _model_id(settings):
            settings["model.id"] = Path(
                str(settings["model.id"])
            ).name  # where it lay is nobody's business
        versions = {
            f"version of {name}": value for name, value in _mapping(origin.get("versions")).items()
        }
        told = [(str(key), _told(value)) for key, value in (settings | versions).items()]
        group = groups.setdefault(json.dumps(told), {"traits": [], "settings": told})
        group["traits"].append(str(header["trait"]))
    return [
        group | {"traits": ", ".join(group["traits"])}
        for group in groups.values()
        if group["settings"]
    ]


def _told(value: Any) -> str:
    return "not set" if value is None else str(value)


def _with_interval(quality: Mapping[str, Any], key: str, form: str) -> str:
    low, high = (_number(quality.get(f"{key}_{end}"), form) for end in ("low", "high"))
    value = _number(quality.get(key), form)
    return value if _NONE in (low, high, value) else f"{value} [{low}, {high}]"


def _number(value: Any, form: str) -> str:
    """A number as text; a dash for whatever is none, or not finite."""
    is_number = (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    )
    return form.format(value) if is_number else _NONE


def _quality(header: Mapping[str, Any]) -> Mapping[str, Any]:
    return _mapping(header["quality"])


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _inert(value: Any) -> Any:
    """One line in which no sign means anything to Markdown; the template's autoescape does the same for HTML.

    What hides or reorders text becomes a replacement character.
    """
    if hasattr(value, "__html__"):  # marked safe in the template
        return value
    text = " ".join(str(value).split())
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    return _MARKDOWN.sub(
        r"\\\1", "".join(sign if sign.isprintable() else "\ufffd" for sign in text)
    )
