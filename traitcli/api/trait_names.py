"""Finds names of runs and configs where names of traits are expected."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from traitcli.config import Config, find_config
from traitcli.errors import ConfigError, RunError
from traitcli.runs.run import Run
from traitcli.traits.definitions import find_traits


def check_trait_names(config: Config, run: Run, names: Sequence[str], command: str) -> None:
    """Raise RunError for a trait name that is the name of a run or a config.

    `command` is the command that the fix repeats, such as "inspect run".
    """
    known = {*find_traits(config.paths.traits), *run.trait_names()}
    for name in names:
        if name in known or Path(name).is_file():
            continue
        if (config.paths.runs / name / "run.json").is_file():
            kind, fix = "run", f"traitcli {command} --run {name}"
        elif name != run.name and _is_config(name):
            kind, fix = "config", f"traitcli {command} -c {name}"
        else:
            continue
        problem = f"{name} is a {kind}, not a trait"
        raise RunError(problem, cause="a trait is expected here", fix=fix)


def _is_config(name: str) -> bool:
    try:
        find_config(name)
    except ConfigError:
        return False
    return True
