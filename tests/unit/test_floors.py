"""The rules of the code: imports only go down, and files and functions are short."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import traitcli

FLOORS = (
    {
        *("errors", "records", "record_json", "events", "files", "shipped", "yaml_files"),
        *("faults", "output_paths", "vector_quality", "caches", "report_records"),
        "interventions",
    },
    {"settings"},
    {"config"},
    {"traits", "models", "vectors", "runs"},
    {"generation", "judging"},
    {"pipeline"},
    {"steering"},
    {"monitoring"},
    {"inspection"},
    {"scheduling", "views"},
    {"api"},
    {"serving"},
    {"cli", "inspect_scanner"},
    {"__main__", "__init__"},
)
"""From bottom to top. __init__ is the public API: it may import anything; nothing imports it."""
STAGES = ("pipeline", "steering", "monitoring", "inspection")
FLOOR = {unit: height for height, units in enumerate(FLOORS) for unit in units}
PACKAGE = Path(traitcli.__file__).parent
MODULES = {
    path.relative_to(PACKAGE).with_suffix("").as_posix(): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}

each_module = pytest.mark.parametrize("module", MODULES)


def imported_units(tree: ast.AST) -> Iterator[str]:
    """The parts of traitcli that a file imports, also in functions and under TYPE_CHECKING."""
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            names = (
                [f"traitcli.{a.name}" for a in node.names]
                if node.module == "traitcli"
                else [str(node.module)]
            )
        for name in names:
            package, _, rest = name.partition(".")
            if package == "traitcli":
                yield rest.split(".")[0] or "__init__"


def imported_modules(tree: ast.AST) -> set[str]:
    """The files of traitcli that a file imports anywhere, as keys of MODULES."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            dotted = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            dotted = [alias.name for alias in node.names]
        else:
            continue
        found.update(name.removeprefix("traitcli.").replace(".", "/") for name in dotted)
    return found & set(MODULES)


def find_circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The sorted groups of names that reach one another."""
    reached = {name: reachable(graph, name) for name in graph}
    groups = {
        tuple(sorted(other for other in reached[name] if name in reached[other]))
        for name in graph
        if name in reached[name]
    }
    return sorted(map(list, groups))


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """Every name that can be reached from `start` in one step or more."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = graph.get(waiting.pop(), set()) - found
        found |= new
        waiting.extend(new)
    return found


def test_imports_are_found_anywhere_in_a_file():
    tree = ast.parse(
        "import traitcli\n"
        "import json, traitcli.runs.run\n"
        "from traitcli import views\n"
        "if TYPE_CHECKING:\n    from traitcli.models.load import LoadedModel\n"
        "def f():\n    from traitcli.pipeline.judge import JudgingStage\n"
    )

    assert sorted(imported_units(tree)) == ["__init__", "models", "pipeline", "runs", "views"]


def test_every_part_of_the_package_has_a_floor():
    assert {module.split("/")[0] for module in MODULES} == set(FLOOR)


@each_module
def test_imports_only_go_down(module):
    own = module.split("/")[0]

    upward = {
        unit
        for unit in imported_units(TREES[module])
        if FLOOR[unit] > FLOOR[own]
        or (FLOOR[unit] == FLOOR[own] and unit != own and FLOOR[own] > 0)
    }

    assert upward == set()


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("views/")])
def test_views_listen_to_events_and_never_import_stages(module):
    assert not set(STAGES) & set(imported_units(TREES[module]))


@pytest.mark.parametrize("module", [module for module in MODULES if module.split("/")[0] in STAGES])
def test_stages_know_no_terminal(module):
    imported = {
        name.split(".")[0]
        for node in ast.walk(TREES[module])
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [a.name for a in node.names] if isinstance(node, ast.Import) else [str(node.module)]
        )
    }

    assert not imported & {"rich", "typer"}


def test_no_files_import_each_other_in_a_circle():
    graph = {name: imported_modules(tree) - {name} for name, tree in TREES.items()}

    circles = find_circles(graph)

    assert circles == []


def test_a_circle_between_files_is_found():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}

    assert find_circles(graph) == [["a", "b", "c"]]


@each_module
def test_a_file_begins_with_its_purpose(module):
    assert ast.get_docstring(TREES[module])


@each_module
def test_a_module_name_is_not_from_the_standard_library_and_not_vague(module):
    names = {part for part in module.split("/") if not part.startswith("__")}

    assert not names & (sys.stdlib_module_names | {"utils", "helpers", "common", "manager"})


@each_module
def test_a_file_has_at_most_400_lines(module):
    assert len(MODULES[module].read_text(encoding="utf-8").splitlines()) <= 400


@each_module
def test_a_function_has_at_most_60_lines(module):
    lengths = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(TREES[module])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }

    assert {name: length for name, length in lengths.items() if length > 60} == {}
