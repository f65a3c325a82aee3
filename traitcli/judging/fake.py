"""Score answers instantly by a hash of their text, so that everything around a judge can be tried without one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from traitcli.judging.backend import Answer, OnJudged
from traitcli.records import Judgement, Score, Trait


class FakeJudge:
    """Finds nine answers in ten on the side that their persona asked for.

    Positive answers score 60–100 and negative ones 0–40, a tenth the other way round; coherence is 85–95.
    The same text always gets the same scores.
    """

    identity = "fake"
    prompted = False
    overlaps = False

    def check(self) -> None:
        pass

    def close(self) -> None:
        pass

    def score(self, trait: Trait, answers: Iterable[Answer], on_judged: OnJudged) -> None:
        for answer in answers:
            on_judged([_judge(trait.name, answer)])


def _judge(trait: str, answer: Answer) -> Judgement:
    if not answer.response.strip():
        none = Score(None, "empty answer", final=True)
        return Judgement(answer.rollout, FakeJudge.identity, none, none)
    digest = hashlib.sha256(
        f"{trait}\0{answer.question}\0{answer.response}".encode("utf-8", "replace")
    ).digest()
    strength = digest[0] / 255 * 40
    strays = digest[1] % 10 == 0
    high = (answer.polarity == "positive") != strays
    return Judgement(
        rollout=answer.rollout,
        judge=FakeJudge.identity,
        score=Score(round(60 + strength if high else strength, 1)),
        coherence=Score(round(85 + digest[2] / 255 * 10, 1)),
    )
