"""Writes the table of settings in configs.md from the models in traitcli/settings.py.

    python docs/make_configs.py

Replaces the text between the two marks; tests/unit/test_docs.py fails when it is stale.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from textwrap import wrap
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic_core import PydanticUndefined

from traitcli.config import Config, Section
from traitcli.settings import TemplateOptions

PAGE = Path(__file__).with_name("configs.md")
BEGIN, END = "<!-- settings: made by make_configs.py -->", "<!-- end of settings -->"
WIDTH, TYPE_WIDTH, GAP = 98, 24, 2


@dataclass(frozen=True, slots=True)
class Setting:
    """One key: its section ('' at the top), name, type, default and meaning in words."""

    section: str
    name: str
    kind: str
    default: str
    meaning: str

    @property
    def key(self) -> str:
        return f"{self.section}.{self.name}".lstrip(".")


def settings(model: Any = Config, default: Any = None, section: str = "") -> Iterator[Setting]:
    """Every key of a section, those of the sections inside it after its own."""
    inner = []
    for name, field in model.model_fields.items():
        value = field.default if default is None else getattr(default, name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            nothing = value is PydanticUndefined
            inner.append(
                (field.annotation, None if nothing else value, f"{section}.{name}".lstrip("."))
            )
            continue
        meaning = " ".join((field.description or "").split())
        yield Setting(
            section, name, _kind(field.annotation, field.metadata), _shown(value), meaning
        )
    for part in inner:
        yield from settings(*part)


def titles(model: Any = Config, section: str = "") -> dict[str, str]:
    """Section -> what its docstring says."""
    found = {section: (model.__doc__ or "").strip().splitlines()[0]}
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            found |= titles(field.annotation, f"{section}.{name}".lstrip("."))
    return found


def table() -> str:
    """All settings as text, section by section: key, type, default, meaning."""
    section_titles, keys = titles(), list(settings())
    lines: list[str] = []
    for section in dict.fromkeys(key.section for key in keys):
        title = section_titles[section]
        lines += ["", f"{section or 'at the top'}: {title[:1].lower()}{title[1:]}"]
        lines += _rows([key for key in keys if key.section == section])
    return "\n".join(["```text", *lines[1:], "```"])


def with_table(page: str) -> str:
    """The page with a fresh table between its marks."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


def _rows(keys: list[Setting]) -> list[str]:
    name, default = max(len(k.name) for k in keys), max(len(k.default) for k in keys)
    kind = min(TYPE_WIDTH, max(len(k.kind) for k in keys))
    room = WIDTH - (2 + name + kind + default + 3 * GAP)
    lines = []
    for key in keys:
        cells = [[key.name], wrap(key.kind, kind), [key.default], wrap(key.meaning, room)]
        for parts in zip_longest(*cells, fillvalue=""):
            columns = zip(parts, (name, kind, default, 0), strict=True)
            lines.append(
                ("  " + (" " * GAP).join(part.ljust(width) for part, width in columns)).rstrip()
            )
    return lines


def _kind(annotation: Any, limits: Any = ()) -> str:
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        return _kind(inner, [limit for part in more for limit in getattr(part, "metadata", [part])])
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(_kind(part) for part in get_args(annotation))
    if get_origin(annotation) is Literal:
        return ", ".join(map(str, get_args(annotation)))
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "a section"
    names: dict[Any, str] = {
        int: "integer",
        float: "number",
        str: "text",
        Path: "path",
        bool: "true, false",
        type(None): "null",
        tuple[str, ...]: "list of texts",
        get_args(TemplateOptions)[0]: "mapping",
    }
    bounds = [
        f"{sign} {getattr(limit, name)}"
        for limit in limits
        for name, sign in _SIGNS
        # Huge limits only catch slips of the finger, and would make the column wide.
        if abs(getattr(limit, name, _HUGE)) < _HUGE
    ]
    kind = names[annotation] + (f" {', '.join(bounds)}" if bounds else "")
    return kind.replace("integer > 0", "integer ≥ 1")


_HUGE = 10**9
_SIGNS = (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤"))


def _shown(value: Any) -> str:
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return "[]" if value == () else str(value) or '""'


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
