"""Reads files of labelled responses and numbers them, whatever their format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from traitcli.errors import DefinitionError
from traitcli.files import decode_text, explain_unreadable
from traitcli.records import POLARITIES, LabelledResponse
from traitcli.traits.contrast_pairs import read_pairs
from traitcli.traits.drafts import SEE, Draft, Faults
from traitcli.traits.rollout_table import read_tables

MAX_BYTES = 64 * 2**20
"""Maximum bytes of one file. A larger one is a mistake, or a file of another kind."""
MAX_RESPONSES = 20_000
"""Maximum responses of a trait, over all its files."""
FOLDS = 5
"""Questions are divided into five folds, as shipped traits have five pairs."""


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """Labelled responses and the questions they answer ("" for a question that no file names)."""

    questions: tuple[str, ...] = ()
    responses: tuple[LabelledResponse, ...] = ()


def read_responses(paths: Sequence[Path]) -> LabelledSet:
    """Read all responses of some files as one set. The content decides the format, not the name.

    JSON and JSON Lines hold contrast pairs: {"question", "positive", "negative"}. CSV holds
    rollouts with the columns of persona-vectors: question, prompt, answer, question_id, and
    optionally a score and a coherence.

    Raises:
        DefinitionError: it names each fault with its line.

    Example:
        >>> read_responses([Path("pairs.jsonl")]).responses[0].polarity
        'positive'
    """
    names = ", ".join(map(str, paths))
    texts = {path: _read(path) for path in paths}
    are_tables = {_is_table(text) for text in texts.values()}
    if len(are_tables) > 1:
        cause = "some are CSV and some are JSON"
        raise DefinitionError(f"{names} cannot be combined", cause=cause, fix=SEE)
    faults = Faults()

    # All faults are collected before the first is raised, so that one edit can correct them.
    read = read_tables if are_tables == {True} else read_pairs
    drafts = list(read(texts, faults))
    faults.check(names)
    return number_drafts(drafts, names)


def _read(path: Path) -> str:
    """The text of a file. Raises DefinitionError, also if the file is too large."""
    if path.exists() and not path.is_file():
        # A pipe or a device would block, or never end.
        raise DefinitionError(f"cannot read {path}", cause="not a regular file")

    try:
        with path.open("rb") as file:
            # One byte more shows that the file is too large, without reading all of it.
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DefinitionError(f"cannot read {path}", cause=explain_unreadable(error)) from None

    if len(data) > MAX_BYTES:
        cause = f"larger than {MAX_BYTES // 2**20} MiB"
        raise DefinitionError(f"cannot read {path}", cause=cause, fix="use a part of it")
    try:
        return decode_text(data)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        cause = f"line {line} is not UTF-8"
        raise DefinitionError(f"cannot read {path}", cause=cause, fix="save it as UTF-8") from None


def _is_table(text: str) -> bool:
    """Whether a text is CSV. JSON starts with a bracket or a brace."""
    return bool(text.strip()) and not text.lstrip().startswith(("[", "{"))


def _check_drafts(drafts: Sequence[Draft], names: str) -> None:
    """Raise DefinitionError if no vector can be built from the responses."""
    found = {draft.response.polarity for draft in drafts}
    if len(found) < len(POLARITIES):
        problem = "has one polarity only" if drafts else "is empty"
        cause = "a vector is a difference of positive and negative responses"
        raise DefinitionError(f"{names} {problem}", cause=cause, fix=SEE)
    if len(drafts) > MAX_RESPONSES:
        cause = f"{len(drafts):,} responses, the maximum is {MAX_RESPONSES:,}"
        raise DefinitionError(f"{names} has too many responses", cause=cause, fix="use fewer")


def number_drafts(drafts: Sequence[Draft], names: str) -> LabelledSet:
    """Number questions and pairs in order of first appearance, and divide questions into folds.

    Raises DefinitionError, which calls the responses `names`, if no vector can be built from them.
    """
    _check_drafts(drafts, names)
    questions: dict[str, int] = {}
    question_texts: list[str] = []
    repeats: dict[tuple[str, Hashable], int] = {}
    next_repeat: Counter[str] = Counter()

    responses = []
    for draft in drafts:
        if draft.group not in questions:
            questions[draft.group] = len(questions)
            question_texts.append(draft.question)

        pair = (draft.group, draft.slot)
        if pair not in repeats:
            repeats[pair] = next_repeat[draft.group]
            next_repeat[draft.group] += 1

        question = questions[draft.group]
        # By question, so that no question is both in the fold held out and in the others.
        fold = question % FOLDS
        responses.append(
            replace(draft.response, pair=fold, question=question, repeat=repeats[pair])
        )
    return LabelledSet(tuple(question_texts), tuple(responses))
