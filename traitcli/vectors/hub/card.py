"""Writes the vector card: the README.md of a repository of trait vectors."""

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
from traitcli.vectors.verdict import SHOWN

TAGS = ("traitcli", "trait-vector", "steering-vector")
# Cards on the hub hold this text, so it must not change: a push would take them for foreign ones.
MARKER = (
    "<!-- Written by traitcli. What stands below this line is kept "
    "when vectors are pushed again. -->"
)

_NONE = "–"
_MAX_TEXT = 300
"""Characters of a text from a header that are shown."""
_EMBEDDED_HUB_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_MARKDOWN = re.compile(r"([\\`*_\[\]|~$:@^=]|(?<=www)\.)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class OwnersPart:
    """What the owner of a card has added, which a new card keeps.

    front_matter  YAML fields for the hub: the license, more tags, …
    notes         Markdown below the marker
    """

    front_matter: Mapping[str, Any] = field(default_factory=dict)
    notes: str = ""


def read_card(text: str) -> OwnersPart | None:
    """What to keep of a README.md; None if traitcli did not write it.

    A README without a body is accepted: the hub creates one that holds the license alone.
    """
    from huggingface_hub import RepoCard
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    text = text.replace("\r\n", "\n")
    block = REGEX_YAML_BLOCK.match(text)
    body = text[block.end() :] if block else text
    above, marker, notes = body.partition(MARKER)
    if above.strip() and not marker:
        return None
    front_matter: dict[str, Any] = {}
    if block:
        # front matter that is no YAML mapping of names is dropped: the hub cannot read it either
        try:
            front_matter = RepoCard(text).data.to_dict()  # type: ignore[no-untyped-call]
        except (yaml.YAMLError, ValueError, TypeError):
            front_matter = {}
    return OwnersPart(front_matter, notes.strip())


def make_card(headers: Sequence[VectorHeader], repo: str, owners: OwnersPart) -> str:
    """The card of a repository that holds these vectors, all of one model.

    The same input gives the same text. The traits and `repo` are names that have been checked; any
    other text of a header is shown as plain text, whatever it holds.
    """
    # in order of the traits: a push of unchanged vectors must give an unchanged card
    ranked = sorted(headers, key=lambda header: header.trait)
    settings = _mapping(ranked[0].provenance.get("run_settings"))
    model = _model_id(settings)

    rows = [_row(header) for header in ranked]

    # readers copy the commands of the card, so these should show a vector that works
    example = next((header for header in ranked if header.quality.verdict in SHOWN), ranked[0])

    # autoescape and finalize: headers come from files of anyone, and a card is rendered as HTML
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_as_plain_text,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    page = environment.from_string(
        files(__package__).joinpath("card.md.j2").read_text(encoding="utf-8")
    ).render(
        front=_front_matter(model, owners.front_matter),
        model=ranked[0].model,
        model_id=model or ranked[0].model,
        revision=settings.get("model.revision") or "not pinned when the vectors were made",
        shape=_shape(ranked),
        rows=rows,
        origins=_origins(ranked),
        doubtful=", ".join(
            f"{row['trait']} ({row['verdict']})" for row in rows if row["verdict"] not in SHOWN
        ),
        repo=repo,
        example=_example(example),
        marker=MARKER,
        notes=owners.notes,
    )
    return f"{page.rstrip()}\n"


def _front_matter(model: str | None, kept: Mapping[str, Any]) -> str:
    """The YAML that the hub reads. It sets no license: that is the owner's choice."""
    from huggingface_hub import CardData

    # the owner edits this part by hand, so it may hold anything
    own_tags = kept.get("tags")
    own_tags = own_tags if isinstance(own_tags, list) else []
    tags = [*TAGS, *(tag for tag in own_tags if tag not in TAGS)]
    ours = {"library_name": "traitcli", "tags": tags} | ({"base_model": model} if model else {})
    return CardData(**(ours | {key: kept[key] for key in kept if key not in ours})).to_yaml()


def _model_id(settings: Mapping[str, Any]) -> str | None:
    """The model's name on the hub, if the model came from there."""
    name = settings.get("model.id")
    if name == EMBEDDED:
        return _EMBEDDED_HUB_ID
    # a folder org/name wins over the hub's model of that name when a config is loaded
    from_hub = isinstance(name, str) and _HUB_ID.fullmatch(name) and not Path(name).exists()
    return str(name) if from_hub else None


def _row(header: VectorHeader) -> dict[str, str]:
    """A vector's row in both tables, all of it text."""
    quality = header.quality
    kept = (quality.positive_kept, quality.negative_kept)
    return {
        "trait": header.trait,
        "verdict": quality.verdict or "not measured",
        "reason": quality.verdict_reason or "no reason is given",
        "layer": str(header.layer),
        "auroc": _interval(quality.auroc, quality.auroc_low, quality.auroc_high, "{:.2f}"),
        "neutral": _interval(
            quality.neutral_auroc, quality.neutral_auroc_low, quality.neutral_auroc_high, "{:.2f}"
        ),
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
    """Names for the code blocks, which are not escaped: every value is checked."""
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
            # a local path would reveal folder names
            settings["model.id"] = Path(str(settings["model.id"])).name

        versions = {
            f"version of {name}": value for name, value in _mapping(origin.get("versions")).items()
        }
        # the JSON of the settings is the key of a group: dicts cannot be keys
        rows = [(str(key), _setting(value)) for key, value in (settings | versions).items()]
        group = groups.setdefault(json.dumps(rows), {"traits": [], "settings": rows})
        group["traits"].append(header.trait)

    return [
        group | {"traits": ", ".join(group["traits"])}
        for group in groups.values()
        if group["settings"]
    ]


def _setting(value: Any) -> str:
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


def _as_plain_text(value: Any) -> Any:
    """One line without Markdown; the template's autoescape does the same for HTML.

    Characters that hide or reorder text become replacement characters.
    """
    if hasattr(value, "__html__"):  # marked safe in the template
        return value

    # one line: a line break could begin a heading, a list or a code block
    text = " ".join(str(value).split())
    text = text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…"
    return _MARKDOWN.sub(
        r"\\\1", "".join(sign if sign.isprintable() else "\ufffd" for sign in text)
    )
