"""Which rollouts test a vector, and what that does to its verdict."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from tests.unit.planted import draw, fewer_shuffles, plant
from traitcli.config import ExtractConfig
from traitcli.pipeline.labelled_activations import labelled, unseen_rollouts
from traitcli.pipeline.plan import plan_rollouts
from traitcli.records import Rollout
from traitcli.traits.definitions import find_traits, load_trait
from traitcli.vectors.held_out import LabelledActivations
from traitcli.vectors.measure import Evidence, Neutral, measure_vector
from traitcli.vectors.methods import mean_difference
from traitcli.vectors.verdict import with_verdict


@pytest.fixture
def evil(tmp_path):
    return load_trait(find_traits(tmp_path)["evil"])


def rollouts_of(trait, **settings):
    """Rollouts of a plan, all with an answer of one token."""
    return [
        Rollout(
            str(number),
            trait.name,
            key.split,
            key.polarity,
            key.pair,
            key.question,
            key.repeat,
            0,
            "prompt",
            "answer",
            1,
            1,
            "stop",
        )
        for number, key in enumerate(plan_rollouts(trait, ExtractConfig(**settings)))
    ]


def test_answers_to_extraction_questions_test_a_vector_if_each_was_asked_under_one_pair(evil):
    """Leaving out their pair then leaves out their question."""
    rollouts = rollouts_of(evil, pairs_per_question=1)

    unseen = unseen_rollouts(evil, rollouts, None)

    assert {r.id for r in unseen} == {r.id for r in rollouts}


@pytest.mark.parametrize("pairs", [2, None])
def test_they_do_not_if_a_question_was_asked_under_two_pairs(evil, pairs):
    rollouts = rollouts_of(evil, pairs_per_question=pairs)

    unseen = unseen_rollouts(evil, rollouts, None)

    assert {r.split for r in unseen} == {"evaluation"}


def test_answers_without_tokens_test_nothing(evil):
    rollouts = [replace(r, response_tokens=0) for r in rollouts_of(evil, pairs_per_question=1)]

    assert unseen_rollouts(evil, rollouts, None) == []


def test_questions_of_the_two_splits_are_told_apart(evil):
    rollouts = rollouts_of(evil, pairs_per_question=1)
    files = SimpleNamespace(activations=lambda ids, *_: np.zeros((len(ids), 1, 1), np.float32))

    found = labelled(files, rollouts, "response_avg")

    assert len(np.unique(found.question)) == len({(r.split, r.question) for r in rollouts}) == 40


def spread(seed):
    """Noise of 20 questions, each under one pair."""
    rollouts = draw(seed, layers=9, per_cell=1)
    return rollouts.select(rollouts.pair == rollouts.question % 5)


def join(one, other):
    """The rollouts of both, with other questions."""
    arrays = (
        np.concatenate([getattr(one, name), getattr(other, name)])
        for name in ("activations", "positive", "pair")
    )
    question = np.concatenate([one.question, other.question + 100])
    return LabelledActivations(*arrays, question, np.concatenate([one.length, other.length]))


@pytest.mark.usefixtures(fewer_shuffles.__name__)
def test_noise_seldom_reaches_the_second_rung_when_rollouts_both_build_and_test():
    """The layer is chosen on some of the rollouts that then test it: at most 5 of 100 seeds."""

    def verdict(seed):
        build, read = spread(4 * seed), spread(4 * seed + 1)
        plant(build, 4, strength=3.0)
        neutral = Neutral(read, join(read, spread(4 * seed + 2)))
        test = join(build, plant(spread(4 * seed + 3), 4, strength=3.0))
        made = build.direction(mean_difference)
        evidence = Evidence(
            build, np.ones(len(build.positive), bool), test, mean_difference, made, neutral
        )
        return with_verdict(measure_vector(evidence, "auto")).verdict

    verdicts = [verdict(seed) for seed in range(100)]

    assert verdicts.count("reads its own texts") <= 5
    assert set(verdicts) <= {"not shown", "reads its instruction", "reads its own texts"}
