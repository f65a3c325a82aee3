"""How work is cut for devices: 0, 1, 2, 8 and 9 of them, for 1, 8 and 20 traits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from traitcli.judging import Answer
from traitcli.pipeline.messages import Generating, Scoring
from traitcli.records import RolloutKey
from traitcli.scheduling.partition import assign, cut, cut_task, rest_of, share_out
from traitcli.traits.definitions import find_traits, load_trait

TRAIT = load_trait(find_traits(Path("nowhere"))["evil"])
each_count = pytest.mark.parametrize("traits", [1, 8, 20])
each_number_of_places = pytest.mark.parametrize("places", [1, 2, 8, 9])


def sizes_of(traits: int) -> dict[str, int]:
    """Traits that differ in length: 100, 110, 120 ..."""
    return {f"t{index}": 100 + 10 * index for index in range(traits)}


@each_count
@each_number_of_places
def test_every_rollout_is_in_exactly_one_share(traits, places):
    sizes = sizes_of(traits)

    shared = Counter()
    for share in (share for mine in assign(sizes, places) for share in mine):
        shared[share.trait] += share.rollouts

    assert shared == sizes


@each_count
@each_number_of_places
def test_every_place_has_something_to_do(traits, places):
    assert all(assign(sizes_of(traits), places))


@each_count
@each_number_of_places
def test_no_trait_is_cut_before_there_are_more_places_than_traits(traits, places):
    parts = share_out(sizes_of(traits), places)

    assert sum(parts.values()) == max(traits, places)
    assert set(parts) == set(sizes_of(traits))


@each_count
@each_number_of_places
def test_the_longest_traits_come_first_and_are_cut_first(traits, places):
    sizes = sizes_of(traits)

    parts = share_out(sizes, places)

    assert list(parts) == sorted(sizes, key=lambda name: -sizes[name])
    assert list(parts.values()) == sorted(parts.values(), reverse=True)
    assert max(parts.values()) - min(parts.values()) <= 1


@each_count
def test_without_a_place_nothing_can_be_shared_out(traits):
    with pytest.raises(ValueError, match="no place to work at"):
        share_out(sizes_of(traits), 0)


@each_number_of_places
def test_traits_without_work_have_no_share(places):
    assert share_out({"done": 0, "left": 5}, places) == {"left": min(places, 5)}
    assert assign({"done": 0}, places) == [[]] * places


def test_a_trait_is_never_cut_in_more_parts_than_it_has_rollouts():
    assert share_out({"small": 3, "one": 1}, 9) == {"small": 3, "one": 1}


def test_each_share_goes_to_who_is_free_first():
    plan = assign({"a": 50, "b": 30, "c": 30, "d": 10}, 2)

    assert [[share.trait for share in mine] for mine in plan] == [["a", "d"], ["b", "c"]]


@pytest.mark.parametrize(("count", "parts"), [(10, 3), (3, 10), (7, 1), (1, 1), (100, 7)])
def test_pieces_are_neighbours_of_nearly_the_same_size(count, parts):
    pieces = cut(range(count), parts)

    assert [item for piece in pieces for item in piece] == list(range(count))
    assert max(map(len, pieces)) - min(map(len, pieces)) <= 1
    assert len(pieces) == min(parts, count)


def test_nothing_is_cut_into_nothing():
    assert cut([], 4) == []


def test_answers_to_a_question_are_scored_together():
    answers = tuple(
        Answer(f"r{q}{n}", "positive", 0, f"question {q}", "text")
        for n in range(4)
        for q in range(3)
    )

    pieces = cut_task(Scoring(TRAIT, answers), 2)

    assert [sorted({a.question for a in piece.answers}) for piece in pieces] == [
        ["question 0"],
        ["question 1", "question 2"],
    ]
    assert sorted(a.rollout for piece in pieces for a in piece.answers) == sorted(
        a.rollout for a in answers
    )


def test_the_rest_of_a_task_is_what_is_not_finished():
    keys = tuple(RolloutKey("evil", "extraction", "positive", 0, 0, repeat) for repeat in range(4))
    answer = Answer("a", "positive", 0, "q", "text")

    assert rest_of(Generating(TRAIT, keys), {keys[1].id, keys[3].id}).keys == (keys[1], keys[3])
    assert rest_of(Scoring(TRAIT, (answer,)), set()).answers == ()
