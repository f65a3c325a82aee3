"""Draws the next token of every row from its own stream of random numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import pad

from traitcli.config import SamplingConfig

if TYPE_CHECKING:
    from torch import Tensor

_BELOW_ONE = 1 - 2**-23
"""Keeps a draw strictly under the total of a float32 cumulative sum."""

_DRAWS = 3
_GROUP = 32
"""A token is drawn by so many random numbers, the last ones among so many each."""
_NUCLEI = (128, 2048)
"""Likeliest tokens among which a nucleus is looked for, before all are sorted."""


def derive_seed(seed: int, name: str) -> int:
    """A rollout's own 63-bit seed from the run's seed and the rollout's id."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8]) >> 1


def uniforms(seeds: Sequence[int], steps: int) -> Tensor:
    """float32 [B, steps, 3] in [0, 1): row by row from its seed, whatever the batch."""
    streams = [torch.Generator().manual_seed(seed) for seed in seeds]
    return (
        torch.stack([torch.rand(steps, _DRAWS, generator=stream) for stream in streams])
        * _BELOW_ONE
    )


def pick(logits: Tensor, draws: Tensor, sampling: SamplingConfig) -> Tensor:
    """int64 [B] tokens from `logits` [B, V] by inverting each row's distribution at its `draws` [B, 3]."""
    if sampling.temperature == 0:
        return logits.argmax(-1)
    logits = logits.float()
    if sampling.temperature != 1:
        logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        logits = _drop_below(logits, logits.topk(sampling.top_k).values[:, -1:])
    if sampling.top_p < 1:
        logits = _drop_below(logits, _least_in_nucleus(logits, sampling.top_p))
    return _invert(logits, draws)


def _invert(logits: Tensor, draws: Tensor) -> Tensor:
    """int64 [B]: the first draw picks a group of groups of tokens, the second a group, the third a token.

    In one running sum over a vocabulary most tokens are narrower than the sum's rounding, and what is drawn
    there would depend on the batch: in a tenth of short answers. In short sums it hardly does, and an error in
    one does not move what another draw picks. Groups are tokens at equal distances, which is fast to sum.
    See docs/design/0016.
    """
    levels = [logits.softmax(-1)]
    if short := -logits.shape[-1] % _GROUP ** (_DRAWS - 1):
        levels = [pad(levels[0], (0, short))]
    while len(levels) < _DRAWS:
        levels.append(levels[-1].view(len(logits), _GROUP, -1).sum(1))
    rows, groups = torch.arange(len(logits), device=logits.device), 1
    chosen = torch.zeros_like(rows)
    for draw, level in zip(draws.T, reversed(levels), strict=True):
        running = level.view(len(rows), -1, groups)[rows, :, chosen].cumsum(1)
        index = torch.searchsorted(running, draw[:, None] * running[:, -1:], right=True).squeeze(1)
        chosen, groups = index * groups + chosen, level.shape[1]
    return chosen


def _drop_below(logits: Tensor, least: Tensor) -> Tensor:
    """Make tokens impossible that are less likely than `least` [B, 1]; of equally likely ones all stay."""
    return logits.masked_fill(logits < least, -torch.inf)


def _least_in_nucleus(logits: Tensor, top_p: float) -> Tensor:
    """[B, 1]: the least logit in the smallest set of likeliest tokens whose probability reaches `top_p`.

    Sorting a whole vocabulary takes longer than a small model does, and the set is mostly small.
    """
    least = torch.full_like(logits[:, :1], -torch.inf)
    total = logits.logsumexp(-1, keepdim=True)
    rows = torch.arange(len(logits), device=logits.device)
    for width in (*_NUCLEI, logits.shape[-1]):
        some = logits if len(rows) == len(logits) else logits[rows]
        values = some.topk(min(width, logits.shape[-1])).values
        reached = (values - total[rows]).exp().cumsum(-1) >= top_p
        found = reached[:, -1]
        least[rows[found], 0] = values.gather(1, reached.int().argmax(-1, keepdim=True))[found, 0]
        rows = rows[~found]
        if not len(rows):
            break
    return least
