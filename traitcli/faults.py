"""Puts the faults that pydantic finds into plain sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

from traitcli.errors import suggest

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

YAML_WORDS = "YAML reads yes, no, on and off as true or false"

_WANTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a string",
    "path_type": "a path",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a section of settings",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number of at least {ge:g}",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "a number of at most {le:g}",
    "literal_error": "{expected}",
    "string_too_short": "a string of at least {min_length} characters",
}
"""pydantic's type of a fault -> what a valid value is. Other types keep pydantic's message."""


def format_faults(
    error: ValidationError, kind: type[BaseModel], renamed: Mapping[str, str] | None = None
) -> str:
    """Every fault that pydantic found in a section of that kind, one line each.

    `renamed` is old key -> new key, by their whole paths.
    """
    return "\n".join(found for _, found in list_faults(error, kind, renamed or {}))


def list_faults(
    error: ValidationError, kind: type[BaseModel], renamed: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """The path of each faulty key, and the line that `format_faults` gives to it."""
    by_path: dict[str, list[ErrorDetails]] = {}
    for fault in error.errors():
        # A union reports one fault for each member that it tried, all at the same path.
        by_path.setdefault(_path(fault), []).append(fault)
    for path, faults in by_path.items():
        yield path, f"{path}: {_explain(path, faults, kind, renamed)}"


def expected(faults: Sequence[ErrorDetails]) -> str:
    """What a value should be, after all faults that one value has: "expected a whole number"."""
    wanted = []
    for fault in faults:
        if fault["type"] not in _WANTED:
            message = fault["msg"].removeprefix("Value error, ").rstrip(".")
            return message[:1].lower() + message[1:]
        context: dict[str, Any] = fault.get("ctx", {})
        text = _WANTED[fault["type"]].format_map(context)
        if text == "a string of at least 1 characters":
            text = "a string that is not empty"
        wanted.append(text)
    return f"expected {' or '.join(dict.fromkeys(wanted))}"


def _explain(
    path: str, faults: Sequence[ErrorDetails], kind: type[BaseModel], renamed: Mapping[str, str]
) -> str:
    fault = faults[0]
    if fault["type"] == "missing":
        return "required but missing"
    if fault["type"] == "extra_forbidden":
        if path in renamed:
            return f"renamed; use {renamed[path]}"
        *section, key = map(str, fault["loc"])
        hint = suggest(key, _known_keys(kind, section))
        return f"unknown key; {hint}" if hint else "unknown key"

    value = fault["input"]
    hint = suggest(value, _choices(faults)) if isinstance(value, str) else ""
    if isinstance(value, bool) and "string" in expected(faults):
        hint = f"{YAML_WORDS}: put it in quotes"
    return f"{expected(faults)}, got {_show(value)}" + (f"; {hint}" if hint else "")


def _path(fault: ErrorDetails) -> str:
    # An unknown key may look like a union tag: it has a dash, for example.
    parts = [part for part in fault["loc"][:-1] if not _is_union_tag(part)]
    last = fault["loc"][-1:]
    if fault["type"] == "extra_forbidden" or not (last and _is_union_tag(last[0])):
        parts += last
    return ".".join(map(str, parts))


def _is_union_tag(part: object) -> bool:
    """Whether pydantic put it into the location: the union member it tried, as in literal[...]."""
    is_type_name = part in {"int", "str", "float"}
    return isinstance(part, str) and ("[" in part or "-" in part or is_type_name)


def _choices(faults: Sequence[ErrorDetails]) -> list[str]:
    """The words that a key accepts; pydantic lists them as "'a', 'b' or 'c'"."""
    listed = [fault["ctx"]["expected"] for fault in faults if fault["type"] == "literal_error"]
    return " ".join(listed).split("'")[1::2]


def _known_keys(kind: type[BaseModel], location: Sequence[str]) -> list[str]:
    """The keys of the section at a location below a section of that kind."""
    section: Any = kind
    for part in location:
        if part.isdigit():
            # An index into a list: the annotation below already is that of its members.
            continue
        inner = section.model_fields[part].annotation
        members = (member for member in get_args(inner) if member is not type(None))
        section = next(members, inner)
    return list(section.model_fields)


def _show(value: object) -> str:
    """A value as YAML has it: null, true and false have other names in Python."""
    names = {None: "null", True: "true", False: "false"}
    return names[value] if value is None or isinstance(value, bool) else repr(value)
