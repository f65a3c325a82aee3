"""Sampling against the softmax it inverts."""

from __future__ import annotations

import pytest
import torch

from traitcli.config import SamplingConfig
from traitcli.generation.sampling import _least_in_nucleus, derive_seed, pick, uniforms

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0, -torch.inf]])


def frequencies(sampling: SamplingConfig, draws: int = 20_000) -> torch.Tensor:
    """How often each token is picked on an even grid of draws."""
    grid = (torch.arange(draws) + 0.5) / draws
    picked = pick(LOGITS.expand(draws, -1), grid, sampling)
    return torch.bincount(picked, minlength=5) / draws


def test_tokens_come_as_often_as_the_softmax_says():
    assert torch.allclose(frequencies(SamplingConfig()), LOGITS[0].softmax(0), atol=1e-3)


def test_temperature_divides_the_logits():
    assert torch.allclose(frequencies(SamplingConfig(temperature=0.5)), (LOGITS[0] / 0.5).softmax(0), atol=1e-3)


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
    logits = torch.randn(6, 5000, generator=torch.Generator().manual_seed(0)) * torch.tensor([[0.1, 0.5, 1, 2, 4, 8]]).T

    least = _least_in_nucleus(logits, top_p)

    for row, last in zip(logits.double(), least.double(), strict=True):
        probabilities = row.softmax(0)
        assert probabilities[row >= last].sum() >= top_p - 1e-5
        assert probabilities[row > last].sum() < top_p + 1e-5
    assert len({int(count) for count in (logits >= least).sum(1)}) > 1


def test_equally_likely_tokens_are_all_in_the_nucleus_or_none():
    logits = torch.tensor([[1.0, 1.0, 1.0, -9.0]])

    assert _least_in_nucleus(logits, 0.5).item() == 1.0


@pytest.mark.parametrize("size", [1, 255, 256, 257, 512, 5000])
def test_a_draw_is_inverted_as_by_one_running_sum_over_the_vocabulary(size):
    random = torch.Generator().manual_seed(size)
    logits = torch.randn(2000, size, generator=random) * 3
    logits[:, 1::3] = -torch.inf
    draws = torch.rand(2000, generator=random)
    running = logits.double().softmax(1).cumsum(1)

    picked = pick(logits, draws, SamplingConfig())

    expected = torch.searchsorted(running, draws[:, None].double() * running[:, -1:], right=True).squeeze(1)
    assert (picked == expected).float().mean() > 0.995  # the others lie where rounding decides
    assert logits.gather(1, picked[:, None]).isfinite().all()


@pytest.mark.parametrize("place", [0, 255, 256, 300, 599])
def test_the_only_possible_token_is_picked_wherever_it_stands(place):
    logits = torch.full((3, 600), -torch.inf)
    logits[:, place] = 0.0

    assert pick(logits, torch.tensor([0.0, 0.5, 1 - 2**-23]), SamplingConfig()).tolist() == [place] * 3


def test_an_impossible_token_is_never_picked_at_either_end():
    ends = torch.tensor([0.0, 1 - 2**-23])
    impossible_first = torch.tensor([[-torch.inf, 0.0, 0.0, -torch.inf]]).expand(2, -1)

    assert pick(impossible_first, ends, SamplingConfig()).tolist() == [1, 2]


def test_draws_of_a_row_depend_on_its_seed_alone():
    together = uniforms([5, 6, 7], 4)

    assert torch.equal(uniforms([6], 4)[0], together[1])
    assert not torch.equal(together[0], together[1])


def test_seeds_differ_by_rollout_and_by_run():
    seeds = {derive_seed(run, f"evil-pos-p{pair}") for run in range(3) for pair in range(5)}

    assert len(seeds) == 15
    assert all(0 <= seed < 2**63 for seed in seeds)
