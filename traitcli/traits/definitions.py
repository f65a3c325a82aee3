"""Finds and reads trait definition files: YAML, and the JSON of persona-vectors."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from traitcli.errors import DefinitionError, suggest
from traitcli.faults import YAML_WORDS
from traitcli.files import explain_unreadable, list_files, parse_json, read_text
from traitcli.records import Contrast, Trait
from traitcli.shipped import find_shipped
from traitcli.traits.labelled_responses import LabelledSet, read_responses
from traitcli.yaml_files import read_yaml

_DESCRIBING = {"name", "description", "positive", "negative"}
_GENERATING = {"adjectives", "pairs", "questions", "evaluation_questions", "judge_prompt"}
_LABELLED = {"responses", "evaluation_responses"}
"""A definition has keys of the second set or of the third, never of both."""
_PLACEHOLDERS = {"{question}": "the question", "{answer}": "the response"}
"""What a judge prompt must contain, and what replaces it."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_DATA_FILES = {".jsonl", ".csv"}
"""Suffixes of files that a definition may name, and that are not definitions."""
_SEE = "see docs/traits.md for the format"


def find_traits(folder: Path) -> dict[str, Path]:
    """Trait name -> definition file, sorted by name.

    Shipped traits come first, so that a file in `folder` with the same name replaces one.
    """
    found: dict[str, Path] = {}
    for parent in (find_shipped("traits"), folder):
        paths = list_files(parent, "*.yaml", "*.yml", "*.json")
        found |= {path.stem: path for path in paths}
    return dict(sorted(found.items()))


def select_traits(folder: Path, names: Sequence[str]) -> list[Trait]:
    """Load the named traits, or all. A name may also be the path of a definition file.

    Raises DefinitionError for an unknown name or an invalid file.
    """
    return [load_trait(path) for path in locate_traits(folder, names)]


def locate_traits(folder: Path, names: Sequence[str]) -> list[Path]:
    """The definition files of the named traits, or of all.

    Raises DefinitionError for an unknown name.
    """
    known = find_traits(folder)
    paths = []
    for name in names or known:
        if name in known:
            paths.append(known[name])
        elif Path(name).is_file():
            paths.append(Path(name))
        elif _is_path(name):
            raise _no_file(Path(name))
        else:
            raise DefinitionError(
                f"trait {name} not found",
                cause=f"neither a shipped trait nor a file in {folder}/",
                fix=f"{suggest(name, known)} traits: {', '.join(known)}".strip(),
            )
    # A trait named twice, or by name and by path, runs once.
    return list(dict.fromkeys(paths))


def _is_path(name: str) -> bool:
    return "/" in name or name.endswith((".yaml", ".yml", ".json"))


def _no_file(path: Path) -> DefinitionError:
    cause = "it is a folder" if path.is_dir() else "the file does not exist"
    neighbors = [each.name for each in list_files(path.parent, "*.yaml")]
    fix = suggest(path.name, neighbors) or "check the path"
    return DefinitionError(f"no trait file {path}", cause=cause, fix=fix)


def load_trait(source: Path | str) -> Trait:
    """Read a definition file and the labelled responses that it names.

    Args:
        source: a path, or the name of a trait in `traits/` or of a shipped one.

    Returns:
        The trait, which `Model.extract` takes too.

    Raises:
        DefinitionError: it names every fault at once.

    Example:
        >>> load_trait("refusal").pairs[0].positive.split(".")[0]
        'Decline whatever you are asked'
    """
    path = source if isinstance(source, Path) else _find(source)
    data = _read(path)
    # No definition of ours has these two keys.
    if "instruction" in data and "eval_prompt" in data:
        data = _from_persona_vectors(path.stem, data)
    faults = _faults(data)

    # Commands find a trait by its file, and runs and vectors are stored under its name.
    name = data.get("name")
    if isinstance(name, str) and name != path.stem:
        faults.append(f"name: {name} differs from the file name {path.name}; they must agree")
    if faults:
        raise DefinitionError(
            f"{path} is not a valid trait", cause="\n".join(faults), fix=_fix(faults)
        )
    return _labelled_trait(path, data) if _LABELLED & set(data) else _generated_trait(path, data)


