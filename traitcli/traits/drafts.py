"""What the readers of labelled responses share: drafts without numbers, and faults by line."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from traitcli.errors import DefinitionError
from traitcli.records import LabelledResponse

MAX_CHARACTERS = 100_000
"""Maximum characters of one text."""
MAX_FAULTS = 10
"""Faults listed in an error; the others are counted."""
SEE = "see docs/labelled-responses.md for the formats"


@dataclass(frozen=True, slots=True)
class Draft:
    """A response without its numbers yet.

    group  responses with the same group answer the same question
    slot   a positive and a negative response with the same group and slot are a pair
    """

    response: LabelledResponse
    question: str
    group: str
    slot: Hashable


class Faults:
    """Collects what is wrong with files, line by line."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, path: Path, line: int, message: str) -> None:
        self._lines.append(f"{path.name} line {line}: {message}")

    def check(self, names: str) -> None:
        """Raise DefinitionError if there are any."""
        if not self._lines:
            return
        shown = self._lines[:MAX_FAULTS]
        if more := len(self._lines) - len(shown):
            shown.append(f"and {more} more")
        cause = "\n".join(shown)
        raise DefinitionError(f"{names} cannot be read as responses", cause=cause, fix=SEE)


class FaultError(Exception):
    """One line is invalid; the message says how."""


def check_text(value: Any, name: str) -> str:
    """A string that can be stored. Raises FaultError for anything else."""
    if value is None:
        raise FaultError(f"{name}: missing")
    if not isinstance(value, str):
        raise FaultError(f"{name}: expected a string")
    if len(value) > MAX_CHARACTERS:
        raise FaultError(f"{name}: {len(value):,} characters, the maximum is {MAX_CHARACTERS:,}")
    # JSON can escape half of a character; a tokenizer and a UTF-8 file refuse it much later.
    try:
        value.encode()
    except UnicodeEncodeError:
        raise FaultError(f"{name}: contains half a character (a lone surrogate)") from None
    return value


def normalize_question(question: str) -> str:
    """Drop case and spacing: equal results mean the same question."""
    return " ".join(question.casefold().split())
