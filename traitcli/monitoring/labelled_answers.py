"""Reads which answers of a file show a trait, to which groups they belong, and in which spans."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from traitcli.errors import UserError
from traitcli.monitoring.transcripts import Exchange, read_transcript

LABEL = "label"
"""The key that says whether an answer shows the trait, unless another one is named."""
SPANS = "spans"
"""The key of the substrings that show the trait."""
MOST_GROUPS = 20
_VALUES = {
    **dict.fromkeys(("1", "true", "yes"), True),
    **dict.fromkeys(("0", "false", "no"), False),
}


@dataclass(frozen=True, slots=True)
class LabelledAnswer:
    """An answer that shows the trait, or does not.

    group  the value of the key of --by, as text; None without one
    spans  the substrings that show the trait; None if the file does not say
    """

    exchange: Exchange
    positive: bool
    group: str | None
    spans: tuple[str, ...] | None

    @property
    def cluster(self) -> Hashable:
        """What the answer follows. Answers to the same prompt are not independent."""
        return self.exchange.prompt, json.dumps(self.exchange.history, sort_keys=True)


@dataclass(frozen=True, slots=True)
class LabelledFile:
    """The labelled answers of a file, and in words what was read and what was left out."""

    answers: tuple[LabelledAnswer, ...]
    description: str


def read_labelled(path: Path, label: str, by: str | None) -> LabelledFile:
    """Read the answers whose key `label` is true or false, or 1 or 0.

    Raises UserError when there are not both, when no answer has the key `by`, and when it has more
    than 20 values.
    """
    keys = [label, SPANS, *([by] if by else [])]
    transcript = read_transcript(path, keys=keys)
    answers, left_out, problems = [], 0, []
    for exchange in transcript.exchanges:
        positive = _truth(exchange.keys.get(label))
        if exchange.problem:
            problems.append(exchange.located_problem)
            continue
        if positive is None:
            left_out += 1
            continue
        group = _name(exchange.keys[by]) if by and by in exchange.keys else None
        answers.append(LabelledAnswer(exchange, positive, group, _spans(exchange.keys.get(SPANS))))
    _check(path, label, answers, left_out + len(problems))
    if by:
        _check_groups(path, by, answers)
    notes = [transcript.description]
    if left_out:
        notes.append(f"{left_out:,} without a label, left out")
    if problems:
        notes.append(f"{len(problems):,} that cannot be read, left out; the first: {problems[0]}")
    return LabelledFile(tuple(answers), "; ".join(notes))


def _truth(value: Any) -> bool | None:
    if isinstance(value, str):
        return _VALUES.get(value.strip().lower())
    # Also 1.0, which some tools write for 1.
    return bool(value) if isinstance(value, bool | int | float) and value in (0, 1) else None


def _name(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _spans(value: Any) -> tuple[str, ...] | None:
    if not isinstance(value, list):
        return None
    return tuple(one for one in value if isinstance(one, str) and one)


def _check(path: Path, label: str, answers: Sequence[LabelledAnswer], left_out: int) -> None:
    positive = sum(one.positive for one in answers)
    if 0 < positive < len(answers):
        return
    cause = f"{positive:,} are true, {len(answers) - positive:,} false, {left_out:,} have no label"
    raise UserError(
        f"nothing to compare in {path}",
        cause=f"of its answers, by the key {label}, {cause}",
        fix=f'give answers with and without the trait: {{"prompt": …, "response": …, "{label}": 1}}'
        ", or name another key with --labels",
    )


def _check_groups(path: Path, by: str, answers: Sequence[LabelledAnswer]) -> None:
    groups = {one.group for one in answers} - {None}
    if 1 <= len(groups) <= MOST_GROUPS:
        return
    raise UserError(
        f"cannot group {path} by {by}",
        cause=f"the key has {len(groups):,} values"
        if groups
        else "no labelled answer has this key",
        fix=f"name a key with at most {MOST_GROUPS} values",
    )
