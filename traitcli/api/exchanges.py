"""Turns what a user has of prompts and responses into exchanges that can be scored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from traitcli.errors import UserError
from traitcli.monitoring.log_shapes import FORMS, Exchange, ShapeError, read_entry
from traitcli.monitoring.transcripts import read_transcript

Transcripts = (
    str
    | Path
    | Iterable[tuple[str, str] | Mapping[str, Any] | Sequence[Mapping[str, str]] | Exchange]
)
"""A file, or pairs, chats and dicts; see `Model.score`."""
_ENTRIES = "(prompt, response), a chat, {'prompt': …, 'response': …}"


def as_exchanges(transcripts: Transcripts) -> list[Exchange]:
    """Every response with its prompt; raises UserError when there is none.

    An entry that cannot be read becomes an exchange with a problem.
    """
    if isinstance(transcripts, str | Path):
        return read_transcript(Path(transcripts)).exchanges
    found: list[Exchange] = []
    for number, entry in enumerate(transcripts, start=1):
        found += _read(entry, {"line": number})
    if not found:
        raise UserError("there is nothing to score", cause="no response is given", fix=FORMS)
    return found


def _read(entry: Any, about: Mapping[str, Any]) -> list[Exchange]:
    match entry:
        case Exchange():
            return [entry]
        case (str(prompt), str(response)):
            return [Exchange(prompt, response, about=about)]
        case str() | bytes() | int() | float() | None:
            return [Exchange("", "", about=about, problem=f"{entry!r:.40} is none of {_ENTRIES}")]
    try:
        return read_entry(entry, about).exchanges
    except ShapeError as error:
        return [Exchange("", "", about=about, problem=str(error))]
