"""Has a judge score the rollouts of a run that it has not scored yet."""

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
    """Scores one trait's extraction rollouts as they come, `total` in all.

    name  the judge's id, under which its judgements are stored

    What this judge has scored before counts as done. A score that is missing for a temporary
    reason is asked for again.
    """

    trait: Trait
    judge: Judge
    ledgers: TraitLedgers
    total: int
    on_event: Listener
    name: str = field(init=False)
    _settled: set[str] = field(init=False)
    _stored: int = field(init=False, default=0)
    _missing: int = field(init=False, default=0)
    _expected: int = field(init=False, default=0)
    _asked: int = field(init=False, default=0)
    _usage: Usage = field(init=False, default=Usage())
    _thinking: int = field(init=False, default=0)
    _stopped: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.name = judge_id(self.judge, self.trait)
        judged = self.ledgers.snapshot.judged_by(self.name)
        self._settled = {j.rollout for j in judged.values() if j.is_settled}

    def open(self) -> None:
        """Start; raises ConfigError, before anything is generated, if the judge cannot score."""
        # A finished stage must not need a key or a running endpoint.
        if len(self._settled) < self.total:
            self.judge.check()
        self.on_event(StageStarted(self.trait.name, "judgements", len(self._settled), self.total))

    def expect(self, rollouts: Sequence[Rollout]) -> None:
        """Count rollouts that will be scored later, for the progress display."""
        self._expected += sum(self._needs_score(rollout) for rollout in rollouts)

    def answers(self, rollouts: Iterable[Rollout]) -> Iterator[Answer]:
        """What to ask the judge; `rollouts` may still grow while this is iterated."""
        for rollout in rollouts:
            if self._needs_score(rollout):
                self._asked += 1
                yield self._answer(rollout)

    def score(self, rollouts: Iterable[Rollout]) -> int:
        """Judge in this thread and return the number of judgements, all of them stored."""
        answers = self.answers(rollouts)
        for first in answers:  # without an answer the judge need not even be available
            self.judge.score(self.trait, _chain(first, answers), self.store)
        return self._stored

    def store(self, judgements: Sequence[Judgement]) -> None:
        """Store judgements, except of rollouts that have been judged meanwhile."""
        # A worker that was thought dead may deliver judgements that another one made again.
        new = [j for j in judgements if j.rollout not in self._settled]
        # On disk before they count: a paid judgement is never asked for twice.
        self.ledgers.add_judgements(new)
        self._settled.update(judgement.rollout for judgement in new)

        self._stored += len(new)
        self._missing += sum(judgement.score.value is None for judgement in new)
        self._usage = sum((judgement.usage for judgement in new), self._usage)
        self.on_event(
            Progressed(
                self.trait.name,
                "judgements",
                len(self._settled),
                self.total,
                missing=self._missing,
                waiting=max(0, self._expected - self._asked),
                in_flight=self._asked - self._stored,
                usd=self._usage.usd if self._usage.requests else None,
            )
        )

        # Here and not earlier: the judgement that came is stored.
        if self._stopped:
            raise CancelledError

    def close(self) -> None:
        """Warn about missing scores, with the reasons, and about text the judge did not see."""
        judged = self.ledgers.snapshot.judged_by(self.name).values()
        reasons = [j.score.reason for j in judged if j.score.value is None]
        if reasons:
            counts = merge_reasons(reasons).items()
            listed = ", ".join(f"{count} × {reason}" for reason, count in counts)
            message = f"{len(reasons)} of {self.total} rollouts have no score: {listed}"
            self.on_event(Warned(self.trait.name, message))
        for note in self.judge.take_notes():
            self.on_event(Warned(self.trait.name, note))
        if self._thinking:
            cut = "answers contain <think> blocks; the judge saw only the text after them"
            self.on_event(Warned(self.trait.name, f"{self._thinking} {cut}"))

    @property
    def scores_nothing(self) -> bool:
        """Whether the judge has judged rollouts, and scored none of them."""
        judged = self.ledgers.snapshot.judged_by(self.name).values()
        return bool(judged) and all(one.score.value is None for one in judged)

    def stop(self) -> None:
        """End scoring in another thread with the next judgement, which is stored."""
        self._stopped = True

    def _needs_score(self, rollout: Rollout) -> bool:
        return rollout.split == "extraction" and rollout.id not in self._settled

    def _answer(self, rollout: Rollout) -> Answer:
        question = self.trait.question(rollout.split, rollout.question)
        if self.judge.prompted and strip_thoughts(rollout.response) != rollout.response:
            self._thinking += 1
        return Answer(rollout.id, rollout.polarity, rollout.pair, question, rollout.response)


def _chain(first: Answer, others: Iterator[Answer]) -> Iterator[Answer]:
    yield first
    yield from others
