"""Brings the rollouts of a run into arrays: those that a vector is built from, and those that test it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from traitcli.pipeline.filtering import Selection
from traitcli.records import POLARITIES, Position, Rollout, Trait
from traitcli.runs.run import TraitFiles
from traitcli.vectors.separation import Labelled


def labelled(files: TraitFiles, rollouts: Sequence[Rollout], position: Position) -> Labelled:
    """Activations at a position, with what tells the rollouts apart, in their order."""
    return Labelled(
        files.activations([r.id for r in rollouts], position),
        np.array([r.polarity == "positive" for r in rollouts], dtype=bool),
        pair=np.array([r.pair for r in rollouts], dtype=np.int64),
        question=np.array([r.question for r in rollouts], dtype=np.int64),
        length=np.array([r.response_tokens for r in rollouts], dtype=np.int64),
    )


def ordered(rollouts: Iterable[Rollout]) -> list[Rollout]:
    """By pair, question and repeat, so that both sides come in one order."""
    return sorted(rollouts, key=_index)


def matched(rollouts: Iterable[Rollout]) -> list[Rollout]:
    """Those whose counterpart is there too, in order."""
    in_order = ordered(rollouts)
    sides = [{_index(r) for r in in_order if r.polarity == side} for side in POLARITIES]
    return [r for r in in_order if _index(r) in sides[0] & sides[1]]


def unseen_rollouts(
    trait: Trait, rollouts: Iterable[Rollout], selection: Selection
) -> list[Rollout]:
    """What a vector is tested on, when its pair is left out: answers to evaluation questions.

    A trait of ready responses need not have any: its kept ones do, since no two of its folds share a question.
    """
    unseen = [r for r in rollouts if r.split == "evaluation" and r.response_tokens]
    return unseen or (ordered(selection.kept) if trait.responses else [])


def _index(rollout: Rollout) -> tuple[int, int, int]:
    return rollout.pair, rollout.question, rollout.repeat
