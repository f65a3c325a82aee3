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
from traitcli.generation.sampling import pick_tokens, uniforms
from traitcli.models.loaded import LoadedModel
from traitcli.models.padding import forward, keep_rows, left_pad, new_cache, tap_masked
from traitcli.models.reader import Reader

if TYPE_CHECKING:
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
    seeds = [requests[index].seed for index in chosen]
    draws = uniforms(seeds, sampling.max_new_tokens).to(device)
    ids, mask = left_pad(
        [requests[index].ids for index in chosen],
        loaded.tokenizer.pad_token_id,
        torch.device("cpu"),
    )
    cache, state = new_cache(loaded), reader.open(len(chosen))

    def finish(ended: Sequence[int], reason: FinishReason) -> list[tuple[int, FinishReason]]:
        indices = [chosen[slot] for slot in ended]
        state.finish(ended, indices)
        return [(index, reason) for index in indices]

    with tap_masked(loaded, reader) as begin:
        # The slots still in use, in the order of the rows of `draws`, `mask` and the cache.
        slots = list(range(len(chosen)))
        begin(state, "prompt", slots, mask)
        mask = mask.to(device)
        logits = forward(loaded, ids.to(device), mask, cache)

        # They go out with the first step.
        prompt_scores: list[tuple[int, Floats]] = []
        for slot, index in enumerate(chosen):
            if (scores := state.prompt_scores(slot)) is not None:
                prompt_scores.append((index, scores))

        for step in range(sampling.max_new_tokens):
            tokens = pick_tokens(loaded, logits[:, -1], draws[:, step], sampling)
            going = [row for row, token in enumerate(tokens) if token not in loaded.stop_ids]
            stopped = [slot for row, slot in enumerate(slots) if tokens[row] in loaded.stop_ids]
            ended = finish(stopped, "stop")
            if not going:
                yield Step(ended=ended, prompt_scores=prompt_scores)
                return
            # Sequences that have ended leave the cache, so no pass computes them any more.
            if stopped:
                rows = torch.tensor(going, device=device)
                mask, draws = mask[rows], draws[rows]
                keep_rows(cache, rows)
                slots, tokens = [slots[row] for row in going], [tokens[row] for row in going]

            mask = torch.cat([mask, mask.new_ones(len(slots), 1)], 1)
            begin(state, "response", slots, torch.ones(len(slots), 1, dtype=torch.bool))
            logits = forward(loaded, torch.tensor(tokens, device=device)[:, None], mask, cache)
            token_scores = state.token_scores()
            if step + 1 == sampling.max_new_tokens:
                ended += finish(slots, "length")
            written = [(chosen[slot], token) for slot, token in zip(slots, tokens, strict=True)]
            yield Step(written, token_scores, ended, prompt_scores=prompt_scores)
            prompt_scores = []
