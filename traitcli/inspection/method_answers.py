"""Measures the directions of several methods on labelled answers, which are read once for all."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from traitcli.config import MonitorConfig
from traitcli.events import Listener
from traitcli.generation.projections import Probe, check_fit
from traitcli.inspection.labelled_scores import RECOMMENDED, read_records
from traitcli.models.loaded import LoadedModel
from traitcli.monitoring.labelled_answers import LabelledAnswer
from traitcli.monitoring.separate_labels import Interval, resample
from traitcli.monitoring.summaries import Summary
from traitcli.monitoring.watch import Watch
from traitcli.records import Position, TraitVector

Row = dict[str, Any]
Scores = Mapping[str, Sequence[float]]
"""Method -> the projections of an answer's tokens that count."""
_SUMMARIES = {"rolling": RECOMMENDED, "mean": Summary("mean")}
"""The ways to sum up an answer, by the first word of their keys."""


@dataclass(frozen=True, slots=True)
class AnswersByMethod:
    """Labelled answers with the scores of every method.

    answers   those that the model has read
    scores    one for each answer
    failures  why others could not be read
    """

    answers: tuple[LabelledAnswer, ...]
    scores: tuple[Scores, ...]
    failures: tuple[str, ...] = ()


def read_by_method(
    loaded: LoadedModel,
    vectors: Mapping[str, TraitVector],
    position: Position,
    answers: Sequence[LabelledAnswer],
    config: MonitorConfig,
    on_event: Listener,
) -> AnswersByMethod:
    """Read each response once, behind its bare prompt, with one probe for each method.

    Raises VectorError when the vectors are not of this model's shape, and TraitError when the
    answers that can be read do not have both labels.
    """
    probes = {}
    for method, vector in vectors.items():
        check_fit(vector, loaded, position)
        probes[method] = Probe(vector, position, vector.layer)
    watch = Watch(probes, config, raw=True)
    records, failures = read_records(loaded, watch, answers, on_event)
    scores = tuple(
        {name: tuple(record.raw[name][index] for index in record.counted(name)) for name in probes}
        for _, record in records
    )
    return AnswersByMethod(tuple(answer for answer, _ in records), scores, failures)


def answer_figures(read: AnswersByMethod, source: str, baseline: str) -> dict[str, Row]:
    """Method -> the AUROC of each way to sum up, and its lead over the baseline method.

    All intervals are of the same draws of prompts. A figure is None where no draw could be
    measured.

    Args:
        read: Answers with both labels.
        source: Name of the file that they are from.
        baseline: The method that the others are compared with.
    """
    positive = np.array([answer.positive for answer in read.answers])
    prompts = [answer.cluster for answer in read.answers]
    methods = list(read.scores[0])
    columns = {
        f"{key} {method}": np.array([summary(scores[method]) for scores in read.scores])
        for key, summary in _SUMMARIES.items()
        for method in methods
    }
    drawn = resample(columns, positive, prompts)
    counts = {
        "answers_from": source,
        "answers": len(positive),
        "answers_positive": int(positive.sum()),
        "answers_prompts": len(set(prompts)),
    }
    figures = {}
    for method in methods:
        row: Row = dict(counts)
        for key in _SUMMARIES:
            own, other = drawn[f"{key} {method}"], drawn[f"{key} {baseline}"]
            lead = None if method == baseline else own.lead(other)
            row |= _keys(f"{key}_auroc", own.interval()) | _keys(f"{key}_ahead", lead)
        figures[method] = row
    return figures


def _keys(key: str, value: Interval | None) -> Row:
    names = (key, f"{key}_low", f"{key}_high")
    if value is None:
        return dict.fromkeys(names)
    numbers = [each if math.isfinite(each) else None for each in value]
    return dict(zip(names, numbers, strict=True))
