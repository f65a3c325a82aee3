"""Monitors the prompts of a set, and summarizes how their answers scored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from traitcli.errors import TraitError
from traitcli.events import Event, Listener, MonitorFinished, Warned
from traitcli.models.loaded import LoadedModel
from traitcli.monitoring.monitor import monitor
from traitcli.monitoring.prompt_sets import PromptSet
from traitcli.monitoring.record_files import append_records
from traitcli.monitoring.watch import Watch
from traitcli.record_json import FailedRecord
from traitcli.records import TokenScores

_WINDOW = 5
"""Tokens that are averaged before a swing is measured, so that one token does not decide it."""


def monitor_set(
    loaded: LoadedModel, watch: Watch, prompt_set: PromptSet, out: Path, on_event: Listener
) -> Iterator[TokenScores | FailedRecord]:
    """Answer one prompt after another.

    Yields the record of each answer after it is stored in `out`. An answer that fails has a record
    with an error, and does not stop the others.
    """
    total = len(prompt_set.prompts)
    listener = _store_when_interrupted(out, on_event)
    for number, one in enumerate(prompt_set.prompts, start=1):
        about = {
            "set": prompt_set.name,
            "number": number,
            "of": total,
            "trait": one.trait,
            "shows": one.shows,
        }
        # A system message belongs to its prompt alone; the next prompt has the config's again.
        config = watch.config
        if one.system:
            config = config.model_copy(update={"system": one.system})
        try:
            # Not stored by `monitor`: the line must be written in any case, also after an error.
            own_watch = replace(watch, config=config, about=about)
            record: TokenScores | FailedRecord = monitor(
                loaded, own_watch, one.prompt, None, listener
            )
        except TraitError as error:
            problem = f"{error.problem}: {error.cause}"
            on_event(Warned("", f"prompt {number} failed: {problem}"))
            record = FailedRecord(one.prompt, problem, about)
        # Before the next prompt: a kill then loses one answer at most.
        append_records(out, [record])
        yield record


def _store_when_interrupted(out: Path, on_event: Listener) -> Listener:
    """A listener that stores the record of an interrupted answer.

    `monitor` raises KeyboardInterrupt then, so `monitor_set` does not get the record.
    """

    def listen(event: Event) -> None:
        record = event.record if isinstance(event, MonitorFinished) else None
        if record and record.finish_reason == "interrupted":
            append_records(out, [record])
        on_event(event)

    return listen


@dataclass(frozen=True, slots=True)
class TraitSummary:
    """What the answers of a set show of one trait.

    positive  mean calibrated score of the answers that should be positive; None without one
    negative  the same for negative
    swing     mean swing of the answers that should show both: the largest minus the smallest mean
              of five tokens in a row
    answers   answers with calibrated scores
    failed    answers that failed
    """

    trait: str
    positive: float | None
    negative: float | None
    swing: float | None
    answers: int
    failed: int


def summarize_set(records: Sequence[TokenScores | FailedRecord]) -> list[TraitSummary]:
    """Summarize the records of a set, one summary for each trait that it names."""
    by_trait: dict[str, list[TokenScores | FailedRecord]] = {}
    for record in records:
        if trait := record.about.get("trait"):
            by_trait.setdefault(trait, []).append(record)
    return [_summarize(trait, own) for trait, own in by_trait.items()]


def _summarize(trait: str, records: Sequence[TokenScores | FailedRecord]) -> TraitSummary:
    positive, negative, swings = [], [], []
    answers = 0
    for record in records:
        # Raw projections of different traits have different scales and cannot be compared.
        if isinstance(record, FailedRecord) or not (calibrated := record.calibrated.get(trait)):
            continue
        scores = [calibrated[index] for index in record.counted(trait)]
        answers += 1
        match record.about["shows"]:
            case "positive":
                positive.append(float(np.mean(scores)))
            case "negative":
                negative.append(float(np.mean(scores)))
            case "both":
                swings.append(_swing(scores))
    failed = sum(isinstance(record, FailedRecord) for record in records)
    return TraitSummary(trait, _mean(positive), _mean(negative), _mean(swings), answers, failed)


def _swing(scores: Sequence[float]) -> float:
    width = min(_WINDOW, len(scores))
    smooth = np.convolve(scores, np.ones(width) / width, mode="valid")
    return float(smooth.max() - smooth.min())


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
