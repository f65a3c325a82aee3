"""Define what a prompted judge is asked about an answer, and collect its scores into judgements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from traitcli.judging import prompts
from traitcli.judging.backend import EMPTY_ANSWER, Answer
from traitcli.judging.scales import Scale
from traitcli.records import Judgement, Score, Trait, Usage

_NOT_ASKED = Score(None, "not asked", final=True)
# Not final: a later run asks for this score.
_INTERRUPTED = Score(None, "the judging ended before it was asked")


@dataclass(frozen=True, slots=True)
class Question:
    """One question about one answer; `scale` is the configured one."""

    rollout: str
    about: Literal["trait", "coherence"]
    scale: Scale
    template: str
    question: str
    answer: str

    def prompt(self, scale: Scale) -> str:
        """Return the text that asks a judge to rate the answer on a scale."""
        template = prompts.on_scale(self.template, scale)
        return prompts.write_prompt(template, self.question, self.answer)

    def can_ask_on(self, scale: Scale) -> bool:
        """Whether the template can ask on this scale."""
        return scale == self.scale or prompts.on_scale(self.template, scale) != self.template


class Questionnaire:
    """Asks for the trait on the configured scale, and for coherence on 0–100."""

    def __init__(self, trait: Trait, judge: str, scale: Scale, coherence: bool) -> None:
        """`judge` is the id that the judgements carry; see `judge_id`."""
        self._trait = trait
        self._judge = judge
        self._scale = scale
        self._coherence = coherence
        self._scores: dict[str, dict[str, Score]] = {}
        self._usage: dict[str, Usage] = {}

    def questions(self, answer: Answer) -> Sequence[Question]:
        """Return what to ask about an answer; nothing if it has no text (see `empty_judgement`)."""
        text = prompts.clean_answer(answer.response)
        if not text:
            return ()
        rollout, question = answer.rollout, answer.question
        trait_prompt = self._trait.judge_prompt
        trait = Question(rollout, "trait", self._scale, trait_prompt, question, text)
        if not self._coherence:
            return (trait,)
        coherence = Question(rollout, "coherence", "0_100", prompts.COHERENCE, question, text)
        return trait, coherence

    def empty_judgement(self, answer: Answer) -> Judgement:
        """Return the judgement of an answer without text."""
        coherence = EMPTY_ANSWER if self._coherence else _NOT_ASKED
        return Judgement(answer.rollout, self._judge, EMPTY_ANSWER, coherence)

    def receive(self, question: Question, score: Score, usage: Usage) -> Judgement | None:
        """Record a score. Returns the judgement if it was the answer's last missing score."""
        rollout = question.rollout
        if rollout not in self._scores:
            self._scores[rollout] = {} if self._coherence else {"coherence": _NOT_ASKED}
        scores = self._scores[rollout]
        scores[question.about] = score
        self.add_usage(question, usage)
        if len(scores) < 2:
            return None

        del self._scores[rollout]
        usage = self._usage.pop(rollout)
        return Judgement(rollout, self._judge, scores["trait"], scores["coherence"], usage)

    def add_usage(self, question: Question, usage: Usage) -> None:
        """Count what a question cost, also if it got no score."""
        self._usage[question.rollout] = self._usage.get(question.rollout, Usage()) + usage

    def unfinished(self) -> list[Judgement]:
        """Return judgements of the answers that lack a score, so that their cost is recorded."""
        judgements = []
        for rollout, usage in self._usage.items():
            # Nothing was paid for it. Without a judgement, it is asked again all the same.
            if usage == Usage():
                continue
            scores = self._scores.get(rollout, {})
            trait = scores.get("trait", _INTERRUPTED)
            coherence = scores.get("coherence", _INTERRUPTED)
            judgements.append(Judgement(rollout, self._judge, trait, coherence, usage))
        return judgements
