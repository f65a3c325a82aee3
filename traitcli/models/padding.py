"""Puts sequences of different lengths side by side: padding, positions, one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from traitcli.models.hooks import tap
from traitcli.models.loaded import LoadedModel
from traitcli.models.reader import Phase, Reader, ReaderState

if TYPE_CHECKING:
    from torch import Tensor

Begin = Callable[[ReaderState, Phase, "Tensor", "Tensor"], None]


def left_pad(
    sequences: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """int64 [B, T] token ids ending in the same column, and their bool [B, T] mask."""
    width = max(map(len, sequences))
    ids = torch.tensor([[pad] * (width - len(s)) + list(s) for s in sequences], device=device)
    mask = torch.tensor(
        [[False] * (width - len(s)) + [True] * len(s) for s in sequences], device=device
    )
    return ids, mask


def right_pad(
    sequences: Sequence[Sequence[int]], pad: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """int64 [B, T] token ids beginning in the same column, and their bool [B, T] mask."""
    ids, mask = left_pad([list(reversed(s)) for s in sequences], pad, device)
    return ids.flip(1), mask.flip(1)


@contextmanager
def tap_masked(loaded: LoadedModel, reader: Reader) -> Iterator[Begin]:
    """WorkerState what a reader wants to see to the account of every pass, padding left out.

    Yields what begins a pass: called with the account, the phase, its places int64 [B] and the mask bool [B, T].
    """
    account: ReaderState
    seen: Tensor

    def begin(to: ReaderState, phase: Phase, places: Tensor, mask: Tensor) -> None:
        nonlocal account, seen
        account, seen, counts = to, mask, mask.sum(1)
        account.begin(phase, places.repeat_interleave(counts), counts.cumsum(0) - 1)

    def see(row: int, hidden: Tensor) -> None:
        account(row, hidden[seen.to(hidden.device)])

    with tap(loaded.model, reader.layers, see):
        yield begin


def new_cache(loaded: LoadedModel) -> Any:
    """An empty KV cache of the kind the model wants (sliding windows included)."""
    from transformers import DynamicCache

    return DynamicCache(config=loaded.model.config)


def forward(
    loaded: LoadedModel, ids: Tensor, mask: Tensor, cache: Any, last_only: bool = True
) -> Tensor:
    """PackedInput `ids` [B, T], of which `mask` [B, past + T] tells the real ones; logits [B, T or 1, V].

    The cache grows by T; positions count real tokens only, so padding changes nothing.
    """
    positions = (mask.long().cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    few = {"logits_to_keep": 1} if last_only and loaded.last_logits else {}
    output = loaded.model(
        input_ids=ids,
        attention_mask=mask.long(),
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        **few,
    )
    return output.logits[:, -1:] if last_only else output.logits  # type: ignore[no-any-return]
