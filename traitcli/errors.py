"""The errors a user can meet, each with a problem, a cause and a fix.

TraitError                     exit code 1: something failed while running
├── UserError                  exit code 2: the user can mend it before running again
│   ├── ConfigError            a config, an override or the environment
│   ├── DefinitionError        a trait file
│   ├── ModelError             a model that cannot be found, loaded or probed
│   ├── RunError               a run directory that does not fit the command
│   └── VectorError            vectors that are missing or do not fit the model
├── JudgeError                 the judge refuses for good (a wrong key, model name or endpoint)
└── StorageError               a file cannot be written: a full disk, a folder without permission
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TraitError(Exception):
    """An error told in three lines: what happened, why, and what to do."""

    exit_code = 1

    def __init__(self, problem: str, *, cause: str = "", fix: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.cause = cause
        self.fix = fix

    def __str__(self) -> str:
        lines = [f"error: {self.problem}"]
        if self.cause:
            lines.append(_hanging("cause: ", self.cause))
        if self.fix:
            lines.append(_hanging("fix:   ", self.fix))
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        """Keep cause and fix when the error crosses a process border."""
        return _rebuild, (type(self), self.problem, self.cause, self.fix)


class UserError(TraitError):
    """A mistake of the user's, found before any work is lost."""

    exit_code = 2


class ConfigError(UserError):
    """A config file, a preset, an override or an environment variable is not valid."""


class DefinitionError(UserError):
    """A trait definition file is not valid."""


class ModelError(UserError):
    """A model cannot be found, loaded or probed."""


class RunError(UserError):
    """A run directory does not fit the command."""


class VectorError(UserError):
    """Vectors are missing or do not fit the model."""


class JudgeError(TraitError):
    """The judge refuses for good: asking again would not help."""


class StorageError(TraitError):
    """A file cannot be written."""


def suggest(name: str, known: Iterable[str]) -> str:
    """The fix for a name that is not known: the one that is nearly it, if there is one."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else "choose one of them"


def _hanging(label: str, text: str) -> str:
    return label + text.replace("\n", "\n" + " " * len(label))


def _rebuild(kind: type[TraitError], problem: str, cause: str, fix: str) -> TraitError:
    return kind(problem, cause=cause, fix=fix)
