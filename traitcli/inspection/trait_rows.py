"""Gathers what `inspect traits` shows: one row for each trait definition."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from traitcli.errors import UserError
from traitcli.traits.definitions import load_trait, locate_traits
from traitcli.traits.lint import lint_trait

Row = dict[str, Any]


def trait_rows(folder: Path, names: Sequence[str]) -> list[Row]:
    """Count what each definition holds and list its faults.

    An invalid definition has a row too, with its errors as faults and None for every count.
    """
    return [_row(path) for path in locate_traits(folder, names)]


def _row(path: Path) -> Row:
    # An invalid file must not hide the valid ones.
    try:
        trait = load_trait(path)
    except UserError as error:
        counts = ("pairs", "questions", "evaluation_questions", "responses")
        faults = error.cause.splitlines() or [error.problem]
        return {
            "trait": path.stem,
            **dict.fromkeys(counts),
            "source": str(path),
            "faults": faults,
        }

    # Labelled responses replace the pairs: a count of 0 would look like a fault.
    return {
        "trait": trait.name,
        "pairs": None if trait.responses else len(trait.pairs),
        "questions": len(trait.questions),
        "evaluation_questions": len(trait.evaluation_questions),
        "responses": len(trait.responses) or None,
        "source": str(path),
        "faults": lint_trait(trait),
    }
