"""Writes the vector card: the README.md of a repository of trait vectors, for people and for the hub."""

from __future__ import annotations

import json
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
from traitcli.vectors.files import VectorHeader

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


def make_card(headers: Sequence[VectorHeader], repo: str, kept: Kept) -> str:
    """The card of a repository that holds these vectors, all of one model; the same input gives the same text.

    `headers` are those of `read_header`; their traits and `repo` are names that have been checked.
    Whatever else a header says is shown as plain text, whatever it holds.
    """
    ranked = sorted(headers, key=lambda header: header.trait)
    settings = _mapping(ranked[0].provenance.get("run_settings"))
    model = _model_id(settings)
    rows = [_row(header) for header in ranked]
    example = next((header for header in ranked if header.quality.verdict == "good"), ranked[0])
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
        model=ranked[0].model,
        model_id=model or ranked[0].model,
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


def _row(header: VectorHeader) -> dict[str, str]:
    """A vector's line in both tables, all of it text."""
    quality = header.quality
    kept = (quality.positive_kept, quality.negative_kept)
    return {
        "trait": header.trait,
        "verdict": quality.verdict or "not measured",
        "reason": quality.verdict_reason or "no reason is given",
        "layer": str(header.layer),
        "auroc": _interval(quality.auroc, quality.auroc_low, quality.auroc_high, "{:.2f}"),
        "d": _interval(quality.d, quality.d_low, quality.d_high, "{:.1f}"),
        "contrast": _number(quality.contrast, "{:+.0f}"),
        "kept": " + ".join(_number(count, "{}") for count in kept),
        "method": header.method,
        "position": quality.position or _NONE,
        "judge": quality.judge or _NONE,
        "judge_auroc": _number(quality.judge_auroc, "{:.2f}"),
        "filter": quality.filter or _NONE,
        "held_out": _number(quality.evaluation_rollouts, "{}"),
    }


def _example(header: VectorHeader) -> dict[str, Any]:
    """What the card's code names: goes into code blocks, so nothing in it may be other than it should."""
    position = header.quality.position
    return {
        "trait": header.trait,
        "position": position if position in POSITIONS else POSITIONS[0],
        "layer": header.layer,
        "block": max(header.layer - 1, 0),
    }


def _shape(headers: Sequence[VectorHeader]) -> str:
    quality = headers[0].quality
    layers, hidden = _number(quality.layer_count, "{}"), _number(quality.hidden_size, "{}")
    return f"float32 [{layers}, {hidden}]: layers, hidden size"


def _origins(headers: Sequence[VectorHeader]) -> list[dict[str, Any]]:
    """Settings and versions, once for all traits that share them."""
    groups: dict[str, dict[str, Any]] = {}
    for header in headers:
        origin = header.provenance
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
        group["traits"].append(header.trait)
    return [
        group | {"traits": ", ".join(group["traits"])}
        for group in groups.values()
        if group["settings"]
    ]


def _told(value: Any) -> str:
    return "not set" if value is None else str(value)


def _interval(value: float | None, low: float | None, high: float | None, form: str) -> str:
    """`0.94 [0.88, 0.97]`, or the value alone."""
    shown = _number(value, form)
    if None in (value, low, high):
        return shown
    return f"{shown} [{_number(low, form)}, {_number(high, form)}]"


def _number(value: float | None, form: str) -> str:
    return _NONE if value is None else form.format(value)


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
