"""Reads existing texts, for a reader of their hidden states or for their log-probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from traitcli.models.batch_size import BatchSize, as_batch_size, run_shrinking
from traitcli.models.engine import TOKENS_PER_PASS, Engine, split_passes
from traitcli.models.finite import check_layers
from traitcli.models.loaded import LoadedModel
from traitcli.models.memory import free_bytes
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

_LOGITS_SHARE = 0.25
"""Share of the free memory for the logits of one pass; with a soft cap, three such tensors exist
at once."""
_CHUNK = 2**21
"""Logits that become float32 together, at least one token's. More are not faster on a CPU."""


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
            first_logits = engine.read_prompts(
                batch, range(len(chosen)), prompts, [prefix for _, prefix in chosen]
            )

            # Not earlier: the keys and values of the batch have their memory by now.
            max_tokens = _tokens_per_pass(loaded, batch_size, scored)
            for part in split_passes([len(ids) for ids in responses], max_tokens):
                new, known = responses[part], [len(ids) for ids in prompts[part]]
                slots = range(part.start, part.start + len(new))
                later = []
                # Without logits, one long text needs little memory.
                for columns in _pieces(new, max_tokens) if scored else [slice(0, None)]:
                    piece = [ids[columns] for ids in new]
                    next_ids = [ids[1:][columns] if scored else () for ids in new]
                    before = [count + columns.start for count in known]
                    wanted = _followed(piece, next_ids)
                    logits = engine.read(batch, "response", slots, before, piece, wanted)
                    if scored:
                        later.append(_log_probability(logits, _tensor(next_ids)))
                    del logits  # the next ones need its memory

                batch.state.finish(slots, indices[part])
                found = [first_logits[:0]] * len(new)
                if scored:
                    found = _log_probabilities(loaded, first_logits[part], later, new)
                yield from zip(indices[part], found, strict=True)


