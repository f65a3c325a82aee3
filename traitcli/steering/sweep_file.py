"""Stores the results of a sweep, so that nothing is generated, judged or measured twice."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from traitcli.config import Config
from traitcli.files import append_lines, read_lines
from traitcli.judging import Budget
from traitcli.pipeline.ledgers import RunLedgers
from traitcli.records import Judgement, Score, Trait, Usage
from traitcli.runs.run import Run


@dataclass(frozen=True, slots=True)
class SteeredAnswer:
    """An answer to a question under a coefficient, which was applied at `layer`, or under a brake.

    `key` identifies everything that the answer depends on; see `sweep_plan`.
    """

    key: str
    coefficient: float
    layer: int
    question: str
    seed: int
    response: str
    response_tokens: int
    finish_reason: Literal["stop", "length"]
    brake: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """How the unsteered model reads an answer; see `dose_response.ScoredAnswer`."""

    key: str
    log_probability: float
    repetition: float


class SteeringFile:
    """`steering.jsonl` of a trait in a run. One process appends; the last line of a key counts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._norms: dict[str, float] = {}
        self._answers: dict[str, SteeredAnswer] = {}
        self._readings: dict[str, Reading] = {}
        self._judgements: dict[tuple[str, str], Judgement] = {}
        self.usage = Usage()
        """The cost of all judging in this file, judgements that were replaced later included."""
        for line in read_lines(path):
            self._index(line)

    def norm(self, key: str) -> float | None:
        """The typical norm of a hidden state, if it was measured."""
        return self._norms.get(key)

    def answer(self, key: str) -> SteeredAnswer | None:
        return self._answers.get(key)

    def judgement(self, key: str, judge: str) -> Judgement | None:
        return self._judgements.get((key, judge))

    def reading(self, key: str) -> Reading | None:
        return self._readings.get(key)

    def add_norm(self, key: str, norm: float) -> None:
        # "scale" is the name of the key in files of all versions.
        self._add("norm", [{"scale": key, "norm": norm}])

    def add_answers(self, answers: Sequence[SteeredAnswer]) -> None:
        self._add("answer", map(asdict, answers))

    def add_judgements(self, judgements: Sequence[Judgement]) -> None:
        self._add("judgement", map(asdict, judgements))

    def add_readings(self, readings: Sequence[Reading]) -> None:
        self._add("reading", map(asdict, readings))

    def _add(self, kind: str, records: Iterable[dict[str, Any]]) -> None:
        lines = [{"kind": kind} | record for record in records]
        # First the disk, then memory: nobody relies on a result that a full disk lost.
        if lines:
            append_lines(self._path, lines)
        for line in lines:
            self._index(line)

    def _index(self, line: dict[str, Any]) -> None:
        fields = {key: value for key, value in line.items() if key != "kind"}
        match line["kind"]:
            case "norm":
                self._norms[fields["scale"]] = fields["norm"]
            case "answer":
                self._answers[fields["key"]] = SteeredAnswer(**fields)
            case "reading":
                self._readings[fields["key"]] = Reading(**fields)
            case "judgement":
                judgement = _read_judgement(fields)
                self._judgements[judgement.rollout, judgement.judge] = judgement
                # A replaced judgement was paid for too.
                self.usage += judgement.usage


def steering_path(run: Run, trait: str) -> Path:
    """Where a run stores the sweeps of a trait."""
    return run.trait(trait).folder / "steering.jsonl"


def steering_budget(config: Config, run: Run, traits: Sequence[Trait]) -> Budget | None:
    """The budget for judging, less what the run and its sweeps of these traits have cost."""
    # Only the OpenAI judge costs money.
    limit = config.judge.openai.max_cost
    if limit is None or config.judge.backend != "openai":
        return None
    usages = [SteeringFile(steering_path(run, trait.name)).usage for trait in traits]
    return Budget(limit, RunLedgers(run).spent() + sum(usage.usd or 0.0 for usage in usages))


def _read_judgement(fields: dict[str, Any]) -> Judgement:
    return Judgement(
        fields["rollout"],
        fields["judge"],
        Score(**fields["score"]),
        Score(**fields["coherence"]),
        Usage(**fields["usage"]),
    )
