"""How a layer attends, and the two ways to compute it that every device has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import scaled_dot_product_attention

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class AttentionRule:
    """How a layer attends, as transformers describes it.

    scale   factor of the scores
    window  how many of the last tokens are seen; none: all
    cap     scores are kept softly below it
    sinks   [heads], scores of an extra column that takes its share of the attention
    """

    scale: float
    window: int | None
    cap: float | None
    sinks: Tensor | None

    @property
    def needs_matmul(self) -> bool:
        """Whether the fused kernel cannot do it."""
        return self.cap is not None or self.sinks is not None


def fused_attention(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, rule: AttentionRule
) -> Tensor:
    """Attention by the kernel of torch, which keeps no scores."""
    return scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=rule.scale)


def matmul_attention(
    query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, rule: AttentionRule
) -> Tensor:
    """Attention by plain matrix products, [R, kv heads, groups · width, D].

    Faster than the fused kernel for few queries, and the only way to cap scores or have sinks.
    """
    scores = (query @ keys.transpose(2, 3)).float() * rule.scale
    if rule.cap is not None:
        scores = torch.tanh(scores / rule.cap) * rule.cap
    if mask is not None:
        scores += mask
    if rule.sinks is not None:
        # [kv heads, groups] -> [1, kv heads, groups · width, 1], in the order of the queries.
        by_head = rule.sinks.float().view(keys.shape[1], -1)
        width = scores.shape[2] // by_head.shape[1]
        column = by_head.repeat_interleave(width, 1)[None, :, :, None]
        scores = torch.cat([scores, column.expand(len(scores), -1, -1, -1)], -1)

    weights = scores.softmax(-1)[..., : keys.shape[2]]
    return weights.to(values.dtype) @ values