def _read_padded(
    loaded: LoadedModel, texts: _Texts, batch_size: BatchSize, reader: Reader, scored: bool
) -> Iterator[tuple[int, Tensor]]:
    """The same with transformers' own cache, for models that cannot read packed tokens."""
    order = list(texts)
    if not scored:
        order.sort(key=lambda index: (texts[index].prompt, len(texts[index].response)))
    longest = max(len(text.response) for text in texts.values())
    # Some models compute the logits of all columns, whether or not they are needed.
    has_logits = scored or not loaded.last_logits
    if not loaded.last_logits:
        longest = max(longest, *(len(text.prompt) for text in texts.values()))
    max_tokens = _tokens_per_pass(loaded, batch_size, has_logits)
    size = min(batch_size.now, max(1, max_tokens // longest))
    if not loaded.pads:
        size = 1

    with tap_masked(loaded, reader) as begin:
        for start in range(0, len(order), size):
            indices = order[start : start + size]
            chosen = [texts[index] for index in indices]
            states = reader.open(len(indices)), reader.open(len(indices))
            first_logits, later = _read_padded_batch(
                loaded, chosen, states, begin, max_tokens, scored
            )
            states[1].finish(range(len(indices)), indices)
            found = [first_logits[:0]] * len(indices)
            if scored:
                responses = [text.response for text in chosen]
                found = _log_probabilities(loaded, first_logits, later, responses)
            yield from zip(indices, found, strict=True)


def _read_padded_batch(
    loaded: LoadedModel,
    texts: Sequence[Text],
    states: tuple[ReaderState, ReaderState],
    begin: BeginPass,
    max_tokens: int,
    scored: bool,
) -> tuple[Tensor, list[Tensor]]:
    """Logits [R, V] after the prompts, and log-probabilities of later response tokens if `scored`.

    `states` have a slot for each text: the first one for prompts, the second one for the texts.
    """
    prompt_state, state = states
    pad, device = loaded.tokenizer.pad_token_id, loaded.device
    prompts = list(dict.fromkeys(text.prompt for text in texts))
    prompt_of = [prompts.index(text.prompt) for text in texts]
    rows = torch.tensor(prompt_of, device=device)
    cache = new_cache(loaded)

    # Equal prompts are read once, then their keys and reader state are copied to every text.
    ids, prompt_mask = left_pad(prompts, pad, torch.device("cpu"))
    begin(prompt_state, "prompt", range(len(prompts)), prompt_mask)
    prompt_mask = prompt_mask.to(device)
    first_logits = forward(loaded, ids.to(device), prompt_mask, cache)[rows, -1]
    cache.reorder_cache(rows)
    for slot, prompt_slot in enumerate(prompt_of):
        state.copy_prefix(range(slot, slot + 1), prompt_state, prompt_slot)

    responses = [text.response for text in texts]
    ids, mask = right_pad(responses, pad, torch.device("cpu"))
    # What comes after each token, in its column.
    next_ids, has_next = ids.roll(-1, 1), mask.roll(-1, 1)
    has_next[:, -1] = False
    later = []
    for columns in _pieces(responses, max_tokens):
        begin(state, "response", range(len(texts)), mask[:, columns])
        whole_mask = torch.cat([prompt_mask[rows], mask[:, : columns.stop].to(device)], 1)
        logits = forward(loaded, ids[:, columns].to(device), whole_mask, cache, not scored)
        if scored:
            found = _log_probability(logits.flatten(0, 1), next_ids[:, columns].flatten())
            later.append(found[has_next[:, columns].flatten()])
        del logits  # the next ones need its memory
    return first_logits, later


def _tokens_per_pass(loaded: LoadedModel, batch_size: BatchSize, has_logits: bool) -> int:
    """The tokens of a pass; fewer if all have logits, and little memory is free for these."""
    most = TOKENS_PER_PASS
    if has_logits:
        vocabulary: int = loaded.model.config.get_text_config().vocab_size
        free = min(free_bytes(device) for device in loaded.devices)
        bytes_per_token = vocabulary * loaded.model.dtype.itemsize
        most = min(most, int(_LOGITS_SHARE * free / bytes_per_token))
    # Long texts fill a pass although they are few: with fewer texts, a pass must hold less too.
    return max(1, int(most * batch_size.share))


def _pieces(responses: Sequence[Ids], max_tokens: int) -> Iterator[slice]:
    """The columns of each pass: all of several responses; one that exceeds a pass takes several."""
    longest = max(map(len, responses))
    width = longest if len(responses) > 1 else min(longest, max_tokens)
    for start in range(0, longest, width):
        yield slice(start, start + width)


def _followed(sequences: Sequence[Ids], next_ids: Sequence[Ids]) -> list[int]:
    """The indices of packed tokens that `next_ids` follow: the first ones of each sequence."""
    indices: list[int] = []
    first = 0
    for ids, following in zip(sequences, next_ids, strict=True):
        indices += range(first, first + len(following))
        first += len(ids)
    return indices


def _tensor(sequences: Sequence[Ids]) -> Tensor:
    """int64 [N], packed tokens."""
    return torch.tensor([token for ids in sequences for token in ids], dtype=torch.long)


def _log_probabilities(
    loaded: LoadedModel, first_logits: Tensor, later: Sequence[Tensor], responses: Sequence[Ids]
) -> list[Tensor]:
    """float32 [T] of each response, on the CPU; raises ModelError unless all are finite.

    A token's probability is in the logits before it: for the first tokens these are
    `first_logits` [R, V] after the prompts. Those of all others are in `later`, text by text.
    """
    first = _log_probability(first_logits, _tensor([ids[:1] for ids in responses]))
    rest = torch.cat(list(later))
    check_layers(loaded, [(loaded.layer_count, first), (loaded.layer_count, rest)])
    by_text = torch.split(rest, [len(ids) - 1 for ids in responses])
    return [torch.cat([first[i : i + 1], part]) for i, part in enumerate(by_text)]


def _log_probability(logits: Tensor, tokens: Tensor) -> Tensor:
    """float32 [N] of the tokens [N], on the CPU, from logits [N, V].

    In float32, because half precision would round a sum over the whole vocabulary. But never for
    all tokens together: a float32 copy of half-precision logits takes twice their memory.
    """
    columns = tokens[:, None].to(logits.device)
    together = max(1, _CHUNK // logits.shape[1])
    # Not `log_softmax`: on a CPU its sum rounds up to ten times as much.
    totals = [part.float().logsumexp(1) for part in torch.split(logits, together)]
    return (logits.gather(1, columns).squeeze(1).float() - torch.cat(totals)).cpu()
