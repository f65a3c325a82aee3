"""Reads YAML safely: no tags, no YAML 1.1 surprises, no alias bombs."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import yaml

from traitcli.errors import ConfigError
from traitcli.files import explain_unreadable, join_surrogates, read_text

_MAX_BYTES = 2**20
_MAX_NODES = 1_000_000
"""Maximum values after aliases are expanded: ten lines of aliases can expand to 10⁹ values."""


def read_yaml(path: Path) -> Any:
    """Parse a YAML file safely. Raises ConfigError, which names the line of a syntax error."""
    try:
        # A data file named by mistake may be large, and PyYAML is slow.
        if path.stat().st_size > _MAX_BYTES:
            cause = f"it has more than {_MAX_BYTES:,} bytes"
            raise ConfigError(
                f"{path} is too large", cause=cause, fix="name a file of settings or a definition"
            )
        return parse_yaml(read_text(path))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(
            f"{path} is not YAML", cause=f"{where}{error.problem}", fix="correct that line"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} is not YAML", cause=_explain(error), fix="save it as UTF-8 YAML"
        ) from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}", cause=explain_unreadable(error)) from None


def _explain(error: yaml.YAMLError | UnicodeDecodeError) -> str:
    return explain_unreadable(error) if isinstance(error, UnicodeDecodeError) else str(error)


def parse_yaml(text: str) -> Any:
    """Parse YAML in which `0_10` and `2025-01-31` are strings; YAML 1.1 reads 8 and a date.

    Raises YAMLError, also for text that is nested too deep or whose aliases expand too far.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - it is a SafeLoader
    except RecursionError:
        raise yaml.YAMLError("nested too deep") from None
    except ValueError as error:
        # PyYAML lets these through: a number of thousands of digits, an invalid character escape.
        raise yaml.YAMLError(str(error)) from None


_INT = "tag:yaml.org,2002:int"
_DATE = "tag:yaml.org,2002:timestamp"


def _is_kept(resolver: tuple[str, Any]) -> bool:
    """Whether a (tag, pattern) of PyYAML is used; integers get another pattern, dates none."""
    return resolver[0] not in {_INT, _DATE}


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2 integers, no dates, and an error for duplicate keys."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML's own name and type
        first: list(filter(_is_kept, resolvers))
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None and _expanded_size(node, {}) > _MAX_NODES:
            raise yaml.constructor.ConstructorError(
                None, None, "its aliases expand to too many values", node.start_mark
            )
        return node

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> str:
        return join_surrogates(super().construct_scalar(node))

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        seen: set[str] = set()
        for key in keys:
            if key.value in seen:
                problem = f"duplicate key {key.value}"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(_INT, re.compile(r"[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789"))


def _expanded_size(node: yaml.Node, known: dict[int, float]) -> float:
    """Number of values after aliases are expanded; infinite for a node that contains itself."""
    if id(node) in known:
        return known[id(node)]
    # Set before the children are counted: a node that contains itself finds this value.
    known[id(node)] = math.inf
    size = 1.0
    for child in node.value if isinstance(node, yaml.CollectionNode) else ():
        for part in child if isinstance(child, tuple) else (child,):
            size += _expanded_size(part, known)
    known[id(node)] = size
    return size