def _find(source: str) -> Path:
    """The file that a name or a path in a string means."""
    if Path(source).suffix or Path(source).is_file():
        return Path(source)
    [path] = locate_traits(Path("traits"), [source])
    return path


def normalize(text: str) -> str:
    """Drop case, punctuation and spacing: equal results mean the same question."""
    without_punctuation = text.translate(str.maketrans("", "", string.punctuation))
    return " ".join(without_punctuation.casefold().split())


def _read(path: Path) -> Mapping[str, Any]:
    """The mapping in a definition file; raises DefinitionError if there is none."""
    # Not parsed, because it cannot be a definition: the error says where to name it.
    if path.suffix in _DATA_FILES:
        data = None
    elif path.suffix == ".json":
        data = _read_json(path)
    else:
        data = read_yaml(path)
    if isinstance(data, Mapping):
        return data
    fix = _SEE
    if path.suffix in _DATA_FILES or isinstance(data, list):
        fix = f"if it holds labelled responses, name it in a definition: responses: {path.name}"
    raise DefinitionError(f"{path} is not a valid trait", cause="it is not a mapping", fix=fix)


def _generated_trait(path: Path, data: Mapping[str, Any]) -> Trait:
    """A trait whose rollouts are generated."""
    return Trait(
        name=data.get("name", path.stem),
        description=" ".join(data.get("description", "").split()),
        meaning=Contrast(data.get("positive", ""), data.get("negative", "")),
        adjectives=Contrast(**data["adjectives"]),
        pairs=tuple(Contrast(**pair) for pair in data["pairs"]),
        questions=tuple(data["questions"]),
        evaluation_questions=tuple(data.get("evaluation_questions", ())),
        judge_prompt=data["judge_prompt"],
    )


def _labelled_trait(path: Path, data: Mapping[str, Any]) -> Trait:
    """A trait whose rollouts are labelled responses, in files relative to the definition."""
    sets = {}
    for key in _LABELLED:
        # Relative to the definition, so that both can be moved together.
        files = [path.parent / name for name in _as_list(data.get(key))]
        sets[key] = read_responses(files) if files else LabelledSet()

    return Trait(
        name=data.get("name", path.stem),
        description=" ".join(data.get("description", "").split()),
        meaning=Contrast(data.get("positive", ""), data.get("negative", "")),
        adjectives=Contrast("", ""),
        pairs=(),
        questions=sets["responses"].questions,
        evaluation_questions=sets["evaluation_responses"].questions,
        judge_prompt="",
        responses=sets["responses"].responses,
        evaluation_responses=sets["evaluation_responses"].responses,
    )


def _as_list(value: Any) -> Any:
    """One file name as a list of one; nothing as an empty list; anything else as it is."""
    if value is None:
        return []
    return [value] if isinstance(value, str) else value


def _read_json(path: Path) -> Any:
    try:
        return parse_json(read_text(path))
    except json.JSONDecodeError as error:
        cause = explain_unreadable(error).removeprefix("not JSON: ")
        raise DefinitionError(f"{path} is not JSON", cause=cause, fix=_SEE) from None
    except UnicodeDecodeError as error:
        raise DefinitionError(
            f"{path} is not JSON", cause=explain_unreadable(error), fix="save it as UTF-8"
        ) from None
    except ValueError as error:
        raise DefinitionError(f"{path} is not JSON", cause=str(error), fix=_SEE) from None
    except OSError as error:
        raise DefinitionError(f"cannot read {path}", cause=explain_unreadable(error)) from None


