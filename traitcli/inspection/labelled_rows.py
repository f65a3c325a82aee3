"""Compares the scores of labelled answers with their labels: rows for a table, JSON and the report.

| part     | value                                        | of                                   |
|----------|----------------------------------------------|--------------------------------------|
| summary  | AUROC                                        | a way to sum up an answer            |
| baseline | AUROC; None: not measured, and why           | length, words, embeddings, the model |
| lead     | difference of two AUROCs                     | the recommended way over a baseline  |
| group    | AUROC within a group                         | the recommended way                  |
| topic    | AUROC of a group against the other groups    | the same, among equals in the label  |
| tokens   | AUROC of tokens inside spans against others  | the single tokens                    |
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from traitcli.inspection.labelled_scores import (
    ASKED,
    EMBEDDING,
    LENGTH,
    RECOMMENDED,
    WORDS,
    ReadAnswer,
    summed_scores,
)
from traitcli.monitoring.separate_labels import (
    Interval,
    Resampled,
    resample,
    true_positive_rate,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Doubles = NDArray[np.float64]
    Bools = NDArray[np.bool_]

Row = dict[str, Any]
RATES = (0.01, 0.05)
"""False-positive rates of the table."""
KEYS = ("tpr_1", "tpr_5")


@dataclass(frozen=True, slots=True)
class Baselines:
    """Scores of the same answers without the vector, or why there are none.

    words, asked  one number for each answer, None for one without; or the reason
    embedding     whether the vector has a direction at layer 0
    """

    words: Sequence[float] | str
    asked: Sequence[float | None] | str
    embedding: bool = True


def labelled_rows(answers: Sequence[ReadAnswer], baselines: Baselines) -> list[Row]:
    """Every row of the table; the answers have both labels."""
    positive = np.array([one.answer.positive for one in answers])
    prompts = [one.answer.cluster for one in answers]
    sums = summed_scores(answers)
    whole, missing = _whole_columns(answers, baselines)
    columns = {**sums, **whole}
    drawn = resample(columns, positive, prompts)
    rows = [_row("summary", name, drawn[name], columns[name], positive) for name in sums]
    rows += [_row("baseline", name, drawn[name], columns[name], positive) for name in whole]
    rows += [_not_measured("baseline", name, reason) for name, reason in missing.items()]
    rows.append(_asked_row(answers, baselines.asked))
    own = drawn[RECOMMENDED.text]
    rows.append(_plain("lead", f"over {LENGTH}", own.lead(drawn[LENGTH], either_way=True)))
    if WORDS in drawn:
        rows.append(_plain("lead", f"over {WORDS}", own.lead(drawn[WORDS])))
    recommended = sums[RECOMMENDED.text]
    rows += _group_rows(answers, recommended)
    rows += _topic_rows(answers, recommended)
    rows += _token_rows(answers)
    return rows


def find_row(rows: Sequence[Mapping[str, Any]], part: str, name: str) -> Mapping[str, Any] | None:
    """The row of a part and a name."""
    return next((row for row in rows if (row["part"], row["name"]) == (part, name)), None)


def _whole_columns(
    answers: Sequence[ReadAnswer], baselines: Baselines
) -> tuple[dict[str, Doubles], dict[str, str]]:
    """The baselines with a number for every answer, and the others with the reason."""
    columns = {LENGTH: np.array([len(one.scores) for one in answers], dtype=np.float64)}
    missing = {}
    if baselines.embedding:
        columns[EMBEDDING] = np.array([one.embedding for one in answers])
    else:
        missing[EMBEDDING] = "the vector has no direction at layer 0"
    if isinstance(baselines.words, str):
        missing[WORDS] = baselines.words
    else:
        columns[WORDS] = np.array(baselines.words, dtype=np.float64)
    return columns, missing


def _asked_row(answers: Sequence[ReadAnswer], asked: Sequence[float | None] | str) -> Row:
    """The row of the answers that the model could be asked about."""
    if isinstance(asked, str):
        return _not_measured("baseline", ASKED, asked)
    pairs = [(one, value) for one, value in zip(answers, asked, strict=True) if value is not None]
    positive = np.array([one.answer.positive for one, _ in pairs], dtype=bool)
    if not positive.any() or positive.all():
        return _not_measured("baseline", ASKED, "not measured: too few answers fit the model")
    values = np.array([value for _, value in pairs])
    drawn = resample({ASKED: values}, positive, [one.answer.cluster for one, _ in pairs])
    return _row("baseline", ASKED, drawn[ASKED], values, positive)


def _group_rows(answers: Sequence[ReadAnswer], scores: Doubles) -> Iterator[Row]:
    for group in _groups(answers):
        chosen = np.array([one.answer.group == group for one in answers])
        positive = np.array([one.answer.positive for one in answers])[chosen]
        yield _compared("group", group, answers, scores, chosen, positive)


def _topic_rows(answers: Sequence[ReadAnswer], scores: Doubles) -> Iterator[Row]:
    groups = _groups(answers)
    # Of two groups, one against the other says it all.
    for group in groups[1:] if len(groups) == 2 else groups:
        for label in (True, False):
            chosen = np.array(
                [one.answer.positive == label and one.answer.group is not None for one in answers]
            )
            member = np.array([one.answer.group == group for one in answers])[chosen]
            name = f"{group} against others, label {int(label)}"
            yield _compared("topic", name, answers, scores, chosen, member)


def _groups(answers: Sequence[ReadAnswer]) -> list[str]:
    return sorted({one.answer.group for one in answers if one.answer.group is not None})


def _compared(
    part: str,
    name: str,
    answers: Sequence[ReadAnswer],
    scores: Doubles,
    chosen: Bools,
    positive: Bools,
) -> Row:
    """The AUROC of some of the answers, by another split than their labels if it is a topic."""
    if not positive.any() or positive.all():
        return _not_measured(part, name, "not measured: all on one side")
    prompts = [one.answer.cluster for one, use in zip(answers, chosen, strict=True) if use]
    drawn = resample({name: scores[chosen]}, positive, prompts)[name]
    if part == "topic":
        return _plain(part, name, drawn.interval(), positive)
    return _row(part, name, drawn, scores[chosen], positive)


def _token_rows(answers: Sequence[ReadAnswer]) -> Iterator[Row]:
    """One row when some answers have spans."""
    marked = [one for one in answers if one.answer.spans is not None]
    if not any(one.answer.spans for one in marked):
        return
    inside = [one.in_spans() for one in marked]
    positive = np.concatenate(inside)
    unfound = sum(
        not tokens.any() for one, tokens in zip(marked, inside, strict=True) if one.answer.spans
    )
    note = f"{unfound:,} texts do not contain their spans" if unfound else ""
    name = "tokens inside spans"
    if not positive.any() or positive.all():
        yield _not_measured("tokens", name, f"not measured: {note or 'all tokens are inside'}")
        return
    prompts = [one.answer.cluster for one in marked for _ in one.scores]
    scores = np.array([score for one in marked for score in one.scores])
    drawn = resample({name: scores}, positive, prompts)[name]
    yield _plain("tokens", name, drawn.interval(), positive, note)


def _row(part: str, name: str, drawn: Resampled, scores: Doubles, positive: Bools) -> Row:
    rates = [true_positive_rate(scores, positive, rate) for rate in RATES]
    return _plain(part, name, drawn.interval(), positive) | dict(zip(KEYS, rates, strict=True))


def _plain(
    part: str, name: str, value: Interval, positive: Bools | None = None, note: str = ""
) -> Row:
    numbers = [each if math.isfinite(each) else None for each in value]
    return {
        "part": part,
        "name": name,
        "count": None if positive is None else len(positive),
        "positive": None if positive is None else int(positive.sum()),
        **dict(zip(("value", "low", "high"), numbers, strict=True)),
        **dict.fromkeys(KEYS),
        "note": note,
    }


def _not_measured(part: str, name: str, reason: str) -> Row:
    return _plain(part, name, Interval(math.nan, math.nan, math.nan), note=reason)
