"""Decodes models that cannot read packed tokens: side by side with padding, in transformers' own cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from traitcli.config import SamplingConfig
from traitcli.generation.request import FinishReason, Request, Step, Withdraw
from traitcli.generation.sampling import pick, uniforms
from traitcli.models.loaded import LoadedModel
from traitcli.models.padding import forward, left_pad, new_cache, tap_masked
from traitcli.models.reader import Reader

if TYPE_CHECKING:
    from torch import Tensor


def padded_steps(
    loaded: LoadedModel,
    requests: Sequence[Request],
    sampling: SamplingConfig,
    size: int,
    reader: Reader,
    withdraw: Withdraw,
) -> Iterator[Step]:
    """Write answers in batches of `size`, sorted by length; rows that end leave, and no other takes their place."""
    order = sorted(range(len(requests)), key=lambda index: len(requests[index].ids))
    while order:
        if count := withdraw(len(order)):
            yield Step(withdrawn=order[-count:])
            del order[-count:]
        if order:
            yield from _batch(loaded, requests, order[:size], sampling, reader)
            del order[:size]


def _batch(
    loaded: LoadedModel,
    requests: Sequence[Request],
    chosen: Sequence[int],
    sampling: SamplingConfig,
    reader: Reader,
) -> Iterator[Step]:
    stop = torch.tensor(sorted(loaded.stop_ids), device=loaded.device)
    draws = uniforms([requests[index].seed for index in chosen], sampling.max_new_tokens).to(
        loaded.device
    )
    places = torch.arange(len(chosen), device=loaded.device)
    ids, mask = left_pad(
        [requests[index].ids for index in chosen], loaded.tokenizer.pad_token_id, loaded.device
    )
    cache, account = new_cache(loaded), reader.open(len(chosen))

    def leave(ended: Tensor, reason: FinishReason) -> list[tuple[int, FinishReason]]:
        for place in ended.tolist():
            account.finish(place, chosen[place])
        return [(chosen[place], reason) for place in ended.tolist()]

    with tap_masked(loaded, reader) as begin:
        begin(account, "prompt", places, mask)
        logits = forward(loaded, ids, mask, cache)
        for step in range(sampling.max_new_tokens):
            tokens = pick(logits[:, -1], draws[places, step], sampling)
            ending = torch.isin(tokens, stop)
            stopped = leave(places[ending], "stop")
            going = (~ending).nonzero().squeeze(1)
            if len(going) < len(places) and len(going):
                places, tokens, mask = places[going], tokens[going], mask[going]
                cache.reorder_cache(going)
            if not len(going):
                yield Step(ended=stopped)
                return
            mask = torch.cat([mask, mask.new_ones(len(places), 1)], 1)
            begin(account, "response", places, mask[:, -1:])
            logits = forward(loaded, tokens[:, None], mask, cache)
            last = step + 1 == sampling.max_new_tokens
            full = leave(places, "length") if last else []
            written = [
                (chosen[place], token)
                for place, token in zip(places.tolist(), tokens.tolist(), strict=True)
            ]
            yield Step(written, stopped + full)
