"""The public names of traitcli and the cost of its import."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import traitcli

NAMES = [
    "ActivationSteerer",
    "Answer",
    "Model",
    "Run",
    "Stream",
    "Trait",
    "TraitError",
    "TraitWarning",
    "Vector",
    "load",
    "load_config",
    "load_trait",
    "read",
    "to_frame",
    "vector",
    "wrap",
]


def test_the_public_names_are_these():
    assert traitcli.__all__ == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_what_its_own_module_defines(name):
    found = getattr(traitcli, name)

    assert found is getattr(importlib.import_module(found.__module__), name)
    assert found.__name__ == name


def test_an_unknown_public_name_raises_attribute_error():
    with pytest.raises(AttributeError, match="module 'traitcli' has no attribute 'nothing'"):
        traitcli.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("name", "now"), [("monitor", "Model.generate"), ("load_model", "traitcli.load")]
)
def test_a_former_public_name_says_what_takes_its_place(name, now):
    with pytest.raises(ImportError, match=f"traitcli.{name} is now .*{re.escape(now)}"):
        getattr(traitcli, name)


def test_a_former_public_name_says_so_in_an_import_too():
    script = "from traitcli import Watch"

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )

    assert "traitcli.Watch is now the argument watch of Model.generate" in done.stderr


def test_the_package_says_that_it_is_typed():
    assert (Path(traitcli.__file__).parent / "py.typed").is_file()


def test_importing_the_package_loads_nothing_heavy():
    script = "import json, sys, traitcli; print(json.dumps(list(sys.modules)))"

    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout

    assert not set(json.loads(printed)) & {
        "torch",
        "transformers",
        "openai",
        "numpy",
        "pandas",
        "pydantic",
        "typer",
        "rich",
    }


def test_records_are_read_without_torch():
    script = (
        "import json, sys; from traitcli import Trait, load_config; "
        "print(json.dumps(list(sys.modules)))"
    )

    printed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout

    assert not set(json.loads(printed)) & {"torch", "transformers", "openai", "numpy"}
