"""Trait definition files: finds, reads and lints them (YAML, and the persona-vectors JSON)."""

from __future__ import annotations

import difflib
import json
import re
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from traitcli.errors import DefinitionError
from traitcli.files import parse_json
from traitcli.records import Contrast, Trait
from traitcli.shipped import find_shipped
from traitcli.traits.contrast_pairs import LabelledSet, read_responses
from traitcli.yaml_files import read_yaml

_TOLD = {"name", "description", "positive", "negative"}
_ASKED = {"adjectives", "pairs", "questions", "evaluation_questions", "judge_prompt"}
_READY = {"responses", "evaluation_responses"}
_MARKS = {"{question}": "the question", "{answer}": "the response"}
"""What a judge prompt must hold, and what is put there."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def find_traits(folder: Path) -> dict[str, Path]:
    """Trait name -> file: the built-in traits, then those in `folder`, which win; sorted by name."""
    found: dict[str, Path] = {}
    for place in (find_shipped("traits"), folder):
        for path in sorted([*place.glob("*.yaml"), *place.glob("*.yml"), *place.glob("*.json")]):
            found[path.stem] = path
    return dict(sorted(found.items()))


def select_traits(folder: Path, names: Sequence[str]) -> list[Trait]:
    """The named traits, or all; a name may also be the path of a definition file.

    Raises DefinitionError for an unknown name or a file that is not a valid trait.
    """
    return [load_trait(path) for path in locate_traits(folder, names)]


def locate_traits(folder: Path, names: Sequence[str]) -> list[Path]:
    """The definition files of the named traits, or of all; raises DefinitionError for an unknown name."""
    known = find_traits(folder)
    paths = []
    for name in names or known:
        if name in known:
            paths.append(known[name])
        elif Path(name).is_file():
            paths.append(Path(name))
        else:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise DefinitionError(
                f"no trait named {name}",
                cause=f"neither a built-in trait nor a file in {folder}/",
                fix=f"{hint}there are: {', '.join(known)}",
            )
    return list(dict.fromkeys(paths))


def load_trait(path: Path) -> Trait:
    """Read one definition file, and the ready responses that it names; raises DefinitionError naming every fault."""
    data = (
        _read_json(path)
        if path.suffix == ".json"
        else None
        if path.suffix in _DATA
        else read_yaml(path)
    )
    if not isinstance(data, Mapping):
        holds_data = isinstance(data, list) or path.suffix in _DATA
        fix = (
            f"if it holds ready responses, name it in a definition: responses: {path.name}"
            if holds_data
            else _SEE
        )
        raise DefinitionError(f"{path} is not a valid trait", cause="it is not a mapping", fix=fix)
    if "instruction" in data and "eval_prompt" in data:
        data = _from_persona_vectors(path.stem, data)
    faults = _faults(data)
    if isinstance(data.get("name"), str) and data["name"] != path.stem:
        faults.append(
            f"name: {data['name']} in a file called {path.name}: a trait is found by its file's name"
        )
    if faults:
        raise DefinitionError(
            f"{path} is not a valid trait", cause="\n".join(faults), fix=_fix(faults)
        )
    return _ready_trait(path, data) if _READY & set(data) else _asked_trait(path, data)


def _asked_trait(path: Path, data: Mapping[str, Any]) -> Trait:
    """A trait whose rollouts are generated."""
    return Trait(
        name=data.get("name", path.stem),
        description=" ".join(str(data.get("description", "")).split()),
        meaning=Contrast(data.get("positive", ""), data.get("negative", "")),
        adjectives=Contrast(**data["adjectives"]),
        pairs=tuple(Contrast(**pair) for pair in data["pairs"]),
        questions=tuple(data["questions"]),
        evaluation_questions=tuple(data.get("evaluation_questions", ())),
        judge_prompt=data["judge_prompt"],
    )


def _ready_trait(path: Path, data: Mapping[str, Any]) -> Trait:
    """A trait whose rollouts are there already, in files that lie relative to the definition."""
    sets = {}
    for key in _READY:
        named = data.get(key, [])
        files = [path.parent / name for name in ([named] if isinstance(named, str) else named)]
        sets[key] = read_responses(files) if files else LabelledSet()
    return Trait(
        name=data.get("name", path.stem),
        description=" ".join(str(data.get("description", "")).split()),
        meaning=Contrast(data.get("positive", ""), data.get("negative", "")),
        adjectives=Contrast("", ""),
        pairs=(),
        questions=sets["responses"].questions,
        evaluation_questions=sets["evaluation_responses"].questions,
        judge_prompt="",
        responses=sets["responses"].responses,
        evaluation_responses=sets["evaluation_responses"].responses,
    )


_SEE = "see docs/traits.md for the format"
_DATA = {".jsonl", ".csv"}
"""Endings of files that a definition may name, and that are none."""


def _read_json(path: Path) -> Any:
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DefinitionError(
            f"{path} is not JSON", cause=f"line {error.lineno}: {error.msg}", fix=_SEE
        ) from None
    except UnicodeDecodeError as error:
        raise DefinitionError(
            f"{path} is not JSON", cause=str(error), fix="save it as UTF-8"
        ) from None
    except ValueError as error:
        raise DefinitionError(f"{path} is not JSON", cause=str(error), fix=_SEE) from None
    except OSError as error:
        raise DefinitionError(f"cannot read {path}", cause=error.strerror or str(error)) from None


def _from_persona_vectors(name: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """The known layout `{instruction: [{pos, neg}], questions, eval_prompt}` in our words."""
    instructions = data["instruction"] if isinstance(data["instruction"], list) else []
    return {
        "name": name,
        "description": f"{name}, from a persona-vectors definition",
        "positive": name,
        "negative": f"not {name}",
        "adjectives": {"positive": name, "negative": "helpful"},
        "pairs": [
            {"positive": i.get("pos"), "negative": i.get("neg")} if isinstance(i, Mapping) else i
            for i in instructions
        ],
        "questions": data.get("questions"),
        "judge_prompt": data["eval_prompt"],
    }


def _faults(data: Mapping[str, Any]) -> list[str]:
    faults = []
    keys = _TOLD | _ASKED | _READY
    for key in sorted(set(map(str, data)) - keys):
        close = difflib.get_close_matches(key, keys, n=1)
        faults.append(f"{key}: unknown key" + (f"; did you mean {close[0]}?" if close else ""))
    required = (
        ("responses",)
        if _READY & set(data)
        else ("adjectives", "pairs", "questions", "judge_prompt")
    )
    faults += [f"{key}: required, and not given" for key in required if not data.get(key)]
    if _READY & set(data):
        faults += _ready_faults(data)
    for key in ("name", "description", "positive", "negative", "judge_prompt"):
        if key in data and not isinstance(data[key], str):
            faults.append(f"{key}: not a text")
    if isinstance(data.get("name"), str) and not _NAME.fullmatch(data["name"]):
        faults.append("name: only letters, digits, '_', '.' and '-' (it names files)")
    for key in ("questions", "evaluation_questions"):
        faults += _list_faults(
            data, key, "texts", lambda item: isinstance(item, str) and bool(item.strip())
        )
    faults += _list_faults(data, "pairs", "{positive, negative}", _is_contrast)
    if data.get("adjectives") and not _is_contrast(data["adjectives"]):
        faults.append("adjectives: not {positive, negative} with two different texts")
    if isinstance(data.get("judge_prompt"), str):
        faults += [_lacks(mark) for mark in _MARKS if mark not in data["judge_prompt"]]
    return faults


def _ready_faults(data: Mapping[str, Any]) -> list[str]:
    """What is wrong with the keys that name ready responses."""
    faults = []
    if both := sorted(_ASKED & set(data)):
        faults.append(
            f"responses: given beside {', '.join(both)}; a trait has ready responses or is asked for, not both"
        )
    for key in sorted(_READY & set(data)):
        files = [data[key]] if isinstance(data[key], str) else data[key]
        if files and not (
            isinstance(files, list)
            and all(isinstance(file, str) and file.strip() for file in files)
        ):
            faults.append(f"{key}: not a file, or a list of files")
    return faults


def _lacks(mark: str) -> str:
    return f"judge_prompt has no {mark}: the judge would never see {_MARKS[mark]}"


def _fix(faults: Sequence[str]) -> str:
    """What to add, if only that is wrong; else where to read."""
    adding = {_lacks(mark): f"add {mark} where {what} belongs" for mark, what in _MARKS.items()}
    return adding.get(faults[0], _SEE) if len(faults) == 1 else _SEE


def _list_faults(
    data: Mapping[str, Any], key: str, what: str, fits: Callable[[Any], bool]
) -> list[str]:
    if not data.get(key):
        return []
    if not isinstance(data[key], list):
        return [f"{key}: not a list of {what}"]
    return [
        f"{key} {number}: not one of {what}"
        for number, item in enumerate(data[key], 1)
        if not fits(item)
    ]


def _is_contrast(item: Any) -> bool:
    return (
        isinstance(item, Mapping)
        and set(item) == {"positive", "negative"}
        and all(isinstance(text, str) and text.strip() for text in item.values())
        and plain_words(item["positive"]) != plain_words(item["negative"])
    )


def plain_words(text: str) -> str:
    """Case, punctuation and spacing gone: what makes two questions the same question."""
    return " ".join(text.casefold().translate(str.maketrans("", "", string.punctuation)).split())
