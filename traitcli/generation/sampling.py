"""Draws the next token of every sequence from its own stream of random numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import pad

from traitcli.config import SamplingConfig
from traitcli.models.finite import not_finite
from traitcli.models.loaded import LoadedModel

if TYPE_CHECKING:
    from torch import Tensor

NOT_FINITE = -1
"""In place of a token. It comes with the tokens, so that no device waits for a check of its own."""
NOT_FOUND = -2
"""In place of a token that would need a wider search for its nucleus."""
_BELOW_ONE = 1 - 2**-23
"""Keeps a draw strictly below the total of a float32 cumulative sum."""
_DRAWS = 3
"""Random numbers that draw one token, see `_invert`."""
_GROUP_SIZE = 32
"""Tokens in a group. A vocabulary of 128,000 tokens then has 125 groups of groups."""
_NUCLEUS_WIDTHS = (128, 2048)
"""Numbers of likeliest tokens among which a nucleus is looked for before all are sorted."""


def derive_seed(seed: int, name: str) -> int:
    """A rollout's own 63-bit seed, from the run's seed and the rollout's id."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    # torch takes signed 64-bit seeds.
    return int.from_bytes(digest[:8]) >> 1


def uniforms(seeds: Sequence[int], steps: int) -> Tensor:
    """float32 [B, steps, 3] in [0, 1), each sequence's from its own seed, whatever the batch."""
    streams = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        streams.append(torch.rand(steps, _DRAWS, generator=generator))
    return torch.stack(streams) * _BELOW_ONE


def pick(logits: Tensor, draws: Tensor, sampling: SamplingConfig, *, waits: bool = True) -> Tensor:
    """Pick one token for each sequence: its `draws` choose a point of its distribution.

    Args:
        logits: [B, V].
        draws: float32 [B, 3] in [0, 1); not used at temperature 0.
        sampling: temperature, top-k and top-p, applied in this order.
        waits: whether the search for a nucleus may wait for the device.

    Returns:
        int64 [B]; NOT_FINITE for a sequence whose logits contain NaN or infinity. Without `waits`,
        NOT_FOUND for one whose nucleus is large.
    """
    if sampling.temperature == 0:
        # No division by zero, and no random numbers: equal prompts give equal answers.
        best = logits.max(-1)
        return best.indices.masked_fill(~best.values.isfinite(), NOT_FINITE)

    logits = logits.float()
    if sampling.temperature != 1:
        logits = logits / sampling.temperature
    # Top-k comes before top-p, as in transformers, so that settings mean the same here.
    if 0 < sampling.top_k < logits.shape[-1]:
        logits = _drop_below(logits, logits.topk(sampling.top_k).values[:, -1:])
    if sampling.top_p == 1:
        return _invert(logits, draws)
    if waits:
        return _invert(_drop_below(logits, nucleus_threshold(logits, sampling.top_p)), draws)
    total = logits.logsumexp(-1, keepdim=True)
    threshold = _threshold_among(_NUCLEUS_WIDTHS[-1], logits, total, sampling.top_p)
    tokens = _invert(_drop_below(logits, threshold), draws)
    return tokens.masked_fill(threshold.isnan().squeeze(1), NOT_FOUND)


def pick_tokens(
    loaded: LoadedModel, logits: Tensor, draws: Tensor, sampling: SamplingConfig
) -> list[int]:
    """Pick one token for each sequence as `pick` does; `draws` may be on the CPU.

    Raises ModelError if logits contain NaN or infinity.
    """
    draws = draws.to(logits.device)
    # One `tolist` for all tokens: each one waits until a GPU is done. A wider search is rare.
    is_on_cpu = logits.device.type == "cpu"
    tokens: list[int] = pick(logits, draws, sampling, waits=is_on_cpu).tolist()
    if NOT_FOUND in tokens:
        tokens = pick(logits, draws, sampling).tolist()
    if NOT_FINITE in tokens:
        raise not_finite(loaded, loaded.layer_count)
    return tokens


def nucleus_threshold(logits: Tensor, top_p: float) -> Tensor:
    """The lowest logit [B, 1] in the smallest set of likeliest tokens that reaches `top_p`.

    Sorting a whole vocabulary takes longer than a small model does, and the set is mostly small:
    it is looked for among few tokens first.
    """
    threshold = torch.full_like(logits[:, :1], -torch.inf)
    total = logits.logsumexp(-1, keepdim=True)
    missing = torch.arange(len(logits), device=logits.device)

    for width in (*_NUCLEUS_WIDTHS, logits.shape[-1]):
        rows = logits if len(missing) == len(logits) else logits[missing]
        found = _threshold_among(width, rows, total[missing], top_p)
        is_found = ~found.isnan().squeeze(1)
        threshold[missing[is_found]] = found[is_found]
        missing = missing[~is_found]
        if not len(missing):
            break
    return threshold


def _threshold_among(width: int, logits: Tensor, total: Tensor, top_p: float) -> Tensor:
    """The same among the `width` likeliest tokens; NaN where these do not reach `top_p`.

    `total` [B, 1] is the logarithm of the sum over all tokens.
    """
    values = logits.topk(min(width, logits.shape[-1])).values
    reached = (values - total).exp().cumsum(-1) >= top_p
    first = reached.int().argmax(-1, keepdim=True)
    return values.gather(1, first).masked_fill(~reached[:, -1:], torch.nan)


def _drop_below(logits: Tensor, threshold: Tensor) -> Tensor:
    """Make tokens below `threshold` [B, 1] impossible; tokens equal to it all stay."""
    return logits.masked_fill(logits < threshold, -torch.inf)


def _invert(logits: Tensor, draws: Tensor) -> Tensor:
    """int64 [B]: one draw picks a group of groups of tokens, one a group in it, one a token.

        V tokens ──sum──> V/32 groups ──sum──> V/1024 groups of groups
                                               draw 0 picks one of these,
                          draw 1 one of its 32 groups,
        draw 2 one of its 32 tokens

    One running sum over a vocabulary would be simpler. But most tokens are narrower than that
    sum's rounding error, which depends on the batch: in a tenth of short answers, a token would
    depend on the batch too. Short sums round far less, and an error in one does not move what
    another draw picks. See docs/design/0016.
    """
    levels = [logits.softmax(-1)]
    if missing := -logits.shape[-1] % _GROUP_SIZE ** (_DRAWS - 1):
        levels = [pad(levels[0], (0, missing))]
    while len(levels) < _DRAWS:
        # A group is tokens at equal distances, not neighbors: sums over rows are fast.
        levels.append(levels[-1].view(len(logits), _GROUP_SIZE, -1).sum(1))

    rows = torch.arange(len(logits), device=logits.device)
    chosen, group_count = torch.zeros_like(rows), 1
    # Of the first, shortest sums: one NaN or infinity among the logits makes all of them NaN.
    is_finite = levels[-1].sum(-1).isfinite()
    for draw, level in zip(draws.T, reversed(levels), strict=True):
        members = level.view(len(rows), -1, group_count)[rows, :, chosen]
        running = members.cumsum(1)
        point = draw[:, None] * running[:, -1:]
        index = torch.searchsorted(running, point, right=True).squeeze(1)
        # NaN is beyond every sum.
        index = index.clamp(max=members.shape[1] - 1)
        chosen, group_count = index * group_count + chosen, level.shape[1]
    return chosen.masked_fill(~is_finite, NOT_FINITE)
