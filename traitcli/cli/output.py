"""Prints rows: a table for people, or JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console


Rows = Sequence[dict[str, Any]]


def show(rows: Rows, table: Callable[[Console, Rows], None], as_json: bool) -> None:
    """Print rows as JSON, or with the function that prints their table."""
    if as_json:
        # JSON is UTF-8, so answers in any script stay readable.
        typer.echo(json.dumps(rows, ensure_ascii=False))
        return
    from rich.console import Console

    table(Console(), rows)
