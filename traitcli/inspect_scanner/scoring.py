"""Scores the answers of one transcript for the scanner, without Inspect's types."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

from traitcli.monitoring.inspect_logs import InspectSample, read_sample
from traitcli.monitoring.log_shapes import ShapeError
from traitcli.monitoring.summaries import LENGTH, Running, Summary
from traitcli.records import TokenScores

if TYPE_CHECKING:
    from traitcli.api.model import Model
    from traitcli.monitoring.watch import Watch
    from traitcli.record_json import FailedRecord

_QUOTE = 160
"""Characters of the text that an explanation quotes."""


@dataclass(frozen=True, slots=True)
class TraitResult:
    """What a transcript shows of one trait.

    value        the mean over answers of the mean of their tokens; None without an answer
    explanation  where the score is highest, or why there is none
    message_id   the message with the highest score; "" if it has no id
    cite         how the explanation names it
    metadata     layer, unit, the highest score, and a list with the scores of each answer
    """

    trait: str
    value: float | None
    explanation: str
    message_id: str = ""
    cite: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


class Scorer:
    """A model and what it scores, loaded when the first transcript comes.

    Scout copies its scanners into worker processes: a copy loads its own model there.
    """

    def __init__(self, model: str, config: str | None, traits: tuple[str, ...]) -> None:
        self._asked = (model, config, traits)
        self._lock = threading.Lock()
        self._ready: tuple[Model, Watch] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Scorer, self._asked

    def ready(self) -> tuple[Model, Watch]:
        """The model and the watch; raises TraitError like `traitcli.load`."""
        with self._lock:
            if self._ready is None:
                from traitcli.api.loading import load

                name, config, traits = self._asked
                model = load(name, config)
                self._ready = model, model.watch(traits or list(model.vectors()))
            return self._ready


def score_transcript(
    scorer: Scorer, sample: Mapping[str, Any], evaluation: Mapping[str, Any]
) -> list[TraitResult]:
    """Score every answer that the model of a transcript generated.

    Args:
        scorer: The model that reads.
        sample: `messages` as Inspect writes them, `id` and `epoch`.
        evaluation: `task` and `model`.

    Returns:
        A result for each trait.

    Raises:
        TraitError: The model cannot be loaded, or a vector does not exist.
    """
    model, watching = scorer.ready()
    try:
        entry = read_sample(InspectSample(sample, evaluation), {"line": 1}, "")
    except ShapeError as error:
        return [TraitResult(trait, None, str(error)) for trait in watching.probes]
    records = list(model.score_each(entry.exchanges, watching))
    numbers = {one.get("id"): place for place, one in enumerate(sample["messages"], start=1)}
    return [_summarize(trait, records, numbers, watching) for trait in watching.probes]


def _summarize(
    trait: str,
    records: Sequence[TokenScores | FailedRecord],
    numbers: Mapping[Any, int],
    watching: Watch,
) -> TraitResult:
    answers: list[dict[str, Any]] = []
    means: list[float] = []
    best: tuple[float, TokenScores, int] | None = None
    for record in records:
        message = record.about.get("message")
        if not isinstance(record, TokenScores):
            answers.append({"message": message, "error": record.error})
            continue
        mean = record.mean(trait)
        if mean is None:
            continue
        highest, end = _highest(record, trait)
        means.append(mean)
        answers.append(
            {"message": message, "tokens": len(record.tokens), "mean": mean, "highest": highest}
        )
        if best is None or highest > best[0]:
            best = highest, record, end
    metadata = {
        "layer": watching.probes[trait].layer,
        "unit": "calibrated" if watching.probes[trait].is_calibrated else "projection",
        "highest": best[0] if best else None,
        "answers": answers,
    }
    if best is None:
        reason = next((one["error"] for one in answers if "error" in one), "no tokens")
        return TraitResult(trait, None, reason, metadata=metadata)
    highest, record, end = best
    message = str(record.about.get("message") or "")
    cite = f"[M{numbers[message]}]" if message in numbers else f"answer {record.about['turn']}"
    quote = "".join(record.tokens[max(0, end - LENGTH) : end])[:_QUOTE]
    explanation = f"highest in {cite}: {highest:+.2f} over {quote!r}"
    return TraitResult(trait, fmean(means), explanation, message, cite, metadata)


def _highest(record: TokenScores, trait: str) -> tuple[float, int]:
    """The highest rolling mean of an answer, and the index behind its last token."""
    indices, scores = record.counted(trait), record.shown(trait)
    running = Running(Summary("rolling"))
    found = [(running.add(scores[index]), index + 1) for index in indices]
    known = [(value, end) for value, end in found if value is not None]
    return max(known) if known else (running.result(), len(record.tokens))
