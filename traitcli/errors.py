"""The errors a user can meet, each with a problem, a cause and a fix.

TraitError                     exit code 1: something failed at run time
├── UserError                  exit code 2: a mistake that the user can correct
│   ├── ConfigError            a config, an override or the environment
│   ├── DefinitionError        a trait file
│   ├── LengthError            a prompt and its answer that do not fit
│   ├── ModelError             a model that cannot be found, loaded or probed
│   ├── RunError               a run folder that does not fit the command
│   └── VectorError            vectors that are missing or do not fit the model
├── BusyError                  too many requests wait, or no more are taken
├── JudgeError                 the judge fails permanently (a wrong key, model name or endpoint)
└── StorageError               a file cannot be written: a full disk, a folder without permission

TraitWarning is the category of Python warnings.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TraitError(Exception):
    """An error with up to three lines: what happened, why, and what to do.

    Example:
        >>> print(ConfigError("config x not found", cause="no such file", fix="check the path"))
        error: config x not found
        cause: no such file
        fix:   check the path
    """

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
        """Keep cause and fix when the error crosses a process boundary."""
        # Exception pickles its positional arguments only, and would lose cause and fix.
        return _rebuild, (type(self), self.problem, self.cause, self.fix)


class UserError(TraitError):
    """A user's mistake, found before any work is lost."""

    # The code of shells and of Typer for a command line that is wrong.
    exit_code = 2


class ConfigError(UserError):
    """A config file, a preset, an override or an environment variable is not valid."""


class DefinitionError(UserError):
    """A trait definition file is not valid."""


class LengthError(UserError):
    """A prompt and its longest answer have more tokens than fit."""


class ModelError(UserError):
    """A model cannot be found, loaded or probed."""


class RunError(UserError):
    """A run folder does not fit the command."""


class VectorError(UserError):
    """Vectors are missing or do not fit the model."""


class BusyError(TraitError):
    """A request is not taken now: too many wait, or the model is about to stop."""


class JudgeError(TraitError):
    """The judge fails permanently: asking again would not help."""


class StorageError(TraitError):
    """A file cannot be written."""


class TraitWarning(UserWarning):
    """What a user should know of a result, such as a vector of another model.

    Example:
        >>> import warnings
        >>> warnings.simplefilter("ignore", tc.TraitWarning)
    """


def suggest(name: str, known: Iterable[str]) -> str:
    """The hint for an unknown name: "did you mean X?", or "" if no known name is near it."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else ""


def _hanging(label: str, text: str) -> str:
    return label + text.replace("\n", "\n" + " " * len(label))


def _rebuild(kind: type[TraitError], problem: str, cause: str, fix: str) -> TraitError:
    return kind(problem, cause=cause, fix=fix)
