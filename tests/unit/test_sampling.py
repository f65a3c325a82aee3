"""Sampling against the softmax it inverts."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import pad
from transformers import TopPLogitsWarper

from tests.operators import counted_operators
from traitcli.config import SamplingConfig
from traitcli.generation.sampling import (
    NOT_FINITE,
    _bisect_threshold,
    _search_threshold,
    derive_seed,
    pick,
    uniforms,
)

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0, -torch.inf]])
VOCABULARIES = {"Llama 3": 128_256, "Qwen 2.5": 151_936, "Gemma 2": 256_000, "SmolLM2": 49_152}
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
WAYS = {"searched": _search_threshold, "bisected": _bisect_threshold}

each_way = pytest.mark.parametrize("way", WAYS)


def frequencies(sampling: SamplingConfig, logits: torch.Tensor = LOGITS) -> torch.Tensor:
    """The share of each token among draws that fill the unit cube evenly."""
    draws = torch.quasirandom.SobolEngine(3, scramble=True, seed=0).draw(2**15)
    picked = pick(logits.expand(len(draws), -1), draws, sampling)
    return torch.bincount(picked, minlength=logits.shape[1]) / len(draws)


def at_each_end() -> torch.Tensor:
    """All triples of the smallest draw, a middle one and the largest."""
    return torch.cartesian_prod(*[torch.tensor([0.0, 0.5, 1 - 2**-23])] * 3)


def naive(logits: torch.Tensor, draws: torch.Tensor) -> int:
    """The definition in float64: tokens at equal distances form a group, and groups do again."""
    probabilities = pad(logits.double().softmax(0), (0, -len(logits) % 1024))
    tokens = torch.arange(len(probabilities))
    for draw, groups in zip(draws.double(), (len(tokens) // 1024, 32, 32), strict=True):
        masses = torch.stack(
            [probabilities[tokens[group::groups]].sum() for group in range(groups)]
        )
        group = torch.searchsorted(masses.cumsum(0), draw * masses.sum(), right=True)
        tokens = tokens[int(group) :: groups]
    return int(tokens)


def test_tokens_come_as_often_as_the_softmax_says():
    assert torch.allclose(frequencies(SamplingConfig()), LOGITS[0].softmax(0), atol=1e-3)


def test_temperature_divides_the_logits():
    assert torch.allclose(
        frequencies(SamplingConfig(temperature=0.5)), (LOGITS[0] / 0.5).softmax(0), atol=1e-3
    )


def test_temperature_zero_is_greedy():
    assert frequencies(SamplingConfig(temperature=0)).tolist() == [1, 0, 0, 0, 0]


def test_top_k_keeps_the_k_likeliest():
    expected = torch.tensor([2.0, 1.0, -torch.inf, -torch.inf, -torch.inf]).softmax(0)

    assert torch.allclose(frequencies(SamplingConfig(top_k=2)), expected, atol=1e-3)


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    probabilities = LOGITS[0].softmax(0)
    just_over_the_first = float(probabilities[0]) + 0.01

    kept = frequencies(SamplingConfig(top_p=just_over_the_first)) > 0

    assert kept.tolist() == [True, True, False, False, False]


@each_way
@pytest.mark.parametrize("top_p", [0.01, 0.3, 0.8, 0.97, 0.9999])
def test_a_nucleus_is_the_smallest_set_that_reaches_p(way, top_p):
    scales = torch.tensor([[0.001, 0.1, 0.5, 1, 2, 4, 8, 40]]).T
    probabilities = (random_logits(8, 5000) * scales).softmax(1)

    least = WAYS[way](probabilities, top_p)

    for each, threshold in zip(probabilities.double(), least.double(), strict=True):
        assert threshold in each
        assert each[each >= threshold].sum() >= top_p - 1e-5
        assert each[each > threshold].sum() < top_p + 1e-5
    assert len({int(count) for count in (probabilities >= least).sum(1)}) > 1


@each_way
@pytest.mark.parametrize("shape", ["peaked", "spread", "flat"])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.95])
def test_a_nucleus_is_that_of_transformers(way, shape, top_p):
    logits = random_logits(16, 4096) * {"peaked": 6, "spread": 1.5, "flat": 0.2}[shape]
    probabilities = logits.softmax(1)

    kept = probabilities >= WAYS[way](probabilities, top_p)

    expected = TopPLogitsWarper(top_p)(None, logits).isfinite()
    # Of tokens at the border, rounding of two different sums may decide about one.
    assert ((kept != expected).sum(1) <= 1).all()
    assert (kept == expected).all(1).float().mean() > 0.9


def test_both_ways_find_the_same_nucleus_without_rounding():
    # Multiples of 2^-14, so that all sums are exact; most of them several times.
    random = torch.Generator().manual_seed(0)
    points = torch.randint(2**14, (20, 2**14), generator=random) % torch.tensor([[9, 40] * 10]).T
    counts = torch.stack([torch.bincount(each, minlength=3000) for each in points])
    probabilities = counts.float() / 2**14

    for top_p in (0.125, 0.25, 0.5, 0.9, 0.99):
        expected = sorted_threshold(probabilities, top_p)
        for way in WAYS.values():
            assert torch.equal(way(probabilities, top_p), expected)


def sorted_threshold(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """By sorting all of them, one row after another."""
    found = []
    for row in probabilities.tolist():
        left = top_p
        for probability in sorted(row, reverse=True):
            left -= probability
            if left <= 0:
                break
        found.append([probability])
    return torch.tensor(found)


@each_way
def test_equally_likely_tokens_are_all_in_the_nucleus_or_none(way):
    probabilities = torch.tensor([[1.0, 1.0, 1.0, -9.0], [0.0, 0.0, 0.0, 0.0]]).softmax(1)

    assert torch.equal(WAYS[way](probabilities, 0.5), probabilities[:, :1])


@each_way
def test_all_tokens_stay_where_rounding_lets_no_set_reach_p(way):
    probabilities = torch.tensor([[0.5, 0.4999999]])

    assert (probabilities >= WAYS[way](probabilities, 1 - 2**-24)).all()


@each_way
def test_rows_that_are_not_finite_keep_others_as_they_are(way):
    probabilities = torch.tensor([[torch.nan] * 3, [0.7, 0.2, 0.1]])

    assert WAYS[way](probabilities, 0.8)[1].item() == pytest.approx(0.2)
    for sampling in (SamplingConfig(top_p=0.8), SamplingConfig(top_p=0.8, top_k=2)):
        picked = pick(probabilities, torch.zeros(2, 3), sampling)
        assert picked.tolist() == [NOT_FINITE, 0]


def test_top_p_after_top_k_counts_the_probability_that_is_left():
    logits = random_logits(1, 2000) * 2
    sampling = SamplingConfig(top_k=50, top_p=0.6)

    kept = frequencies(sampling, logits) > 0

    best = logits[0].topk(50)
    reached = best.values.softmax(0).cumsum(0) >= 0.6
    expected = best.indices[: int(reached.int().argmax()) + 1]
    assert set(kept.nonzero().squeeze(1).tolist()) == set(expected.tolist())


def random_logits(count: int, vocabulary: int) -> torch.Tensor:
    return torch.randn(count, vocabulary, generator=torch.Generator().manual_seed(vocabulary))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("model", VOCABULARIES)
def test_sampling_passes_over_the_logits_at_most_three_times(model, temperature, dtype):
    vocabulary = VOCABULARIES[model]
    logits, draws = torch.zeros(2, vocabulary, dtype=dtype), torch.rand(2, 3)

    with counted_operators() as operators:
        pick(logits, draws, SamplingConfig(temperature=temperature))

    passes = [each.name for each in operators if each.size >= logits.numel()]
    assert 1 <= len(passes) <= 3, passes


def test_logits_that_need_nothing_are_not_copied():
    logits, draws = torch.zeros(2, 49_152), torch.rand(2, 3)

    with counted_operators() as operators:
        pick(logits, draws, SamplingConfig())

    passes = [each.name for each in operators if each.size >= logits.numel()]
    assert passes == ["_softmax", "sum"]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("size", [1000, 2048, 49_152, 128_256])
def test_tokens_are_those_of_a_softmax_that_is_padded_afterwards(size, temperature):
    logits = random_logits(300, size) * 3
    draws = uniforms(range(300), 1)[:, 0]

    picked = pick(logits, draws, SamplingConfig(temperature=temperature))

    probabilities = pad((logits / temperature).softmax(1), (0, -size % 1024))
    assert torch.equal(picked, by_three_sums(probabilities, draws))


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_half_precision_is_divided_and_summed_in_float32(dtype):
    logits = (random_logits(300, 5000) * 3).to(dtype)
    draws = uniforms(range(300), 1)[:, 0]

    for temperature in (1.0, 0.7):
        sampling = SamplingConfig(temperature=temperature)
        assert torch.equal(pick(logits, draws, sampling), pick(logits.float(), draws, sampling))


def by_three_sums(probabilities: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    """A group of groups, a group in it, a token in that; in float32, in the order of `pick`."""
    rows = torch.arange(len(probabilities))
    tokens = probabilities.view(len(rows), 32, -1)
    groups = tokens.sum(1).view(len(rows), 32, -1)

    first = by_one_sum(groups.sum(1), draws[:, :1])
    second = by_one_sum(groups[rows, :, first], draws[:, 1:2]) * groups.shape[2] + first
    return by_one_sum(tokens[rows, :, second], draws[:, 2:]) * tokens.shape[2] + second


def by_one_sum(masses: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    running = masses.cumsum(1)
    return torch.searchsorted(running, draws * running[:, -1:], right=True).squeeze(1)


def test_rare_tokens_come_as_often_as_the_softmax_says():
    logits = torch.cat([torch.zeros(3), torch.full((3000,), -8.5), torch.full((600,), -20.0)])[None]

    found = frequencies(SamplingConfig(), logits)

    expected = logits[0].softmax(0)
    assert found[:3].sum().item() == pytest.approx(expected[:3].sum().item(), abs=1e-3)
    assert found[3:3003].sum().item() == pytest.approx(expected[3:3003].sum().item(), abs=1e-3)


@pytest.mark.parametrize("size", [1, 31, 1023, 1024, 1025, 5000])
def test_a_group_of_groups_is_drawn_then_a_group_then_a_token(size):
    random = torch.Generator().manual_seed(size)
    logits = torch.randn(400, size, generator=random) * 3
    logits[:, 1::3] = -torch.inf
    draws = torch.rand(400, 3, generator=random)

    picked = pick(logits, draws, SamplingConfig())

    expected = torch.tensor([naive(*pair) for pair in zip(logits, draws, strict=True)])
    # The other draws are so close to a border that rounding decides.
    assert (picked == expected).float().mean() > 0.995
    assert logits.gather(1, picked[:, None]).isfinite().all()


def test_rounding_changes_far_fewer_tokens_than_with_one_sum():
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(1000, 20_000, generator=random) * 3
    # Rounding may differ by this much in another batch.
    other = logits + 1e-4 * torch.randn(logits.shape, generator=random)
    draws = torch.rand(1000, 3, generator=random)

    changed = pick(logits, draws, SamplingConfig()) != pick(other, draws, SamplingConfig())

    by_one_sum = [
        torch.searchsorted(each.double().softmax(1).cumsum(1), draws[:, :1].double())
        for each in (logits, other)
    ]
    assert changed.sum() <= (by_one_sum[0] != by_one_sum[1]).sum() / 4


@pytest.mark.parametrize("index", [0, 31, 32, 1023, 1024, 1999])
def test_the_only_possible_token_is_picked_at_any_index(index):
    logits = torch.full((27, 2000), -torch.inf)
    logits[:, index] = 0.0

    assert pick(logits, at_each_end(), SamplingConfig()).tolist() == [index] * 27


def test_an_impossible_token_is_never_picked_at_either_end():
    logits = torch.tensor([[-torch.inf, 0.0, -3.0, 0.0, -torch.inf, -60.0, -torch.inf]]).expand(
        27, -1
    )

    picked = pick(logits, at_each_end(), SamplingConfig())

    assert set(picked.tolist()) <= {1, 2, 3, 5}


def test_draws_of_a_sequence_depend_only_on_its_seed():
    together = uniforms([5, 6, 7], 4)

    assert torch.equal(uniforms([6], 4)[0], together[1])
    assert not torch.equal(together[0], together[1])


def test_seeds_differ_by_rollout_and_by_run():
    seeds = {derive_seed(run, f"evil-pos-p{pair}") for run in range(3) for pair in range(5)}

    assert len(seeds) == 15
    assert all(0 <= seed < 2**63 for seed in seeds)
