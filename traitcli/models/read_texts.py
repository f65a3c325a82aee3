"""Reads existing texts, for a reader of their hidden states or for their log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import torch

from traitcli.models.batch_size import BatchSize, as_batch_size, run_shrinking
from traitcli.models.engine import TOKENS_PER_PASS, Engine, split_passes
from traitcli.models.finite import check_layers
from traitcli.models.loaded import LoadedModel
from traitcli.models.padding import (
    BeginPass,
    forward,
    left_pad,
    new_cache,
    right_pad,
    tap_masked,
)
from traitcli.models.prefix_tree import Ids, find_shared_prefixes
from traitcli.models.reader import NullReader, Reader, ReaderState

if TYPE_CHECKING:
    from torch import Tensor

LOGIT_BYTES_PER_PASS = 2**29
"""Limits the texts that are scored in one pass: every response token has float32 logits [V]."""


@dataclass(frozen=True, slots=True)
class Text:
    """A prompt and what follows it, at least one token each."""

    prompt: Ids
    response: Ids


_Texts = Mapping[int, Text]
"""The texts of one attempt, by their indices among all texts, which are in order."""


@torch.inference_mode()
def read_texts(
    loaded: LoadedModel, texts: Sequence[Text], size: int | BatchSize, reader: Reader
) -> Iterator[int]:
    """Let a reader see every token of texts, `size` texts side by side.

    Yields the index of each text once it is read. What prompts share is read once; no logits are
    computed for responses. A `BatchSize` may shrink when memory runs out; a number stays.
    """
    for index, _ in _read(loaded, texts, size, reader, scored=False):
        yield index


@torch.inference_mode()
def log_probabilities(
    loaded: LoadedModel, texts: Sequence[Text], size: int | BatchSize
) -> Iterator[tuple[int, Tensor]]:
    """Yield (index, float32 [T]) of each text, in order: log P of every response token.

    Each is given all tokens before it. What prompts share is read once, and stays in memory until
    the last of them is read. For `size` see `read_texts`.
    """
    yield from _read(loaded, texts, size, NullReader(), scored=True)


def _read(
    loaded: LoadedModel,
    texts: Sequence[Text],
    size: int | BatchSize,
    reader: Reader,
    scored: bool,
) -> Iterator[tuple[int, Tensor]]:
    """Index and log-probabilities of each text; the latter are empty unless it is `scored`."""
    batch_size = as_batch_size(size)
    read = _read_packed if loaded.packs else _read_padded

    def run(pending: Sequence[int]) -> Iterator[tuple[int, Tensor]]:
        return read(loaded, {i: texts[i] for i in pending}, batch_size, reader, scored)

    yield from run_shrinking(len(texts), batch_size, run)


def _read_packed(
    loaded: LoadedModel, texts: _Texts, batch_size: BatchSize, reader: Reader, scored: bool
) -> Iterator[tuple[int, Tensor]]:
    engine = Engine(loaded, reader, batch_size.share)
    size = min(batch_size.now, len(texts))
    # One batch for all texts: each next part of them reuses its slots.
    longest = max(len(text.prompt) + len(text.response) for text in texts.values())
    batch = engine.open(size, longest)
    max_tokens = _tokens_per_pass(loaded, batch_size, scored)

    # (index, shared prefix), sorted so that each prefix is in memory for the shortest time.
    pending = list(texts)
    prefixes = find_shared_prefixes([text.prompt for text in texts.values()])
    order = [(pending[number], prefix) for number, prefix in prefixes]
    if scored:
        # Scores are promised in the order of the texts, so some prefixes stay longer.
        order.sort(key=lambda pair: pair[0])

    with engine.running():
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            indices = [index for index, _ in chosen]
            prompts = [texts[index].prompt for index in indices]
            responses = [texts[index].response for index in indices]
            first_logits = engine.read_prompts(batch, 0, prompts, [prefix for _, prefix in chosen])

            for part in split_passes([len(ids) for ids in responses], max_tokens):
                new, known = responses[part], [len(ids) for ids in prompts[part]]
                logits_at = _all_but_last(new) if scored else []
                rest = engine.read(batch, "response", known, new, part.start, logits_at)

                slots = range(part.start, part.start + len(new))
                batch.state.finish(slots, indices[part])
                found = [first_logits[:0]] * len(new)
                if scored:
                    found = _log_probabilities(loaded, first_logits[part], rest, new)
                yield from zip(indices[part], found, strict=True)


def _read_padded(
    loaded: LoadedModel, texts: _Texts, batch_size: BatchSize, reader: Reader, scored: bool
) -> Iterator[tuple[int, Tensor]]:
    """The same with transformers' own cache, for models that cannot read packed tokens."""
    order = list(texts)
    if not scored:
        order.sort(key=lambda index: (texts[index].prompt, len(texts[index].response)))
    longest = max(len(text.response) for text in texts.values())
    # `forward` computes the logits of all columns, whether or not they are needed.
    max_tokens = _tokens_per_pass(loaded, batch_size, scored=True)
    size = min(batch_size.now, max(1, max_tokens // longest))
    if not loaded.pads:
        size = 1

    with tap_masked(loaded, reader) as begin:
        for start in range(0, len(order), size):
            indices = order[start : start + size]
            state = reader.open(len(indices))
            chosen = [texts[index] for index in indices]
            found = _read_padded_batch(loaded, chosen, reader, state, begin)
            state.finish(range(len(indices)), indices)
            yield from zip(indices, found, strict=True)


def _read_padded_batch(
    loaded: LoadedModel,
    texts: Sequence[Text],
    reader: Reader,
    state: ReaderState,
    begin: BeginPass,
) -> list[Tensor]:
    """Log-probabilities of responses; `state` has a slot for each text."""
    pad, device = loaded.tokenizer.pad_token_id, loaded.device
    prompts = list(dict.fromkeys(text.prompt for text in texts))
    prompt_of = [prompts.index(text.prompt) for text in texts]
    rows = torch.tensor(prompt_of, device=device)
    cache = new_cache(loaded)

    # Equal prompts are read once, then their keys and reader state are copied to every text.
    prompt_state = reader.open(len(texts))
    ids, prompt_mask = left_pad(prompts, pad, torch.device("cpu"))
    begin(prompt_state, "prompt", range(len(prompts)), prompt_mask)
    prompt_mask = prompt_mask.to(device)
    first_logits = forward(loaded, ids.to(device), prompt_mask, cache)[rows, -1]
    cache.reorder_cache(rows)
    for slot, prompt_slot in enumerate(prompt_of):
        state.copy_prefix(range(slot, slot + 1), prompt_state, prompt_slot)

    responses = [text.response for text in texts]
    ids, mask = right_pad(responses, pad, torch.device("cpu"))
    begin(state, "response", range(len(texts)), mask)
    whole_mask = torch.cat([prompt_mask[rows], mask.to(device)], 1)
    logits = forward(loaded, ids.to(device), whole_mask, cache, last_only=False)
    return _log_probabilities(loaded, first_logits, logits[:, :-1][mask[:, 1:]], responses)


def _tokens_per_pass(loaded: LoadedModel, batch_size: BatchSize, scored: bool) -> int:
    most = TOKENS_PER_PASS
    if scored:
        vocabulary: int = loaded.model.config.get_text_config().vocab_size
        most = min(most, LOGIT_BYTES_PER_PASS // (4 * vocabulary))
    # Long texts fill a pass although they are few: with fewer texts, a pass must hold less too.
    return max(1, int(most * batch_size.share))


def _all_but_last(sequences: Sequence[Ids]) -> list[int]:
    """The indices of packed tokens, without each sequence's last one."""
    lengths = [len(ids) for ids in sequences]
    last = {end - 1 for end in accumulate(lengths)}
    return [index for index in range(sum(lengths)) if index not in last]


def _log_probabilities(
    loaded: LoadedModel, first_logits: Tensor, rest: Tensor, responses: Sequence[Ids]
) -> list[Tensor]:
    """float32 [T] of each response, on the CPU; raises ModelError unless all are finite.

    A token's probability is in the logits before it: for the first tokens these are
    `first_logits` [R, V] after the prompts, for the others the packed `rest`.
    """
    first_tokens = [ids[0] for ids in responses]
    later_tokens = [token for ids in responses for token in ids[1:]]
    first = _log_probability(first_logits, first_tokens).cpu()
    rest = _log_probability(rest, later_tokens).cpu()
    check_layers(loaded, [(loaded.layer_count, first), (loaded.layer_count, rest)])
    later = torch.split(rest, [len(ids) - 1 for ids in responses])
    return [torch.cat([first[i : i + 1], part]) for i, part in enumerate(later)]


def _log_probability(logits: Tensor, tokens: Sequence[int]) -> Tensor:
    """float32 [N] of the tokens, from logits [N, V]."""
    columns = torch.tensor(tokens, dtype=torch.long, device=logits.device)[:, None]
    # In float32: half precision would round a sum over the whole vocabulary.
    return logits.gather(1, columns).squeeze(1).float() - logits.float().logsumexp(1)
