"""Masks of attention: which keys of its sequence a query sees."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def see_keys(queries: Tensor, span: int, window: int | None) -> Tensor:
    """bool [R, W, span]: whether queries at positions [R, W] see the keys before `span`."""
    positions = queries[:, :, None]
    keys = torch.arange(span, device=queries.device)
    seen = keys <= positions
    if window is not None:
        seen &= keys > positions - window
    # Padding sees everything, because a softmax over nothing is NaN. Nobody looks at it.
    return seen.logical_or_(positions < 0)


def as_mask(seen: Tensor, groups: int, dtype: torch.dtype) -> Tensor:
    """[R, 1, groups · W, span]: `seen` itself, or 0 and −inf."""
    mask = seen
    if dtype != torch.bool:
        zeros = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
        mask = zeros.masked_fill_(~seen, -torch.inf)
    return mask[:, None].repeat(1, 1, groups, 1)
