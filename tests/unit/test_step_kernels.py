"""Attention kernels of others are called so that they give what our own attention gives.

flash-attn and torch's varlen_attn need CUDA: functions with their arguments stand in for them, and
compute what their documentation says, one sequence at a time. FlexAttention is the real one.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from torch.nn.attention import varlen

from tests.unit import test_decode as decoding
from traitcli.config import SamplingConfig
from traitcli.generation.fixed_decode import FixedLoop, HowToRun
from traitcli.generation.mean_activations import MeanReader
from traitcli.generation.request import release_none
from traitcli.models.attention import AttentionRule
from traitcli.models.fixed_input import Kernels
from traitcli.models.kv_store import KVStore
from traitcli.models.step_kernels import KERNELS, Asked, Lengths, choose_kernel

# On CUDA it is compiled.
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")

SLOTS, HEADS, KV_HEADS, CAPACITY, WIDTH = 5, 6, 2, 24, 8
POSITIONS = torch.tensor([0, 7, 23, 11, 3])
RULES = {
    "plain": AttentionRule(0.3, None, None, None),
    "a window": AttentionRule(0.3, 4, None, None),
    "a soft cap": AttentionRule(0.3, None, 2.0, None),
    "a window and a soft cap": AttentionRule(0.3, 4, 2.0, None),
    "sinks": AttentionRule(0.3, None, None, torch.linspace(-1, 1, HEADS)),
}
CAN = {
    "flash_attn": {"plain", "a window", "a soft cap", "a window and a soft cap"},
    "varlen_attn": {"plain", "a window"},
    "flex_attention": {"plain", "a window", "a soft cap", "a window and a soft cap"},
}


def one_query(query, keys, values, scale, left, cap=0.0):
    """[heads, D] of a query [heads, D] that comes last after keys [T, kv heads, D]."""
    keys, values = keys[-(left + 1) :], values[-(left + 1) :]
    repeats = query.shape[0] // keys.shape[1]
    mixed = []
    for head, vector in enumerate(query):
        scores = scale * keys[:, head // repeats] @ vector
        if cap:
            scores = cap * torch.tanh(scores / cap)
        mixed.append(scores.softmax(0) @ values[:, head // repeats])
    return torch.stack(mixed)


def flash_attn_with_kvcache(
    q,
    k_cache,
    v_cache,
    *,
    cache_seqlens,
    softmax_scale,
    causal=False,
    window_size=(-1, -1),
    softcap=0.0,
):
    """q [B, 1, heads, D], caches [B, T, kv heads, D], lengths int32 [B]."""
    assert cache_seqlens.dtype == torch.int32
    assert causal
    assert k_cache.stride(-1) == 1
    left = window_size[0] if window_size[0] >= 0 else CAPACITY * 9
    return torch.stack(
        [
            one_query(q[i, 0], k_cache[i, :used], v_cache[i, :used], softmax_scale, left, softcap)
            for i, used in enumerate(cache_seqlens.tolist())
        ]
    )[:, None]


def varlen_attn(
    query,
    key,
    value,
    cu_seq_q,
    cu_seq_k,
    max_q,
    max_k,
    *,
    scale=None,
    window_size=(-1, -1),
    enable_gqa=False,
    seqused_k=None,
):
    """query [T_q, heads, D], keys [T_k, kv heads, D]; `seqused_k` of each slot's keys count."""
    assert cu_seq_q.tolist() == list(range(len(query) + 1))
    assert max_q == 1
    assert enable_gqa == (query.shape[1] != key.shape[1])
    assert key.is_contiguous()
    left = window_size[0] if window_size[0] >= 0 else max_k * 9
    mixed = []
    for i, used in enumerate(seqused_k.tolist()):
        start = int(cu_seq_k[i])
        own = slice(start, start + used)
        mixed.append(one_query(query[i], key[own], value[own], scale, left))
    return torch.stack(mixed)


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
    module = ModuleType("flash_attn")
    module.flash_attn_with_kvcache = flash_attn_with_kvcache
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    monkeypatch.setattr(varlen, "varlen_attn", varlen_attn)


