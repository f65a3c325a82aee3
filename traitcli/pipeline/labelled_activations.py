"""Turns rollouts of a run into arrays: those a vector is built from, and those that test it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from traitcli.pipeline.filtering import Selection, index_of, paired
from traitcli.records import Context, Position, Rollout, Trait
from traitcli.runs.run import TraitFiles
from traitcli.vectors.held_out import LabelledActivations


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
    question = np.array([r.question for r in rollouts], dtype=np.int64)
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
    """The rollouts that test a vector when their pair is left out: answers to evaluation questions.

    A trait of labelled responses may have none. Then its kept responses test the vector, because
    its folds share no question.
    """
    unseen = [r for r in rollouts if r.split == "evaluation" and r.response_tokens]
    return unseen or (ordered(selection.kept) if trait.responses else [])
