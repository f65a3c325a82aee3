"""Draws the next token of every sequence from its own stream of random numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from traitcli.config import SamplingConfig
from traitcli.models.finite import not_finite
from traitcli.models.loaded import LoadedModel

if TYPE_CHECKING:
    from torch import Tensor

NOT_FINITE = -1
"""In place of a token. It comes with the tokens, so that no device waits for a check of its own."""
_BELOW_ONE = 1 - 2**-23
"""Keeps a draw strictly below the total of a float32 cumulative sum."""
_DRAWS = 3
"""Random numbers that draw one token, see `_invert`."""
_GROUP_SIZE = 32
"""Tokens in a group. A vocabulary of 128,000 tokens then has 125 groups of groups."""
_NUCLEUS_WIDTHS = (128, 2048)
"""Numbers of likeliest tokens among which a nucleus is looked for before all are sorted."""
_PROBABILITY_BITS = 30
"""Bits of a float32 that differ among numbers from 0 to 1."""


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


def pick(logits: Tensor, draws: Tensor, sampling: SamplingConfig) -> Tensor:
    """Pick one token for each sequence: its `draws` choose a point of its distribution.

    On an accelerator it neither waits for the device nor lets the data decide what runs, so that a
    CUDA graph can hold it. Without top-k and top-p it passes over all logits at most three times.

    Args:
        logits: [B, V], of any floating dtype.
        draws: float32 [B, 3] in [0, 1); not used at temperature 0.
        sampling: temperature, top-k and top-p, applied in this order.

    Returns:
        int64 [B]; NOT_FINITE for a sequence whose logits contain NaN or infinity.
    """
    if sampling.temperature == 0:
        # No division by zero, and no random numbers: equal prompts give equal answers.
        best = logits.max(-1)
        return best.indices.masked_fill(~best.values.isfinite(), NOT_FINITE)
    return _invert(_probabilities(logits, sampling), draws)


def pick_tokens(
    loaded: LoadedModel, logits: Tensor, draws: Tensor, sampling: SamplingConfig
) -> list[int]:
    """Pick one token for each sequence as `pick` does; `draws` may be on the CPU.

    Raises ModelError if logits contain NaN or infinity.
    """
    # One `tolist` for all tokens: each one waits until a GPU is done.
    tokens: list[int] = pick(logits, draws.to(logits.device), sampling).tolist()
    if NOT_FINITE in tokens:
        raise not_finite(loaded, loaded.layer_count)
    return tokens


def _probabilities(logits: Tensor, sampling: SamplingConfig) -> Tensor:
    """float32 [B, whole groups of groups]; 0 for a token that is dropped, or only padding."""
    scaled = _scale(logits, sampling.temperature)
    # Top-k comes before top-p, as in transformers, so that settings mean the same here.
    has_top_k = 0 < sampling.top_k < logits.shape[-1]
    if has_top_k:
        likeliest = scaled.topk(sampling.top_k)
        scaled = scaled.masked_fill(scaled < likeliest.values[:, -1:], -torch.inf)

    probabilities = scaled.softmax(-1, dtype=torch.float32)
    del scaled  # its memory is needed next
    if sampling.top_p == 1:
        return probabilities
    if has_top_k:
        # What other tokens have left are ties of the last one, which stay with it.
        threshold = _last_to_reach(sampling.top_p, probabilities.gather(1, likeliest.indices))
    else:
        threshold = nucleus_threshold(probabilities, sampling.top_p)
    # Tokens as likely as the last one all stay. NaN stays too, and is found later.
    return probabilities.masked_fill_(probabilities < threshold, 0)


def _scale(logits: Tensor, temperature: float) -> Tensor:
    """Logits ÷ temperature, with impossible tokens up to whole groups of groups.

    One pass does it all, and none if there is nothing to do.
    """
    count, vocabulary = logits.shape
    missing = -vocabulary % _GROUP_SIZE ** (_DRAWS - 1)
    if not missing and temperature == 1:
        return logits

    scaled = logits.new_empty(count, vocabulary + missing, dtype=torch.float32)
    scaled[:, vocabulary:] = -torch.inf
    if temperature == 1:
        scaled[:, :vocabulary] = logits
    else:
        # Not a number: half precision would then be divided in half precision.
        divisor = torch.full((1, 1), temperature, device=logits.device)
        torch.div(logits, divisor, out=scaled[:, :vocabulary])
    return scaled


def nucleus_threshold(probabilities: Tensor, top_p: float) -> Tensor:
    """The lowest probability in the smallest set of likeliest tokens that reaches `top_p`.

    Args:
        probabilities: float32 [B, V] in [0, 1].
        top_p: below 1.

    Returns:
        float32 [B, 1]; 0 where rounding lets no set reach it, so that all tokens stay.
    """
    # On a CPU, a search among few tokens takes 2 to 60 % of the time of passes over all. On an
    # accelerator it would have to wait for the device to know whether these were enough.
    if probabilities.device.type == "cpu":
        return _search_threshold(probabilities, top_p)
    return _bisect_threshold(probabilities, top_p)


def _search_threshold(probabilities: Tensor, top_p: float) -> Tensor:
    """The same, looked for among few tokens first: the set is mostly small."""
    threshold = torch.zeros_like(probabilities[:, :1])
    missing = torch.arange(len(probabilities), device=probabilities.device)

    for width in (*_NUCLEUS_WIDTHS, probabilities.shape[1]):
        rows = probabilities if len(missing) == len(probabilities) else probabilities[missing]
        values = rows.topk(min(width, rows.shape[1])).values
        is_found = values.sum(1) >= top_p
        threshold[missing[is_found]] = _last_to_reach(top_p, values[is_found])
        missing = missing[~is_found]
        if not len(missing):
            break
    return threshold


def _last_to_reach(top_p: float, values: Tensor) -> Tensor:
    """The value [B, 1] at which sums of `values` [B, K], in falling order, reach `top_p`.

    The last one if they do not reach it.
    """
    before = (values.cumsum(1) < top_p).sum(1, keepdim=True)
    return values.gather(1, before.clamp(max=values.shape[1] - 1))


def _bisect_threshold(probabilities: Tensor, top_p: float) -> Tensor:
    """The same by bisection: a fixed number of sums, which always find it."""
    # The bits of positive floats are in the order of the floats, so each sum settles one bit.
    bits = probabilities.view(torch.int32)
    threshold = bits.new_zeros(len(bits), 1)
    for bit in reversed(range(_PROBABILITY_BITS)):
        higher = threshold | 1 << bit
        mass = probabilities.where(bits >= higher, 0).sum(1, keepdim=True)
        threshold = torch.where(mass >= top_p, higher, threshold)
    return threshold.view(torch.float32)


def _invert(probabilities: Tensor, draws: Tensor) -> Tensor:
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
    levels = [probabilities]
    while len(levels) < _DRAWS:
        # A group is tokens at equal distances, not neighbors: sums over rows are fast.
        levels.append(levels[-1].view(len(probabilities), _GROUP_SIZE, -1).sum(1))

    rows = torch.arange(len(probabilities), device=probabilities.device)
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
