"""Read prompts that begin with the same tokens, and compute those tokens only once.

`models.prefix_tree` plans which beginnings the prompts of a batch share; the generation engine
computes them in packed sequences. This file keeps one beginning, that of a judge prompt, over many
batches. It uses transformers' own cache, because the digit tree continues prompts in any order and
any number of times.
"""

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
class CachedPrefix:
    """The beginning of prompts, computed once.

    ids    its tokens, () if the model's cache cannot be shared
    cache  KV cache of batch size 1 that holds them, and perhaps more tokens after them
    """

    ids: Ids
    cache: Any

    def shortened(self, ids: Ids) -> CachedPrefix:
        """Return the part that this prefix has in common with `ids`."""
        return CachedPrefix(common_start([self.ids, ids]), self.cache)


@dataclass(frozen=True, slots=True, eq=False)
class PromptBatch:
    """A batch of prompts after the forward pass.

    cache   KV cache of B sequences and T columns; prompts end in the last column
    mask    bool [B, T], the columns that hold a token
    logits  [B, V], for the token after each prompt
    """

    cache: Any
    mask: Tensor
    logits: Tensor


@torch.inference_mode()
def read_prefix(loaded: LoadedModel, ids: Ids) -> CachedPrefix:
    """Compute the beginning of prompts once, in a batch of one.

    The state of recurrent layers cannot be moved to other columns. A model with such layers gets an
    empty prefix and reads every prompt whole.
    """
    if not ids or not _is_movable(new_cache(loaded)):
        return CachedPrefix((), None)
    from transformers import DynamicCache

    # Without the model's config the cache keeps all columns of sliding windows too. `read_prompts`
    # needs them; the attention masks still limit the window.
    cache = DynamicCache()
    tokens = torch.tensor([ids], device=loaded.device)
    forward(loaded, tokens, torch.ones_like(tokens, dtype=torch.bool), cache)
    return CachedPrefix(ids, cache)


@torch.inference_mode()
def read_prompts(loaded: LoadedModel, prompts: Sequence[Ids], prefix: CachedPrefix) -> PromptBatch:
    """Read prompts that begin with `prefix` and have at least one more token.

    The result equals that of reading whole prompts padded on the left, with the same columns and
    positions.
    """
    ids, mask = left_pad(prompts, loaded.tokenizer.pad_token_id, loaded.device)
    known = len(prefix.ids)
    # The prefix moves behind each prompt's padding, so distances between tokens are the true ones
    # and sliding windows stay exact. Only the columns after it are computed.
    cache = _move(prefix, (~mask).sum(1)) if known else new_cache(loaded)
    logits = forward(loaded, ids[:, known:], mask, cache)
    return PromptBatch(cache, mask, logits[:, -1])


@torch.inference_mode()
def continue_prompts(
    loaded: LoadedModel, batch: PromptBatch, indices: Sequence[int], ids: Sequence[Ids]
) -> Tensor:
    """Return logits [R, V] after prompts of a batch that are continued by `ids`.

    Args:
        indices: R indices of prompts in the batch, repeats allowed.
        ids: R continuations of one length.

    The batch itself stays unchanged.
    """
    chosen = torch.tensor(indices, device=loaded.device)
    tokens = torch.tensor(ids, device=loaded.device)
    mask = torch.cat([batch.mask[chosen], torch.ones_like(tokens, dtype=torch.bool)], 1)
    return forward(loaded, tokens, mask, _select(batch, indices, chosen))[:, -1]


def _is_movable(cache: Any) -> bool:
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    return all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in cache.layers)


def _move(prefix: CachedPrefix, padding: Tensor) -> Any:
    """Return a cache of B sequences: `padding` [B] columns of anything, then the prefix.

    The cache is as wide as the prefix, so the end of the prefix is cut off where there is padding;
    `read_prompts` computes those tokens again.
    """
    columns = torch.arange(len(prefix.ids), device=padding.device) - padding[:, None]
    # The mask hides the columns of the padding, so any valid index will do.
    columns = columns.clamp(min=0)
    cache = _shallow_copy(prefix.cache)
    # accelerate may have put layers on several devices.
    devices = {layer.keys.device for layer in cache.layers}
    columns_on = {device: columns.to(device) for device in devices}
    for layer in cache.layers:  # [1, heads, T, D] -> [B, heads, P, D]
        own = columns_on[layer.keys.device]
        layer.keys = layer.keys[0][:, own].transpose(0, 1)
        layer.values = layer.values[0][:, own].transpose(0, 1)
    return cache


def _select(batch: PromptBatch, indices: Sequence[int], chosen: Tensor) -> Any:
    """Return a cache of the sequences `indices` of a batch; the batch's own stays unchanged.

    `chosen` is the same as `indices`, on the model's device.
    """
    # Recurrent layers may change their state in place, so sharing tensors is not safe.
    if not _is_movable(batch.cache):
        cache = copy.deepcopy(batch.cache)
    else:
        cache = _shallow_copy(batch.cache)
        # Compared on the CPU: the same question to a GPU would wait for it.
        if list(indices) == list(range(len(batch.mask))):
            return cache
    # Each layer gets the indices on its own device.
    cache.reorder_cache(chosen)
    return cache


def _shallow_copy(cache: Any) -> Any:
    """Return a cache that shares tensors with another one. Growing a cache replaces its tensors."""
    new = copy.copy(cache)
    new.layers = [copy.copy(layer) for layer in cache.layers]
    return new
