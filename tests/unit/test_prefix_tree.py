"""The prefix tree of prompts: its coverage, its cost, and the release of prefixes."""

from __future__ import annotations

import random

import pytest

from traitcli.models.prefix_tree import find_shared_prefixes

HEAD, LEFT, RIGHT = tuple(range(100, 120)), tuple(range(200, 210)), tuple(range(300, 310))


def with_ancestors(prefix) -> list:
    return [prefix, *with_ancestors(prefix.parent)] if prefix else []


def count_read_tokens(prompts) -> int:
    """Tokens to read if each shared prefix and the rest of each prompt are read once."""
    leaves = find_shared_prefixes(prompts)
    prefixes = {prefix for _, leaf in leaves for prefix in with_ancestors(leaf)}
    total = 0
    for prefix in prefixes:
        total += len(prefix.ids) - len(prefix.parent.ids if prefix.parent else ())
    for index, prefix in leaves:
        total += len(prompts[index]) - len(prefix.ids if prefix else ())
    return total


def test_prefixes_shared_by_all_or_some_prompts_are_read_once():
    prompts = [(*HEAD, *LEFT, 1), (*HEAD, *RIGHT, 1), (*HEAD, *LEFT, 2), (*HEAD, *RIGHT, 2)]

    leaves = dict(find_shared_prefixes(prompts))

    assert leaves[0] is leaves[2] is not leaves[1] is leaves[3]
    assert (leaves[0].ids, leaves[1].ids) == ((*HEAD, *LEFT), (*HEAD, *RIGHT))
    assert leaves[0].parent is leaves[1].parent
    assert leaves[0].parent.ids == HEAD
    assert count_read_tokens(prompts) == len(HEAD) + len(LEFT) + len(RIGHT) + 4


def test_equal_prompts_are_read_once():
    assert count_read_tokens([HEAD] * 10) == len(HEAD)
    assert count_read_tokens([HEAD, (*HEAD, 1), HEAD, (*HEAD, 1)]) == len(HEAD) + 2


@pytest.mark.parametrize("prompts", [[], [HEAD], [(1,), (2,)], [(1, 2, 3, 4), (1, 2, 3, 5)]])
def test_a_short_common_beginning_is_not_a_shared_prefix(prompts):
    assert [prefix for _, prefix in find_shared_prefixes(prompts)] == [None] * len(prompts)


def test_a_prompt_that_is_the_beginning_of_another_keeps_a_token_to_read():
    leaves = dict(find_shared_prefixes([HEAD, (*HEAD, 1, 2)]))

    assert leaves[0] is leaves[1]
    assert leaves[0].ids == HEAD[:-1]


@pytest.mark.parametrize("seed", range(20))
def test_every_prompt_begins_with_its_prefix_and_every_prefix_counts_its_users(seed):
    draw = random.Random(seed)
    prompts = [
        tuple(draw.choices((1, 2), weights=(9, 1), k=draw.randint(1, 60))) for _ in range(40)
    ]

    leaves = find_shared_prefixes(prompts)

    assert sorted(index for index, _ in leaves) == list(range(40))
    prefixes = {prefix for _, leaf in leaves for prefix in with_ancestors(leaf)}
    for index, prefix in leaves:
        is_repeated = prompts.count(prompts[index]) > 1
        assert prefix is None or prefix.ids == (
            prompts[index] if is_repeated else prompts[index][:-1][: len(prefix.ids)]
        )
    for prefix in prefixes:
        assert not prefix.parent or prefix.ids[: len(prefix.parent.ids)] == prefix.parent.ids
    users = [prefix for _, prefix in leaves] + [prefix.parent for prefix in prefixes]
    assert all(prefix.users == users.count(prefix) >= 2 for prefix in prefixes)
    assert count_read_tokens(prompts) <= sum(map(len, prompts))


def test_a_prefix_frees_its_memory_with_its_last_user():
    [(_, prefix), _, _] = find_shared_prefixes([(*HEAD, number) for number in range(3)])
    prefix.location = ("batch", 0)

    prefix.release(2)
    assert prefix.location == ("batch", 0)

    prefix.release(1)
    assert prefix.location is None
