"""Reads prompts that begin alike without computing their beginning more than once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from traitcli.models.loaded import LoadedModel
from traitcli.models.padding import forward, left_pad, new_cache
from traitcli.models.prefix_tree import Ids, common_start

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """A beginning of prompts, read once.

    ids    its tokens; none where the model cannot share what it has read
    cache  KV cache of one row that holds them, and perhaps more after them
    """

    ids: Ids
    cache: Any

    def cut(self, ids: Ids) -> Prefix:
        """As much of it as other prompts, which begin with `ids`, have in common with it."""
        return Prefix(common_start([self.ids, ids]), self.cache)


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """A batch of prompts that the model has read.

    cache   KV cache of B rows and T columns; prompts end in the last one
    mask    bool [B, T], the columns that hold a token
    logits  [B, V] for the token after each prompt
    """

    cache: Any
    mask: Tensor
    logits: Tensor


@torch.inference_mode()
def read_prefix(loaded: LoadedModel, ids: Ids) -> Prefix:
    """PackedInput a beginning once, in a batch of one.

    What recurrent layers remember cannot be moved under other columns, so a model that has some
    gets an empty prefix, and reads every prompt whole.
    """
    if not ids or not _is_movable(new_cache(loaded)):
        return Prefix((), None)
    from transformers import DynamicCache

    # Without the model's config this keeps every column for sliding windows too; their masks do the rest.
    cache = DynamicCache()
    tokens = torch.tensor([ids], device=loaded.device)
    forward(loaded, tokens, torch.ones_like(tokens, dtype=torch.bool), cache)
    return Prefix(ids, cache)


@torch.inference_mode()
def read_prompts(loaded: LoadedModel, prompts: Sequence[Ids], prefix: Prefix) -> Reading:
    """Read prompts that begin with `prefix` and have at least one token more.

    All is as if they had been padded on the left and read whole, columns and positions included:
    the first columns hold the padding of each row and then the prefix, moved behind it, and only
    the columns after them are computed. So the distances that sliding windows go by are true ones.
    """
    ids, mask = left_pad(prompts, loaded.tokenizer.pad_token_id, loaded.device)
    known = len(prefix.ids)
    cache = _move(prefix, (~mask).sum(1)) if known else new_cache(loaded)
    logits = forward(loaded, ids[:, known:], mask, cache)
    return Reading(cache, mask, logits[:, -1])


@torch.inference_mode()
def read_on(
    loaded: LoadedModel, reading: Reading, rows: Sequence[int], ids: Sequence[Ids]
) -> Tensor:
    """Logits [R, V] after the prompts `rows` (R of them, repeats allowed), continued by `ids` of one length."""
    chosen = torch.tensor(rows, device=loaded.device)
    tokens = torch.tensor(ids, device=loaded.device)
    mask = torch.cat([reading.mask[chosen], torch.ones_like(tokens, dtype=torch.bool)], 1)
    return forward(loaded, tokens, mask, _select(reading, chosen))[:, -1]


def _is_movable(cache: Any) -> bool:
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)


def _move(prefix: Prefix, padding: Tensor) -> Any:
    """A cache of B rows: `padding` [B] columns of anything, then as much of the prefix as fits in its width."""
    columns = (torch.arange(len(prefix.ids), device=padding.device) - padding[:, None]).clamp(min=0)
    cache = _copy(prefix.cache)
    for layer in cache.layers:  # [1, heads, T, D] -> [B, heads, P, D]
        layer.keys = layer.keys[0][:, columns].transpose(0, 1)
        layer.values = layer.values[0][:, columns].transpose(0, 1)
    return cache


def _select(reading: Reading, rows: Tensor) -> Any:
    """A cache of these rows of a batch; the batch's own stays as it is."""
    if not _is_movable(reading.cache):
        cache = copy.deepcopy(reading.cache)
        cache.reorder_cache(rows)
        return cache
    cache = _copy(reading.cache)
    if rows.tolist() != list(range(len(reading.mask))):
        cache.batch_select_indices(rows)
    return cache


def _copy(cache: Any) -> Any:
    """A cache that can grow without the given one; they share tensors, which growing replaces."""
    new = copy.copy(cache)
    new.layers = [copy.copy(layer) for layer in cache.layers]
    return new
