"""The scores of labelled answers: by every way to sum up, and by every baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from traitcli.config import MonitorConfig
from traitcli.errors import TraitError
from traitcli.events import Listener
from traitcli.generation.projections import Probe
from traitcli.models.loaded import LoadedModel
from traitcli.monitoring.labelled_answers import LabelledAnswer
from traitcli.monitoring.score_texts import score_texts
from traitcli.monitoring.summaries import SUMMARIES
from traitcli.monitoring.watch import Watch
from traitcli.record_json import FailedRecord
from traitcli.records import TokenScores

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Doubles = NDArray[np.float64]

LENGTH, EMBEDDING, WORDS, ASKED = (
    "length in tokens",
    "embedding layer",
    "bag of words",
    "asked yes or no",
)
RECOMMENDED = SUMMARIES[0]


@dataclass(frozen=True, slots=True)
class ReadAnswer:
    """A labelled answer after the model has read it.

    text    what was read of the response
    tokens  all tokens of the response
    scores  projections of those that count, (h · v) / ‖v‖ in activation units
    embedding  the mean of the same tokens at layer 0
    counted  which tokens count; None: all
    """

    answer: LabelledAnswer
    text: str
    tokens: tuple[str, ...]
    scores: tuple[float, ...]
    embedding: float
    counted: tuple[int, ...] | None = None

    def in_spans(self) -> NDArray[np.bool_]:
        """Which of the tokens that count overlap a span, bool [scores]."""
        text = "".join(self.tokens)
        ends = np.cumsum([len(token) for token in self.tokens])
        starts = ends - [len(token) for token in self.tokens]
        inside = np.zeros(len(self.tokens), dtype=bool)
        for span in self.answer.spans or ():
            start = text.find(span)
            while start >= 0:
                inside |= (starts < start + len(span)) & (ends > start)
                start = text.find(span, start + 1)
        return inside if self.counted is None else inside[list(self.counted)]


@dataclass(frozen=True, slots=True)
class ReadFile:
    """The answers that were read, and why others were not."""

    answers: tuple[ReadAnswer, ...]
    failures: tuple[str, ...]


def read_answers(
    loaded: LoadedModel,
    probe: Probe,
    answers: Sequence[LabelledAnswer],
    config: MonitorConfig,
    on_event: Listener,
) -> ReadFile:
    """Read each response behind its bare prompt.

    Raises TraitError when those that can be read do not have both labels.
    """
    embedding = Probe(probe.vector, probe.position, 0)
    watch = Watch({"own": probe, EMBEDDING: embedding}, config, raw=True)
    records, failures = read_records(loaded, watch, answers, on_event)
    return ReadFile(tuple(_read(answer, record) for answer, record in records), failures)


def read_records(
    loaded: LoadedModel,
    watch: Watch,
    answers: Sequence[LabelledAnswer],
    on_event: Listener,
) -> tuple[list[tuple[LabelledAnswer, TokenScores]], tuple[str, ...]]:
    """Each answer that can be read with its record, and why others cannot.

    Raises TraitError when those that can be read do not have both labels.
    """
    found: list[tuple[LabelledAnswer, TokenScores]] = []
    failures: list[str] = []
    records = score_texts(loaded, watch, [one.exchange for one in answers], on_event=on_event)
    for answer, record in zip(answers, records, strict=True):
        if isinstance(record, FailedRecord):
            failures.append(record.error)
        # For one probe as for all: where every token is massive, all count.
        elif not all(record.counted(name) for name in watch.probes):
            failures.append("nothing is left after the thinking part")
        else:
            found.append((answer, record))
    if len({answer.positive for answer, _ in found}) < 2:
        raise TraitError(
            "no labels can be compared",
            cause=f"{len(failures):,} of {len(answers):,} answers cannot be read"
            + (f"; the first: {failures[0]}" if failures else ""),
            fix="correct the texts",
        )
    return found, tuple(failures)


def _read(answer: LabelledAnswer, record: TokenScores) -> ReadAnswer:
    own, embedding = (record.raw[key] for key in ("own", EMBEDDING))
    tokens = record.tokens
    # Neither thinking nor massive tokens count.
    indices = tuple(record.counted("own"))
    mean = float(np.mean([embedding[index] for index in indices]))
    scores = tuple(own[index] for index in indices)
    return ReadAnswer(answer, "".join(tokens), tokens, scores, mean, indices)


def not_read(failures: Sequence[str]) -> str:
    """How many answers could not be read, and why the first of them."""
    return f"not read: {len(failures):,}; the first: {failures[0]}"


def summed_scores(answers: Sequence[ReadAnswer]) -> dict[str, Doubles]:
    """Way to sum up -> one number for each answer, float64 [n]."""
    return {
        summary.text: np.array([summary(one.scores) for one in answers]) for summary in SUMMARIES
    }
