"""What a prompted judge is asked about an answer, and how its replies become one judgement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from traitcli.judging import prompts
from traitcli.judging.backend import Answer
from traitcli.judging.scales import Scale
from traitcli.records import Judgement, Score, Trait, Usage

EMPTY = Score(None, "empty answer", final=True)
_NOT_ASKED = Score(None, "not asked", final=True)


@dataclass(frozen=True, slots=True)
class Question:
    """One thing asked about one answer; `scale` is the one wanted."""

    rollout: str
    about: Literal["trait", "coherence"]
    scale: Scale
    template: str
    question: str
    answer: str

    def prompt(self, scale: Scale) -> str:
        """What to send to the judge to have the answer rated on a scale."""
        return prompts.write_prompt(
            prompts.on_scale(self.template, scale), self.question, self.answer
        )

    def can_ask_on(self, scale: Scale) -> bool:
        """Whether the template can ask on a scale that is not the one wanted."""
        return scale == self.scale or prompts.on_scale(self.template, scale) != self.template


class Questionnaire:
    """Asks for the trait on the configured scale and for coherence on 0–100."""

    def __init__(self, trait: Trait, judge: str, scale: Scale, coherence: bool) -> None:
        """`judge` is the identity that the judgements carry."""
        self._trait = trait
        self._judge = judge
        self._scale = scale
        self._coherence = coherence
        self._scores: dict[str, dict[str, Score]] = {}
        self._usage: dict[str, Usage] = {}

    def questions(self, answer: Answer) -> Sequence[Question]:
        """What to ask; nothing, when no text is left to ask about: see `blank`."""
        text = prompts.clean_answer(answer.response)
        if not text:
            return ()
        trait = Question(
            answer.rollout, "trait", self._scale, self._trait.judge_prompt, answer.question, text
        )
        if not self._coherence:
            return (trait,)
        return trait, Question(
            answer.rollout, "coherence", "0_100", prompts.COHERENCE, answer.question, text
        )

    def blank(self, answer: Answer) -> Judgement:
        """The judgement of an answer without text."""
        return Judgement(
            answer.rollout, self._judge, EMPTY, EMPTY if self._coherence else _NOT_ASKED
        )

    def note(self, question: Question, usage: Usage) -> None:
        """Count what a question took that got no score."""
        self._usage[question.rollout] = self._usage.get(question.rollout, Usage()) + usage

    def unfinished(self) -> list[Judgement]:
        """Judgements of the answers that were asked about in part, so that what they took is not forgotten."""
        cut = Score(None, "the judging ended before it was asked")
        taken = {rollout: usage for rollout, usage in self._usage.items() if usage != Usage()}
        scores = {
            rollout: {"trait": cut, "coherence": cut} | self._scores.get(rollout, {})
            for rollout in taken
        }
        return [
            Judgement(
                rollout, self._judge, scores[rollout]["trait"], scores[rollout]["coherence"], usage
            )
            for rollout, usage in taken.items()
        ]

    def receive(self, question: Question, score: Score, usage: Usage) -> Judgement | None:
        """Take a score; the judgement comes with the last one of an answer."""
        rollout = question.rollout
        scores = self._scores.setdefault(
            rollout, {} if self._coherence else {"coherence": _NOT_ASKED}
        )
        scores[question.about] = score
        self.note(question, usage)
        if len(scores) < 2:
            return None
        del self._scores[rollout]
        return Judgement(
            rollout, self._judge, scores["trait"], scores["coherence"], self._usage.pop(rollout)
        )
