"""The judge of ready responses: the scores that they came with; nobody is asked."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from traitcli.judging.backend import LABELLED, Answer, OnJudged, judge_id
from traitcli.records import Judgement, LabelledResponse, Score, Trait

_TOGETHER = 64
"""Judgements that are handed over together."""


class ProvidedJudge:
    """Hands over the scores of a trait's ready responses."""

    identity = LABELLED
    prompted = False
    overlaps = True

    def check(self) -> None:
        pass

    def close(self) -> None:
        pass

    def score(self, trait: Trait, answers: Iterable[Answer], on_judged: OnJudged) -> None:
        """Look up each answer's scores; see `Judge.score`."""
        given = {key.id: response for key, response in trait.ready().items()}
        name = judge_id(self, trait)
        coming = iter(answers)
        while some := list(islice(coming, _TOGETHER)):
            on_judged([_judgement(name, answer.rollout, given[answer.rollout]) for answer in some])


def _judgement(judge: str, rollout: str, response: LabelledResponse) -> Judgement:
    return Judgement(
        rollout, judge, _score(response.score, response), _score(response.coherence, response)
    )


def _score(value: float | None, response: LabelledResponse) -> Score:
    reason = "" if value is not None else f"none in {response.file}"
    return Score(value, reason, method="given", final=True)
