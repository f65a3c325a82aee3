"""Reads prompt sets: prompts that are monitored one after another, and what each should show."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from traitcli.config import Section
from traitcli.errors import ConfigError, UserError, suggest
from traitcli.faults import format_faults
from traitcli.files import explain_unreadable, join_surrogates, parse_lines, read_text
from traitcli.shipped import find_shipped, list_shipped
from traitcli.yaml_files import read_yaml

Shows = Literal["positive", "negative", "both"]

_FORM = "write a list of texts, or prompts: [{prompt: …, trait: …, shows: positive}, …]"


class SetPrompt(Section):
    """One prompt of a set."""

    prompt: Annotated[str, Field(min_length=1)]
    """The user's message."""
    trait: str = ""
    """The trait that the answer should show."""
    shows: Shows | None = None
    """Which side of the trait the answer should show: positive, negative, or both."""
    system: str | None = None
    """A system message, instead of the config's."""


class PromptSet(Section):
    """Prompts that are monitored one after another."""

    name: str = ""
    """Part of the name of the record file."""
    description: str = ""
    """What the set is for."""
    prompts: tuple[SetPrompt, ...]
    """In the order in which the model answers them."""


def load_prompt_set(source: str) -> PromptSet:
    """Read a set by path, or by name from `configs/prompts` or the shipped sets.

    A list of texts is a set too, and so are a text file with one prompt a line and JSON lines.

    Raises ConfigError when the file is not a prompt set, and UserError when no set has this path or
    name.
    """
    path = _find(source)
    data = _read(path)
    if isinstance(data, list):
        # Entries that are not strings go on unchanged: validation names their faults.
        data = {"prompts": [{"prompt": one} if isinstance(one, str) else one for one in data]}
    if not isinstance(data, dict):
        raise _invalid(path, "expected a list or a mapping")
    try:
        found = PromptSet.model_validate({"name": path.stem} | data)
    except ValidationError as error:
        raise _invalid(path, format_faults(error, PromptSet)) from None
    if not found.prompts:
        raise _invalid(path, "it has no prompts")
    return found


def _read(path: Path) -> Any:
    """The set in a file: YAML or JSON, JSON lines, or one prompt a line."""
    suffix = path.suffix.lower()
    if suffix not in {".txt", ".jsonl", ".ndjson", ""}:
        return read_yaml(path)
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise _invalid(path, explain_unreadable(error)) from None
    if suffix not in {".jsonl", ".ndjson"}:
        return [join_surrogates(line.strip()) for line in text.split("\n") if line.strip()]

    prompts = []
    for number, value in parse_lines(text):
        if isinstance(value, ValueError):
            raise _invalid(path, f"line {number}: {explain_unreadable(value, is_line=True)}")
        prompts.append(value)
    return prompts


def _invalid(path: Path, cause: str) -> ConfigError:
    return ConfigError(f"{path} is not a valid prompt set", cause=cause, fix=_FORM)


def _find(source: str) -> Path:
    # A user's own set may replace a shipped one of the same name.
    paths = [
        Path(source),
        Path("configs/prompts") / f"{source}.yaml",
        find_shipped("configs/prompts") / f"{source}.yaml",
    ]
    for path in paths:
        with suppress(OSError):  # a prompt in place of a set may be too long for a file name
            if path.is_file():
                return path

    names = sorted(path.stem for path in list_shipped("configs/prompts", "*.yaml"))
    hint = suggest(Path(source).stem, names)
    raise UserError(
        f"no prompt set {source}",
        cause="there is no such file, and no shipped set has this name",
        fix=f"{hint} sets: {', '.join(names)}".strip(),
    )
