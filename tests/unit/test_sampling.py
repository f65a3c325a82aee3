"""Sampling against the softmax it inverts."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import pad

from traitcli.config import SamplingConfig
from traitcli.generation.sampling import derive_seed, nucleus_threshold, pick, uniforms

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0, -torch.inf]])


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


@pytest.mark.parametrize("top_p", [0.01, 0.3, 0.8, 0.97, 0.9999])
def test_a_nucleus_is_the_smallest_set_that_reaches_p(top_p):
    logits = (
        torch.randn(6, 5000, generator=torch.Generator().manual_seed(0))
        * torch.tensor([[0.1, 0.5, 1, 2, 4, 8]]).T
    )

    least = nucleus_threshold(logits, top_p)

    for each, threshold in zip(logits.double(), least.double(), strict=True):
        probabilities = each.softmax(0)
        assert probabilities[each >= threshold].sum() >= top_p - 1e-5
        assert probabilities[each > threshold].sum() < top_p + 1e-5
    assert len({int(count) for count in (logits >= least).sum(1)}) > 1


def test_equally_likely_tokens_are_all_in_the_nucleus_or_none():
    logits = torch.tensor([[1.0, 1.0, 1.0, -9.0]])

    assert nucleus_threshold(logits, 0.5).item() == 1.0


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
