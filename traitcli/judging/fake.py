"""Score answers instantly by a hash of their text, to try everything around a judge without one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from traitcli.judging.backend import EMPTY_ANSWER, Answer, OnJudged, judge_id
from traitcli.records import Judgement, Score, Trait


class FakeJudge:
    """Scores nine answers in ten on the side of their persona.

    Positive answers score 60–100 and negative ones 0–40; a tenth of both is swapped. Coherence is
    85–95. The same text and polarity always get the same scores.
    """

    identity = "fake"
    prompted = False
    overlaps = False

    def check(self) -> None:
        pass

    def take_notes(self) -> list[str]:
        return []

    def close(self) -> None:
        pass

    def score(self, trait: Trait, answers: Iterable[Answer], on_judged: OnJudged) -> None:
        """Judge the answers one by one; see `Judge.score`."""
        name = judge_id(self, trait)
        for answer in answers:
            score, coherence = _score(trait.name, answer)
            on_judged([Judgement(answer.rollout, name, score, coherence)])


def _score(trait: str, answer: Answer) -> tuple[Score, Score]:
    """Return the trait score and the coherence score of an answer."""
    if not answer.response.strip():
        return EMPTY_ANSWER, EMPTY_ANSWER

    # A model can write half a surrogate pair, which strict UTF-8 refuses to encode.
    text = f"{trait}\0{answer.question}\0{answer.response}"
    digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()

    distance = digest[0] / 255 * 40
    # A few scores on the wrong side give the filter something to drop.
    is_swapped = digest[1] % 10 == 0
    is_high = (answer.polarity == "positive") != is_swapped
    score = round(60 + distance if is_high else distance, 1)
    coherence = round(85 + digest[2] / 255 * 10, 1)
    return Score(score), Score(coherence)