@pytest.fixture
def states():
    """Queries, and keys and values in a store in which the heads of a token are neighbors."""
    random = torch.Generator().manual_seed(0)
    store = KVStore(SLOTS, CAPACITY, token_by_token=True)
    shape = SLOTS * CAPACITY, KV_HEADS, WIDTH
    keys, values = (torch.randn(shape, generator=random) for _ in range(2))
    slots = torch.arange(SLOTS).repeat_interleave(CAPACITY)
    positions = torch.arange(CAPACITY).repeat(SLOTS)
    stored = store.write(0, slots, positions, keys, values)
    return torch.randn(SLOTS, HEADS, WIDTH, generator=random), *stored


def expected_of(states, rule):
    query, keys, values = states
    mixed = []
    for slot, position in enumerate(POSITIONS.tolist()):
        own = keys[slot].transpose(0, 1)[: position + 1], values[slot].transpose(0, 1)
        left = CAPACITY * 9 if rule.window is None else rule.window - 1
        found = one_query(
            query[slot], own[0], own[1][: position + 1], rule.scale, left, rule.cap or 0.0
        )
        mixed.append(found)
    return torch.stack(mixed)


def test_a_store_token_by_token_has_the_same_shapes(states):
    _, keys, _ = states

    assert keys.shape == (SLOTS, KV_HEADS, CAPACITY, WIDTH)
    assert keys.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.__name__)
def test_a_kernel_gives_what_the_formula_gives_or_refuses(states, kernel, rule):
    lengths = Lengths.of(POSITIONS, CAPACITY)
    if rule not in CAN[kernel.__name__]:
        with pytest.raises(NotImplementedError):
            kernel(*states, lengths, RULES[rule])
        return

    found = kernel(*states, lengths, RULES[rule])

    torch.testing.assert_close(found, expected_of(states, RULES[rule]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", [name for name in RULES if name != "sinks"])
def test_the_first_kernel_that_agrees_is_chosen(states, rule):
    lengths, expected = Lengths.of(POSITIONS, CAPACITY), expected_of(states, RULES[rule])

    def broken(*args):
        raise RuntimeError("no kernel image is available")

    def without_window(query, keys, values, lengths, rule):
        return KERNELS[0](query, keys, values, lengths, replace(rule, scale=rule.scale * 2))

    kernels = (broken, without_window, *KERNELS)

    asked = Asked(*states, lengths, RULES[rule])

    assert choose_kernel(kernels, asked, expected) is KERNELS[0]
    assert choose_kernel(kernels[:2], asked, expected) is None


def test_a_lack_of_memory_in_a_kernel_is_not_hidden(states):
    def greedy(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    lengths, expected = Lengths.of(POSITIONS, CAPACITY), expected_of(states, RULES["plain"])

    with pytest.raises(torch.OutOfMemoryError):
        choose_kernel((greedy,), Asked(*states, lengths, RULES["plain"]), expected)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.__name__)
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_answers_are_the_same_with_every_kernel(loaded, monkeypatch, family, kernel):
    # As on CUDA, where the heads of a token are neighbors.
    monkeypatch.setattr("traitcli.models.engine.wants_tokens_together", lambda device: True)
    model = replace(loaded(family), stop_ids=frozenset(range(0, 900, 9)))
    asked, sampling = decoding.requests(model) * 2, SamplingConfig(max_new_tokens=12)
    expected = decoding.answers(model, asked, sampling, 3)

    kernels, reader = Kernels((kernel,)), MeanReader(model)
    tokens = [[] for _ in asked]
    loop = FixedLoop(model, asked, sampling, 3, reader, HowToRun(kernels=kernels))
    with torch.inference_mode():
        for step in loop.steps(release_none):
            for request, token in step.written:
                tokens[request].append(token)

    assert tokens == [list(one.ids) for one in expected]
    lacks_soft_caps = kernel.__name__ == "varlen_attn" and family == "gemma2"
    assert kernels.names == {"masked" if lacks_soft_caps else kernel.__name__}
