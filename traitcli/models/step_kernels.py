"""Attention kernels for one new token of each sequence, which know how long each sequence is.

The attention of `packed_attention` reads every slot up to the longest sequence, under a mask. These
stop at each sequence's own end and need no mask; heads that share keys share the reading of them.
They come from other libraries, so each is compared with our own attention before it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from traitcli.models.attention import AttentionRule
from traitcli.models.memory import ran_out_of_memory

if TYPE_CHECKING:
    from torch import Tensor

_TOLERANCES = {torch.bfloat16: 0.02, torch.float16: 0.005, torch.float32: 1e-4}
"""Largest relative difference to our own attention, for each dtype."""


@dataclass(frozen=True, slots=True, eq=False)
class Lengths:
    """How much of each of R slots a step reads.

    used          int32 [R], tokens of each sequence, the new one too
    query_starts  int32 [R+1], 0 to R: each sequence has one query
    key_starts    int32 [R+1], where each slot begins when all are one long sequence of tokens
    capacity      tokens that fit in a slot
    """

    used: Tensor
    query_starts: Tensor
    key_starts: Tensor
    capacity: int

    @classmethod
    def of(cls, positions: Tensor, capacity: int) -> Lengths:
        """The lengths of sequences whose new tokens are at `positions` int64 [R]."""
        starts = torch.arange(len(positions) + 1, dtype=torch.int32, device=positions.device)
        return cls((positions + 1).int(), starts, starts * capacity, capacity)


Kernel = Callable[["Tensor", "Tensor", "Tensor", Lengths, AttentionRule], "Tensor"]
"""[R, heads, D] from queries [R, heads, D], keys and values [R, kv heads, capacity, D]."""


def flash_attn(
    query: Tensor, keys: Tensor, values: Tensor, lengths: Lengths, rule: AttentionRule
) -> Tensor:
    """The kernel for decoding of the flash-attn package; half precision on CUDA."""
    # Only if it is installed: the hub's kernels are code that would be downloaded and run.
    attend: Any = import_module("flash_attn").flash_attn_with_kvcache
    _refuse(rule.sinks is not None, "it has no sinks")
    mixed: Tensor = attend(
        query[:, None],
        keys.transpose(1, 2),
        values.transpose(1, 2),
        cache_seqlens=lengths.used,
        softmax_scale=rule.scale,
        causal=True,
        window_size=_window(rule),
        softcap=rule.cap or 0.0,
    )
    return mixed[:, 0]


def varlen_attn(
    query: Tensor, keys: Tensor, values: Tensor, lengths: Lengths, rule: AttentionRule
) -> Tensor:
    """torch's kernel for sequences of different lengths; half precision on CUDA."""
    from torch.nn.attention import varlen

    _refuse(rule.cap is not None or rule.sinks is not None, "it has no soft cap and no sinks")
    attend: Any = varlen.varlen_attn
    mixed: Tensor = attend(
        query,
        keys.transpose(1, 2).flatten(0, 1),
        values.transpose(1, 2).flatten(0, 1),
        lengths.query_starts,
        lengths.key_starts,
        1,
        lengths.capacity,
        scale=rule.scale,
        window_size=_window(rule),
        enable_gqa=query.shape[1] != keys.shape[1],
        seqused_k=lengths.used,
    )
    return mixed


def flex_attention(
    query: Tensor, keys: Tensor, values: Tensor, lengths: Lengths, rule: AttentionRule
) -> Tensor:
    """torch's attention with scores of our own, which knows soft caps; compiled on CUDA."""
    _refuse(rule.sinks is not None, "it has no sinks")
    used, window, cap = lengths.used, rule.window, rule.cap

    def score(score: Tensor, sequence: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        if cap is not None:
            score = torch.tanh(score / cap) * cap
        seen = key < used[sequence]
        if window is not None:
            seen = seen & (key >= used[sequence] - window)
        return torch.where(seen, score, -torch.inf)

    mixed: Tensor = _flex(query.device.type == "cuda")(
        query[:, :, None], keys, values, score_mod=score, scale=rule.scale, enable_gqa=True
    )
    return mixed[:, :, 0]


KERNELS: tuple[Kernel, ...] = (flash_attn, varlen_attn, flex_attention)
"""The fastest first."""


def wants_tokens_together(device: torch.device) -> bool:
    """Whether the kernels want the heads of a token to be neighbors in memory."""
    return device.type == "cuda"


class Asked(NamedTuple):
    """The arguments of a kernel."""

    query: Tensor
    keys: Tensor
    values: Tensor
    lengths: Lengths
    rule: AttentionRule


def choose_kernel(kernels: Sequence[Kernel], asked: Asked, expected: Tensor) -> Kernel | None:
    """The first kernel that is there and gives what is `expected`; none if no kernel does."""
    tolerance = _TOLERANCES.get(asked.query.dtype, 0.0)
    for kernel in kernels:
        try:
            found = kernel(*asked)
        # Not installed, not for this device, shape or dtype, not compiled: each has its own error.
        except Exception as error:
            if ran_out_of_memory(error):
                raise
            continue
        if found.shape == expected.shape:
            difference = (found.float() - expected.float()).norm() / expected.float().norm()
            if float(difference) <= tolerance:
                return kernel
    return None


def _refuse(lacks: bool, reason: str) -> None:
    if lacks:
        raise NotImplementedError(reason)


def _window(rule: AttentionRule) -> tuple[int, int]:
    """How many tokens to the left and right of the query are seen; −1 means all."""
    return (-1, -1) if rule.window is None else (rule.window - 1, 0)


@cache
def _flex(compiled: bool) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False) if compiled else flex_attention
