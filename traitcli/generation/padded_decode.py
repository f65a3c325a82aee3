"""Decodes models that cannot read packed tokens: in padded batches, with transformers' own cache.

Results are the same as those of the packed loop, rounding aside; it is slower, because no waiting
request takes the slot of an answer that has ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch

from traitcli.config import SamplingConfig
from traitcli.generation.request import FinishReason, Release, Request, Step
from traitcli.generation.sampling import check_picked, pick, uniforms
from traitcli.models.loaded import LoadedModel
from traitcli.models.padding import forward, left_pad, new_cache, tap_masked
from traitcli.models.reader import Reader

if TYPE_CHECKING:
    from torch import Tensor

    from traitcli.models.reader import Floats


def padded_steps(
    loaded: LoadedModel,
    requests: Sequence[Request],
    sampling: SamplingConfig,
    size: int,
    reader: Reader,
    release: Release,
) -> Iterator[Step]:
    """Write answers in batches of `size` requests with prompts of similar length."""
    if not loaded.pads:
        size = 1
    # Prompts of similar length need little padding.
    order = sorted(range(len(requests)), key=lambda index: len(requests[index].ids))
    while order:
        if count := release(len(order)):
            yield Step(released=order[-count:])
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
    """Write the answers of one batch; slot i belongs to request `chosen[i]`."""
    device = loaded.device
    stop = torch.tensor(sorted(loaded.stop_ids), device=device)
    seeds = [requests[index].seed for index in chosen]
    draws = uniforms(seeds, sampling.max_new_tokens).to(device)
    prompts = [requests[index].ids for index in chosen]
    ids, mask = left_pad(prompts, loaded.tokenizer.pad_token_id, device)
    cache, state = new_cache(loaded), reader.open(len(chosen))

    def finish(ended: Tensor, reason: FinishReason) -> list[tuple[int, FinishReason]]:
        for slot in ended.tolist():
            state.finish(slot, chosen[slot])
        return [(chosen[slot], reason) for slot in ended.tolist()]

    with tap_masked(loaded, reader) as begin:
        # The slots still in use, in the order of the rows of `ids`, `mask` and the cache.
        slots = torch.arange(len(chosen), device=device)
        begin(state, "prompt", slots, mask)
        logits = forward(loaded, ids, mask, cache)

        # They go out with the first step.
        prompt_scores: list[tuple[int, Floats]] = []
        for slot, index in enumerate(chosen):
            scores = state.prompt_scores(slot)
            if scores is not None:
                prompt_scores.append((index, scores))

        for step in range(sampling.max_new_tokens):
            tokens = pick(logits[:, -1], draws[slots, step], sampling)
            check_picked(loaded, tokens.tolist())
            ending = torch.isin(tokens, stop)
            ended = finish(slots[ending], "stop")
            going = (~ending).nonzero().squeeze(1)
            if not len(going):
                yield Step(ended=ended, prompt_scores=prompt_scores)
                return
            # Sequences that have ended leave the cache, so no pass computes them any more.
            if len(going) < len(slots):
                slots, tokens, mask = slots[going], tokens[going], mask[going]
                cache.reorder_cache(going)

            mask = torch.cat([mask, mask.new_ones(len(slots), 1)], 1)
            begin(state, "response", slots, mask[:, -1:])
            logits = forward(loaded, tokens[:, None], mask, cache)
            token_scores = state.token_scores()
            if step + 1 == sampling.max_new_tokens:
                ended += finish(slots, "length")
            running = [chosen[slot] for slot in slots.tolist()]
            written = list(zip(running, tokens.tolist(), strict=True))
            yield Step(written, token_scores, ended, prompt_scores=prompt_scores)
            prompt_scores = []
