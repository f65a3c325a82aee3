"""Return the scores that labelled responses came with; no model is asked."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from traitcli.judging.backend import LABELLED, Answer, OnJudged, judge_id
from traitcli.records import Judgement, LabelledResponse, Score, Trait

_BATCH = 64
"""Judgements passed on at a time. Each batch is one write to disk and one progress event."""


class ProvidedJudge:
    """Returns the scores of a trait's labelled responses."""

    identity = LABELLED
    prompted = False
    # No model is asked, so no device is busy.
    overlaps = True

    def check(self) -> None:
        pass

    def take_notes(self) -> list[str]:
        return []

    def close(self) -> None:
        pass

    def score(self, trait: Trait, answers: Iterable[Answer], on_judged: OnJudged) -> None:
        """Look up each answer's scores; see `Judge.score`."""
        responses = {key.id: response for key, response in trait.by_rollout().items()}
        name = judge_id(self, trait)
        remaining = iter(answers)
        while batch := list(islice(remaining, _BATCH)):
            on_judged([_judge(name, answer.rollout, responses[answer.rollout]) for answer in batch])


def _judge(judge: str, rollout: str, response: LabelledResponse) -> Judgement:
    score = _score(response.score, response)
    coherence = _score(response.coherence, response)
    return Judgement(rollout, judge, score, coherence)


def _score(value: float | None, response: LabelledResponse) -> Score:
    reason = "" if value is not None else f"none in {response.file}"
    return Score(value, reason, method="provided", final=True)
