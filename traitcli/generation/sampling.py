"""Draws the next token of every row from its own stream of random numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from traitcli.config import SamplingConfig

if TYPE_CHECKING:
    from torch import Tensor

_BELOW_ONE = 1 - 2**-23
"""Keeps a draw strictly under the total of a float32 cumulative sum."""


def derive_seed(seed: int, name: str) -> int:
    """A rollout's own 63-bit seed from the run's seed and the rollout's id."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8]) >> 1


def uniforms(seeds: Sequence[int], steps: int) -> Tensor:
    """float32 [B, steps] in [0, 1): row by row from its seed, whatever the batch."""
    return torch.stack([torch.rand(steps, generator=torch.Generator().manual_seed(s)) for s in seeds]) * _BELOW_ONE


def pick(logits: Tensor, draws: Tensor, sampling: SamplingConfig) -> Tensor:
    """int64 [B] tokens from `logits` [B, V] by inverting each row's distribution at `draws` [B]."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    logits = logits.float() / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        least = logits.topk(sampling.top_k).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if sampling.top_p < 1:
        logits = _nucleus(logits, sampling.top_p)
    cumulative = logits.softmax(-1).cumsum(-1)
    return torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True).squeeze(1)


def _nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Keep the smallest set of likeliest tokens whose probability reaches `top_p`."""
    ordered, order = logits.sort(descending=True)
    before = ordered.softmax(-1).cumsum(-1) - ordered.softmax(-1)
    return torch.full_like(logits, -torch.inf).scatter(1, order, ordered.masked_fill(before >= top_p, -torch.inf))
