"""Gathers what `inspect traits` shows: one row for each trait definition."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from traitcli.errors import UserError
from traitcli.traits.definitions import load_trait, locate_traits
from traitcli.traits.lint import lint_trait

if TYPE_CHECKING:
    pass


Row = dict[str, Any]


def trait_rows(folder: Path, names: Sequence[str]) -> list[Row]:
    """What the definitions hold and what a careful reader objects to; an invalid one is a row too."""
    rows: list[Row] = []
    for path in locate_traits(folder, names):
        try:
            trait = load_trait(path)
        except UserError as error:
            rows.append(
                {
                    "trait": path.stem,
                    "pairs": None,
                    "questions": None,
                    "evaluation_questions": None,
                    "responses": None,
                    "source": str(path),
                    "faults": error.cause.splitlines() or [error.problem],
                }
            )
            continue
        rows.append(
            {
                "trait": trait.name,
                "pairs": None if trait.responses else len(trait.pairs),
                "questions": len(trait.questions),
                "evaluation_questions": len(trait.evaluation_questions),
                "responses": len(trait.responses) or None,
                "source": str(path),
                "faults": lint_trait(trait),
            }
        )
    return rows
