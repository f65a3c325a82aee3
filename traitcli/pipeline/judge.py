"""Has a judge score the rollouts of a run that have no score of this judge yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field

from traitcli.events import Listener, Progressed, StageStarted, Warned
from traitcli.judging import Answer, Judge, judge_id
from traitcli.judging.prompts import strip_thoughts
from traitcli.judging.reasons import merge_reasons
from traitcli.pipeline.ledgers import TraitLedgers
from traitcli.records import Judgement, Rollout, Trait, Usage


@dataclass(slots=True)
class JudgingStage:
    """Scores one trait's extraction rollouts as they are brought, `total` in all.

    name  what the judgements are filed under

    What this judge has scored before counts as done; a score missing for a reason that may pass
    is asked for again.
    """

    trait: Trait
    judge: Judge
    ledgers: TraitLedgers
    total: int
    on_event: Listener
    name: str = field(init=False)
    _settled: set[str] = field(init=False)
    _kept: int = field(init=False, default=0)
    _missing: int = field(init=False, default=0)
    _expected: int = field(init=False, default=0)
    _taken: int = field(init=False, default=0)
    _usage: Usage = field(init=False, default=Usage())
    _thinking: int = field(init=False, default=0)
    _stopped: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.name = judge_id(self.judge, self.trait)
        judged = self.ledgers.snapshot.judged_by(self.name)
        self._settled = {j.rollout for j in judged.values() if j.is_settled}

    def open(self) -> None:
        """Begin; raises ConfigError before anything is generated when scores are wanted and cannot be had."""
        if len(self._settled) < self.total:
            self.judge.check()
        self.on_event(StageStarted(self.trait.name, "judgements", len(self._settled), self.total))

    def expect(self, rollouts: Sequence[Rollout]) -> None:
        """Count what will be asked for, though the judge has not come to it."""
        self._expected += sum(
            r.split == "extraction" and r.id not in self._settled for r in rollouts
        )

    def answers(self, rollouts: Iterable[Rollout]) -> Iterator[Answer]:
        """What the judge is to be asked about; `rollouts` may still be being made."""
        for rollout in rollouts:
            if rollout.split == "extraction" and rollout.id not in self._settled:
                self._taken += 1
                yield self._answer(rollout)

    def score(self, rollouts: Iterable[Rollout]) -> int:
        """Judge here and now, and return how many were judged; every judgement is on disk before it counts."""
        answers = self.answers(rollouts)
        for first in answers:  # nothing to judge needs no judge
            self.judge.score(self.trait, _after(first, answers), self.keep)
        return self._kept

    def keep(self, judgements: Sequence[Judgement]) -> None:
        """Write judgements down; what was judged meanwhile by another is not written twice."""
        new = [j for j in judgements if j.rollout not in self._settled]
        self.ledgers.add_judgements(new)
        self._settled.update(judgement.rollout for judgement in new)
        self._kept += len(new)
        self._missing += sum(judgement.score.value is None for judgement in new)
        self._usage = sum((judgement.usage for judgement in new), self._usage)
        self.on_event(
            Progressed(
                self.trait.name,
                "judgements",
                len(self._settled),
                self.total,
                missing=self._missing,
                waiting=max(0, self._expected - self._taken),
                in_flight=self._taken - self._kept,
                usd=self._usage.usd if self._usage.requests else None,
            )
        )
        if self._stopped:
            raise CancelledError

    def close(self) -> None:
        """Say which scores are missing, and why, and what the judge did not see."""
        held = self.ledgers.snapshot.judged_by(self.name).values()
        reasons = [j.score.reason for j in held if j.score.value is None]
        if reasons:
            told = ", ".join(
                f"{count} × {reason}" for reason, count in merge_reasons(reasons).items()
            )
            self.on_event(
                Warned(
                    self.trait.name,
                    f"{len(reasons)} of {self.total} rollouts have no score: {told}",
                )
            )
        if self._thinking:
            told = f"{self._thinking} answers hold <think> blocks; the judge saw what stands after them only"
            self.on_event(Warned(self.trait.name, told))

    def stop(self) -> None:
        """Let scoring in another thread end with the next judgement, which is kept."""
        self._stopped = True

    def _answer(self, rollout: Rollout) -> Answer:
        question = self.trait.question(rollout.split, rollout.question)
        self._thinking += (
            self.judge.prompted and strip_thoughts(rollout.response) != rollout.response
        )
        return Answer(rollout.id, rollout.polarity, rollout.pair, question, rollout.response)


def _after(first: Answer, others: Iterator[Answer]) -> Iterator[Answer]:
    yield first
    yield from others
