"""Common beginnings of prompts: what they cover, what they cost, and when they are done with."""

from __future__ import annotations

import random

import pytest

from traitcli.models.prefix_tree import find_shared_prefixes

HEAD, LEFT, RIGHT = tuple(range(100, 120)), tuple(range(200, 210)), tuple(range(300, 310))


def path(stem) -> list:
    """A stem and those it stands on."""
    return [stem, *path(stem.parent)] if stem else []


def read_in_all(prompts) -> int:
    """Tokens that are read when every stem is read once, and of each prompt what stands behind its stem."""
    leaves = find_shared_prefixes(prompts)
    stems = {stem for _, leaf in leaves for stem in path(leaf)}
    above = sum(len(stem.ids) - len(stem.parent.ids if stem.parent else ()) for stem in stems)
    return above + sum(
        len(prompts[index]) - len(stem.ids if stem else ()) for index, stem in leaves
    )


def test_what_all_share_and_what_some_share_is_read_once():
    prompts = [(*HEAD, *LEFT, 1), (*HEAD, *RIGHT, 1), (*HEAD, *LEFT, 2), (*HEAD, *RIGHT, 2)]

    leaves = dict(find_shared_prefixes(prompts))

    assert leaves[0] is leaves[2] is not leaves[1] is leaves[3]
    assert (leaves[0].ids, leaves[1].ids) == ((*HEAD, *LEFT), (*HEAD, *RIGHT))
    assert leaves[0].parent is leaves[1].parent
    assert leaves[0].parent.ids == HEAD
    assert read_in_all(prompts) == len(HEAD) + len(LEFT) + len(RIGHT) + 4


def test_a_prompt_that_is_repeated_is_read_once():
    assert read_in_all([HEAD] * 10) == len(HEAD)
    assert read_in_all([HEAD, (*HEAD, 1), HEAD, (*HEAD, 1)]) == len(HEAD) + 2


@pytest.mark.parametrize("prompts", [[], [HEAD], [(1,), (2,)], [(1, 2, 3, 4), (1, 2, 3, 5)]])
def test_too_little_in_common_is_no_stem(prompts):
    assert [stem for _, stem in find_shared_prefixes(prompts)] == [None] * len(prompts)


def test_a_prompt_that_is_the_beginning_of_another_keeps_a_token_of_its_own():
    leaves = dict(find_shared_prefixes([HEAD, (*HEAD, 1, 2)]))

    assert leaves[0] is leaves[1]
    assert leaves[0].ids == HEAD[:-1]


@pytest.mark.parametrize("seed", range(20))
def test_every_prompt_begins_with_its_stem_and_every_stem_has_its_users(seed):
    draw = random.Random(seed)
    prompts = [
        tuple(draw.choices((1, 2), weights=(9, 1), k=draw.randint(1, 60))) for _ in range(40)
    ]

    leaves = find_shared_prefixes(prompts)

    assert sorted(index for index, _ in leaves) == list(range(40))
    stems = {stem for _, leaf in leaves for stem in path(leaf)}
    for index, stem in leaves:
        same = prompts.count(prompts[index]) > 1
        assert stem is None or stem.ids == (
            prompts[index] if same else prompts[index][:-1][: len(stem.ids)]
        )
    assert all(stem.ids[: len(stem.parent.ids)] == stem.parent.ids for stem in stems if stem.parent)
    users = [stem for _, stem in leaves] + [stem.parent for stem in stems]
    assert all(stem.users == users.count(stem) >= 2 for stem in stems)
    assert read_in_all(prompts) <= sum(map(len, prompts))
