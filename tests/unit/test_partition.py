"""Partitions of work among 0, 1, 2, 8 and 9 workers, for 1, 8 and 20 traits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from traitcli.judging import Answer
from traitcli.pipeline.messages import GenerateTask, ScoreTask
from traitcli.records import RolloutKey
from traitcli.scheduling.partition import (
    count_parts,
    plan_partitions,
    remaining_task,
    split_evenly,
    split_task,
)
from traitcli.traits.definitions import find_traits, load_trait

TRAIT = load_trait(find_traits(Path("nowhere"))["evil"])
each_count = pytest.mark.parametrize("traits", [1, 8, 20])
each_number_of_workers = pytest.mark.parametrize("workers", [1, 2, 8, 9])


def sizes_of(traits: int) -> dict[str, int]:
    """Traits that differ in length: 100, 110, 120 ..."""
    return {f"t{index}": 100 + 10 * index for index in range(traits)}


@each_count
@each_number_of_workers
def test_every_rollout_is_in_exactly_one_partition(traits, workers):
    sizes = sizes_of(traits)

    planned = Counter()
    for mine in plan_partitions(sizes, workers):
        for partition in mine:
            planned[partition.trait] += partition.rollouts

    assert planned == sizes


@each_count
@each_number_of_workers
def test_every_worker_has_something_to_do(traits, workers):
    assert all(plan_partitions(sizes_of(traits), workers))


@each_count
@each_number_of_workers
def test_no_trait_is_split_before_there_are_more_workers_than_traits(traits, workers):
    parts = count_parts(sizes_of(traits), workers)

    assert sum(parts.values()) == max(traits, workers)
    assert set(parts) == set(sizes_of(traits))


@each_count
@each_number_of_workers
def test_the_longest_traits_come_first_and_are_split_first(traits, workers):
    sizes = sizes_of(traits)

    parts = count_parts(sizes, workers)

    assert list(parts) == sorted(sizes, key=lambda name: -sizes[name])
    assert list(parts.values()) == sorted(parts.values(), reverse=True)
    assert max(parts.values()) - min(parts.values()) <= 1


@each_count
def test_without_workers_nothing_can_be_divided(traits):
    with pytest.raises(ValueError, match="no worker"):
        count_parts(sizes_of(traits), 0)


@each_number_of_workers
def test_traits_without_work_get_no_partition(workers):
    assert count_parts({"done": 0, "left": 5}, workers) == {"left": min(workers, 5)}
    assert plan_partitions({"done": 0}, workers) == [[]] * workers


def test_a_trait_never_has_more_parts_than_rollouts():
    assert count_parts({"small": 3, "one": 1}, 9) == {"small": 3, "one": 1}


def test_each_partition_goes_to_the_worker_with_the_least_work():
    plan = plan_partitions({"a": 50, "b": 30, "c": 30, "d": 10}, 2)

    assert [[partition.trait for partition in mine] for mine in plan] == [["a", "d"], ["b", "c"]]


@pytest.mark.parametrize(("count", "wanted"), [(10, 3), (3, 10), (7, 1), (1, 1), (100, 7)])
def test_parts_are_runs_of_neighbors_of_nearly_the_same_size(count, wanted):
    parts = split_evenly(range(count), wanted)

    assert [item for part in parts for item in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert len(parts) == min(wanted, count)


def test_splitting_no_items_gives_no_parts():
    assert split_evenly([], 4) == []


def test_answers_to_a_question_are_scored_together():
    answers = tuple(
        Answer(f"r{q}{n}", "positive", 0, f"question {q}", "text")
        for n in range(4)
        for q in range(3)
    )

    parts = split_task(ScoreTask(TRAIT, answers), 2)

    assert [sorted({a.question for a in part.answers}) for part in parts] == [
        ["question 0"],
        ["question 1", "question 2"],
    ]
    assert sorted(a.rollout for part in parts for a in part.answers) == sorted(
        a.rollout for a in answers
    )


def test_the_remaining_task_is_what_is_not_finished():
    keys = tuple(RolloutKey("evil", "extraction", "positive", 0, 0, repeat) for repeat in range(4))
    answer = Answer("a", "positive", 0, "q", "text")

    assert remaining_task(GenerateTask(TRAIT, keys), {keys[1].id, keys[3].id}).keys == (
        keys[1],
        keys[3],
    )
    assert remaining_task(ScoreTask(TRAIT, (answer,)), set()).answers == ()
