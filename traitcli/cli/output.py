"""Prints rows: a table for people, or JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console


Rows = Sequence[dict[str, Any]]


def print_json(value: object) -> None:
    """Print one line of JSON. Answers in any script stay readable where stdout is UTF-8."""
    # Any other encoding would lose characters; escapes are valid JSON everywhere.
    is_unicode = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
    typer.echo(json.dumps(value, ensure_ascii=not is_unicode))


def say(text: str) -> None:
    """Print a line for people on stderr; names and contents of files cannot change the terminal."""
    from traitcli.views.printable import one_line

    typer.echo(one_line(text), err=True)


def show_warning(event: object) -> None:
    """Print a warning on stderr; other events are not shown."""
    from traitcli.events import Warned
    from traitcli.views.words import warning_text

    if isinstance(event, Warned):
        typer.echo(f"warning: {warning_text(event)}", err=True)


def show(rows: Rows, table: Callable[[Console, Rows], None], as_json: bool) -> None:
    """Print rows as JSON, or with the function that prints their table."""
    if as_json:
        print_json(rows)
        return
    from rich.console import Console

    table(Console(), rows)
