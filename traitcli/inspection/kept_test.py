"""Makes the record of a comparison with labelled answers, as it is kept beside a vector."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from traitcli.inspection.labelled_rows import find_row
from traitcli.inspection.labelled_scores import (
    ASKED,
    EMBEDDING,
    LENGTH,
    RECOMMENDED,
    WORDS,
    ReadAnswer,
)
from traitcli.records import Position, TraitVector
from traitcli.vectors.fingerprint import fingerprint
from traitcli.vectors.labelled import LabelledTest


def make_test(
    name: str,
    source: str,
    direction: tuple[TraitVector, Position, int],
    answers: Sequence[ReadAnswer],
    rows: Sequence[Mapping[str, Any]],
) -> LabelledTest:
    """The record of `rows`, which were measured on `answers`.

    Args:
        name: Of --keep.
        source: Name of the file.
        direction: The vector, and the position and layer that were read.
        answers: Those that the model has read.
        rows: See `labelled_rows`.
    """
    vector, position, layer = direction

    def value(part: str, row_name: str, key: str = "value") -> Any:
        row = find_row(rows, part, row_name)
        return None if row is None else row[key]

    own = RECOMMENDED.text
    return LabelledTest(
        name=name,
        source=source,
        texts=len(answers),
        positive=sum(one.answer.positive for one in answers),
        prompts=len({one.answer.cluster for one in answers}),
        position=position,
        layer=layer,
        fingerprint=fingerprint(vector, position, layer),
        summary=f"{RECOMMENDED.kind}({RECOMMENDED.length})",
        auroc=value("summary", own),
        low=value("summary", own, "low"),
        high=value("summary", own, "high"),
        length_auroc=value("baseline", LENGTH),
        length_lead_low=value("lead", f"over {LENGTH}", "low"),
        words_auroc=value("baseline", WORDS),
        words_lead_low=value("lead", f"over {WORDS}", "low"),
        embedding_auroc=value("baseline", EMBEDDING),
        asked_auroc=value("baseline", ASKED),
        rows=tuple(map(dict, rows)),
    )
