"""Draws the next token of every row from its own stream of random numbers."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import threshold

from traitcli.config import SamplingConfig

if TYPE_CHECKING:
    from torch import Tensor

_BELOW_ONE = 1 - 2**-23
"""Keeps a draw strictly under the total of a float32 cumulative sum."""

_TIER = 2.0
_TIERS = 8
"""Tokens whose logits lie within so much of each other are drawn among themselves; the last tier holds the rest."""
_BLOCK = 256
_NUCLEI = (128, 2048)
"""Likeliest tokens among which a nucleus is looked for, before all are sorted."""


def derive_seed(seed: int, name: str) -> int:
    """A rollout's own 63-bit seed from the run's seed and the rollout's id."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8]) >> 1


def uniforms(seeds: Sequence[int], steps: int) -> Tensor:
    """float32 [B, steps, 2] in [0, 1): row by row from its seed, whatever the batch."""
    return torch.stack([torch.rand(steps, 2, generator=torch.Generator().manual_seed(s)) for s in seeds]) * _BELOW_ONE


def pick(logits: Tensor, draws: Tensor, sampling: SamplingConfig) -> Tensor:
    """int64 [B] tokens from `logits` [B, V] by inverting each row's distribution at two `draws` [B, 2]."""
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
    """int64 [B]: the first draw says how far a token lies below the likeliest one, the second which of those it is.

    In one running sum over a vocabulary most tokens are narrower than the sum's rounding, and what is drawn
    there would depend on the batch: in a tenth of short answers. Among tokens that are about equally likely it
    does not. See docs/design/0016.
    """
    left = (logits - logits.amax(-1, keepdim=True)).exp_()  # weights of all tokens that no tier has held yet
    wanted = draws[:, 0] * left.sum(-1)
    tokens = logits.argmax(-1)  # for a first draw that rounding puts behind all tiers
    rows, passed = torch.arange(len(logits), device=logits.device), torch.zeros_like(wanted)
    for tier in range(1, _TIERS + 1):
        inside = threshold(left, math.exp(-_TIER * tier), 0.0) if tier < _TIERS else left
        sums = _block_sums(inside)
        passed = passed + sums.sum(1)
        hit = wanted < passed
        tokens[rows[hit]] = _find(inside[hit], sums[hit], draws[rows[hit], 1:])
        if hit.all():
            break
        left = left[~hit].sub_(inside[~hit])
        rows, passed, wanted = rows[~hit], passed[~hit], wanted[~hit]
    return tokens


def _block_sums(weights: Tensor) -> Tensor:
    """[B, blocks]: running sums over whole vocabularies would take longer; the last block may be short."""
    count = weights.shape[1] // _BLOCK * _BLOCK
    whole = weights[:, :count].view(len(weights), count // _BLOCK, _BLOCK).sum(2)
    return torch.cat([whole, weights[:, count:].sum(1, keepdim=True)], 1)


def _find(weights: Tensor, sums: Tensor, draws: Tensor) -> Tensor:
    """int64 [B]: where the running sum of `weights` [B, V], of blocks `sums`, passes a share `draws` [B, 1]."""
    edges = sums.cumsum(1)
    wanted = draws * edges[:, -1:]
    block = torch.searchsorted(edges, wanted, right=True)
    columns = block * _BLOCK + torch.arange(_BLOCK, device=weights.device)
    inside = weights.gather(1, columns.clamp(max=weights.shape[1] - 1)).masked_fill_(columns >= weights.shape[1], 0)
    running = inside.cumsum(1)
    # Rounding must not lead out of the block, or to a token that is impossible.
    rest = (wanted - (edges - sums).gather(1, block)).clamp(min=0).minimum(running[:, -1:] * _BELOW_ONE)
    return (block * _BLOCK + torch.searchsorted(running, rest, right=True)).squeeze(1)


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
