"""Reads YAML safely: no tags, no surprises of YAML 1.1, nothing that unfolds to more than was written."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from traitcli.errors import ConfigError

_MOST_BYTES = 2**20
_MOST_NODES = 1_000_000
"""What aliases may unfold to: ten lines of them can stand for a thousand million values."""


def read_yaml(path: Path) -> Any:
    """Parse a YAML file safely; a syntax fault names its line."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            cause = f"it has more than {_MOST_BYTES:,} bytes"
            raise ConfigError(
                f"{path} is too large", cause=cause, fix="name a file of settings or a definition"
            )
        return parse_yaml(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(
            f"{path} is not YAML", cause=f"{where}{error.problem}", fix="correct that line"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} is not YAML", cause=str(error), fix="save it as UTF-8 YAML"
        ) from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}", cause=error.strerror or str(error)) from None


def parse_yaml(text: str) -> Any:
    """Safe YAML in which `0_10` and `2025-01-31` are texts: YAML 1.1 makes them the number 8 and a date.

    Raises YAMLError, also for what is nested too deep or would unfold to far more than was written.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - it is a SafeLoader
    except RecursionError:
        raise yaml.YAMLError("it is nested too deep") from None
    except (
        ValueError
    ) as error:  # a number of thousands of digits, or a character that no text may hold
        raise yaml.YAMLError(str(error)) from None


_INT = "tag:yaml.org,2002:int"
_DATE = "tag:yaml.org,2002:timestamp"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the integers of YAML 1.2, without dates, and strict on keys given twice."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own name and type
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in {_INT, _DATE}]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _unfolded(node, {}) > _MOST_NODES:
            raise yaml.constructor.ConstructorError(
                None, None, "its aliases unfold to too much", node.start_mark
            )
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        seen: set[str] = set()
        for key in keys:
            if key.value in seen:
                problem = f"{key.value} stands here a second time"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(_INT, re.compile(r"[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789"))


def _unfolded(node: yaml.Node, known: dict[int, float]) -> float:
    """How many values a node stands for, aliases counted each time; without end where it holds itself."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = math.inf
    children = node.value if isinstance(node, yaml.CollectionNode) else ()
    parts = [
        part for child in children for part in (child if isinstance(child, tuple) else (child,))
    ]
    known[id(node)] = 1 + sum(_unfolded(part, known) for part in parts)
    return known[id(node)]