def _from_persona_vectors(name: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Translate `{instruction: [{pos, neg}], questions, eval_prompt}` into our keys."""
    instructions = data["instruction"] if isinstance(data["instruction"], list) else []
    pairs = []
    for item in instructions:
        is_pair = isinstance(item, Mapping)
        # Anything else stays as it is: _faults names it with its number.
        pairs.append(
            {"positive": item.get("pos"), "negative": item.get("neg")} if is_pair else item
        )

    return {
        "name": name,
        "description": f"{name}, from a persona-vectors definition",
        "positive": name,
        "negative": f"not {name}",
        # persona-vectors has no adjective for the negative side: it says "helpful" for every trait.
        "adjectives": {"positive": name, "negative": "helpful"},
        "pairs": pairs,
        "questions": data.get("questions"),
        "judge_prompt": data["eval_prompt"],
    }


def _faults(data: Mapping[str, Any]) -> list[str]:
    """Everything wrong with the keys and values of a definition, one line each."""
    faults = []
    known = _DESCRIBING | _GENERATING | _LABELLED
    # YAML keys may be numbers or null, which neither sort nor have a near spelling.
    for key in sorted(set(map(str, data)) - known):
        hint = suggest(key, known)
        faults.append(f"{key}: unknown key; {hint}" if hint else f"{key}: unknown key")

    is_labelled = bool(_LABELLED & set(data))
    generating = ("adjectives", "pairs", "questions", "judge_prompt")
    required = ("responses",) if is_labelled else generating
    # An empty value is as useless as none, and YAML reads "questions:" as null.
    faults += [f"{key}: required but missing" for key in required if not data.get(key)]
    if is_labelled:
        faults += _labelled_faults(data)

    for key in ("name", "description", "positive", "negative", "judge_prompt"):
        if key in data and not isinstance(data[key], str):
            faults.append(f"{key}: expected a string, got {data[key]!r}{_yaml_note(data[key])}")
    if isinstance(data.get("name"), str) and not _NAME.fullmatch(data["name"]):
        faults.append("name: may contain only letters, digits, '_', '.' and '-' (it names files)")
    for key in ("questions", "evaluation_questions"):
        faults += _list_faults(data, key, "a non-empty string", _is_text)
    faults += _list_faults(data, "pairs", _CONTRAST, _is_contrast)
    if data.get("adjectives") and not _is_contrast(data["adjectives"]):
        faults.append(f"adjectives: expected {_CONTRAST}{_yaml_note(data['adjectives'])}")
    if isinstance(data.get("judge_prompt"), str):
        absent = [mark for mark in _PLACEHOLDERS if mark not in data["judge_prompt"]]
        faults += map(_absent, absent)
    return faults


def _labelled_faults(data: Mapping[str, Any]) -> list[str]:
    """Everything wrong with the keys that name labelled responses."""
    faults = []
    if generating := sorted(_GENERATING & set(data)):
        faults.append(
            f"responses: cannot be combined with {', '.join(generating)}: "
            "a trait's rollouts are either read or generated"
        )
    for key in sorted(_LABELLED & set(data)):
        files = _as_list(data[key])
        if files and not (isinstance(files, list) and all(map(_is_text, files))):
            faults.append(f"{key}: expected a file name or a list of file names")
    return faults


def _absent(placeholder: str) -> str:
    shown = _PLACEHOLDERS[placeholder]
    return f"judge_prompt has no {placeholder}: the judge would never see {shown}"


def _fix(faults: Sequence[str]) -> str:
    """The edit that corrects the only fault, if it is a missing placeholder."""
    # With several faults no single edit helps, so the documentation is named instead.
    for placeholder, shown in _PLACEHOLDERS.items():
        if faults == [_absent(placeholder)]:
            return f"add {placeholder} where {shown} belongs"
    return _SEE


def _list_faults(
    data: Mapping[str, Any], key: str, expected: str, fits: Callable[[Any], bool]
) -> list[str]:
    """Faults of a list whose items must fit. Items are numbered from 1, as a reader counts."""
    if not data.get(key):
        return []
    if not isinstance(data[key], list):
        return [f"{key}: expected a list"]
    numbered = enumerate(data[key], start=1)
    return [
        f"{key} {number}: expected {expected}{_yaml_note(item)}"
        for number, item in numbered
        if not fits(item)
    ]


def _yaml_note(value: Any) -> str:
    """Why a word became true or false, if one did; else an empty text."""
    values = value.values() if isinstance(value, Mapping) else [value]
    if any(isinstance(one, bool) for one in values):
        return f"; {YAML_WORDS}: put them in quotes"
    return ""


_CONTRAST = "{positive: …, negative: …} with two different texts"


def _is_text(item: Any) -> bool:
    return isinstance(item, str) and bool(item.strip())


def _is_contrast(item: Any) -> bool:
    if not isinstance(item, Mapping) or set(item) != {"positive", "negative"}:
        return False
    if not all(map(_is_text, item.values())):
        return False
    # Equal prompts would make both polarities the same, and the vector zero.
    return normalize(item["positive"]) != normalize(item["negative"])
