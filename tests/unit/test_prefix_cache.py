"""Prompts read after a cached prefix, against each whole prompt without a cache."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import FAMILIES
from traitcli.judging.local.prefix_cache import continue_prompts, read_prefix, read_prompts
from traitcli.models.prefix_tree import common_start

START = tuple(range(20, 60))  # Longer than the sliding window of the tiny Gemma.
PROMPTS = [(*START, 9), (*START, *range(100, 130)), (*START, *range(200, 290))]


def alone(model, ids):
    """Probabilities [V] of the next token."""
    with torch.no_grad():
        return model.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].softmax(-1)


def assert_same(logits, expected):
    torch.testing.assert_close(logits.softmax(-1), torch.stack(expected), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("length", [0, 5, len(START)])
def test_prompts_after_a_prefix_are_as_if_read_whole(loaded, family, length):
    model = loaded(family)
    prefix = read_prefix(model, START[:length])

    batch = read_prompts(model, PROMPTS, prefix)

    assert len(prefix.ids) == length
    assert_same(batch.logits, [alone(model, ids) for ids in PROMPTS])


@pytest.mark.parametrize("family", FAMILIES)
def test_any_prompts_of_a_batch_can_be_continued(loaded, family):
    model = loaded(family)
    batch = read_prompts(model, PROMPTS, read_prefix(model, START))

    for indices in ([0, 1, 2], [2, 0, 0, 1]):
        logits = continue_prompts(model, batch, indices, [(7, 8 + i) for i in indices])

        assert_same(logits, [alone(model, (*PROMPTS[i], 7, 8 + i)) for i in indices])


def test_a_prefix_is_shortened_to_what_other_prompts_share(loaded):
    model = loaded("gemma2")
    cached = read_prefix(model, START)
    others = [(*START[:30], 9, 9), (*START[:30], 8)]

    prefix = cached.shortened(common_start(others))
    batch = read_prompts(model, others, prefix)

    assert prefix.ids == START[:30]
    assert_same(batch.logits, [alone(model, ids) for ids in others])
    assert cached.ids == START


@pytest.mark.parametrize(
    ("sequences", "start"),
    [
        ([(1, 2, 3)], (1, 2, 3)),
        ([(1, 2), (1, 2, 3)], (1, 2)),
        ([(1, 2, 3), (1, 9), (1, 2, 4)], (1,)),
        ([(2,), (1,)], ()),
    ],
)
def test_the_common_start_is_the_shared_prefix_of_all_sequences(sequences, start):
    assert common_start(sequences) == start
