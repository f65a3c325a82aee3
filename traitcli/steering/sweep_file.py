"""Keeps what a sweep of coefficients has made of a trait, so that nothing is written, judged or read twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from traitcli.files import append_lines, read_lines
from traitcli.records import Judgement, Score, Usage


@dataclass(frozen=True, slots=True)
class SteeredAnswer:
    """An answer to a bare question; `key` changes with all that it depends on, and with nothing else.

    coefficient  how many times the vector was added at `layer`
    """

    key: str
    coefficient: float
    layer: int
    question: str
    seed: int
    response: str
    response_tokens: int
    finish_reason: Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Reading:
    """How the unsteered model reads an answer: see `dose_response.Scored`."""

    key: str
    log_probability: float
    repetition: float


class SteeringFile:
    """`steering.jsonl` of a trait in a run: appended to by one process; of lines that say the same, the last counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._norms: dict[str, float] = {}
        self._answers: dict[str, SteeredAnswer] = {}
        self._readings: dict[str, Reading] = {}
        self._judgements: dict[tuple[str, str], Judgement] = {}
        self.usage = Usage()
        """What all judging here has taken, judgements that were asked for again included."""
        for line in read_lines(path):
            self._take(line)

    def norm(self, scale: str) -> float | None:
        """How long a hidden state is, where that was measured."""
        return self._norms.get(scale)

    def answer(self, key: str) -> SteeredAnswer | None:
        return self._answers.get(key)

    def judgement(self, key: str, judge: str) -> Judgement | None:
        return self._judgements.get((key, judge))

    def reading(self, key: str) -> Reading | None:
        return self._readings.get(key)

    def add_norm(self, scale: str, norm: float) -> None:
        self._add("norm", [{"scale": scale, "norm": norm}])

    def add_answers(self, answers: Sequence[SteeredAnswer]) -> None:
        self._add("answer", map(asdict, answers))

    def add_judgements(self, judgements: Sequence[Judgement]) -> None:
        self._add("judgement", map(asdict, judgements))

    def add_readings(self, readings: Sequence[Reading]) -> None:
        self._add("reading", map(asdict, readings))

    def _add(self, kind: str, records: Iterable[dict[str, Any]]) -> None:
        """They are on disk before they are held."""
        lines = [{"kind": kind} | record for record in records]
        if lines:
            append_lines(self._path, lines)
        for line in lines:
            self._take(line)

    def _take(self, line: dict[str, Any]) -> None:
        match {key: value for key, value in line.items() if key != "kind"}:
            case {"scale": scale, "norm": norm}:
                self._norms[scale] = norm
            case {"response": _} as told:
                self._answers[told["key"]] = SteeredAnswer(**told)
            case {"judge": judge} as told:
                scores = Score(**told["score"]), Score(**told["coherence"])
                made = Judgement(told["rollout"], judge, *scores, Usage(**told["usage"]))
                self._judgements[made.rollout, judge] = made
                self.usage += made.usage
            case told:
                self._readings[told["key"]] = Reading(**told)
