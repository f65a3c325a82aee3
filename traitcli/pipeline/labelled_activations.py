"""Turns rollouts of a run into arrays: those a vector is built from, and those that test it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from traitcli.pipeline.filtering import Selection, index_of, paired
from traitcli.records import Context, Position, Rollout, Trait
from traitcli.runs.run import TraitFiles
from traitcli.vectors.held_out import LabelledActivations

_FIRST_EVALUATION = 1 << 32
"""Above the index of any question."""


def labelled(
    files: TraitFiles,
    rollouts: Sequence[Rollout],
    position: Position,
    context: Context = "persona",
) -> LabelledActivations:
    """Activations of rollouts at a position, with their labels, in the order of the rollouts."""
    # The order of `activations` is that of the ids, and all labels below follow it.
    activations = files.activations([r.id for r in rollouts], position, context)
    positive = np.array([r.polarity == "positive" for r in rollouts], dtype=bool)
    pair = np.array([r.pair for r in rollouts], dtype=np.int64)
    question = np.array([_question_number(r) for r in rollouts], dtype=np.int64)
    length = np.array([r.response_tokens for r in rollouts], dtype=np.int64)
    return LabelledActivations(activations, positive, pair=pair, question=question, length=length)


def ordered(rollouts: Iterable[Rollout]) -> list[Rollout]:
    """Sorted by pair, question and repeat, so that both sides are in the same order."""
    return sorted(rollouts, key=index_of)


def matched(rollouts: Iterable[Rollout]) -> list[Rollout]:
    """The rollouts whose counterpart on the other side is among them, sorted."""
    return paired(ordered(rollouts))


def unseen_rollouts(
    trait: Trait, rollouts: Iterable[Rollout], selection: Selection
) -> list[Rollout]:
    """The rollouts that test a vector when their pair is left out: it has not seen their questions.

    These are the answers to evaluation questions, and if every extraction question was asked under
    one pair alone, those to extraction questions too. A trait of labelled responses may have no
    evaluation questions. Then its kept responses test the vector, because its folds share no
    question.
    """
    answered = [r for r in rollouts if r.response_tokens]
    unseen = [r for r in answered if r.split == "evaluation"]
    if trait.responses:
        return unseen or ordered(selection.kept)
    extraction = [r for r in answered if r.split == "extraction"]
    asked = {(r.question, r.pair) for r in extraction}
    each_under_one = len(asked) == len({question for question, _ in asked})
    return [*unseen, *extraction] if each_under_one else unseen


def _question_number(rollout: Rollout) -> int:
    """Tells the first evaluation question from the first extraction question."""
    return rollout.question + (_FIRST_EVALUATION if rollout.split == "evaluation" else 0)
