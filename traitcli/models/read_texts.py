"""Reads texts that are there already: what a reader wants of their hidden states, or how probable they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from traitcli.models.engine import TOKENS, Engine, passes
from traitcli.models.loaded import LoadedModel
from traitcli.models.padding import Begin, forward, left_pad, new_cache, right_pad, tap_masked
from traitcli.models.prefix_tree import Ids, find_shared_prefixes
from traitcli.models.reader import Blind, Reader, ReaderState

if TYPE_CHECKING:
    from torch import Tensor

_LOGIT_BYTES = 2**29
"""Logits held at once, at most: what bounds the tokens scored together."""


@dataclass(frozen=True, slots=True)
class Text:
    """A prompt and what follows it, at least one token each."""

    prompt: Ids
    response: Ids


@torch.inference_mode()
def read_texts(
    loaded: LoadedModel, texts: Sequence[Text], size: int, reader: Reader
) -> Iterator[int]:
    """Let a reader see every token of texts, `size` of them side by side; yields the index of each one read.

    What prompts begin with together is read once, and no logits are computed.
    """
    for index, _ in _read(loaded, texts, size, reader, scored=False):
        yield index


@torch.inference_mode()
def log_probabilities(
    loaded: LoadedModel, texts: Sequence[Text], size: int
) -> Iterator[tuple[int, Tensor]]:
    """Index and float32 [T] of each text, in their order: log P of every response token, given all before it.

    What prompts begin with together is read once, and held until the last of them has been read.
    """
    yield from _read(loaded, texts, size, Blind(), scored=True)


def _read(
    loaded: LoadedModel, texts: Sequence[Text], size: int, reader: Reader, scored: bool
) -> Iterator[tuple[int, Tensor]]:
    """Index of each text, and the log-probabilities of its response if it is to be `scored`, else nothing."""
    way = _packed if loaded.packs else _padded
    if texts:
        yield from way(loaded, texts, min(size, len(texts)), reader, scored)


def _packed(
    loaded: LoadedModel, texts: Sequence[Text], size: int, reader: Reader, scored: bool
) -> Iterator[tuple[int, Tensor]]:
    engine = Engine(loaded, reader)
    bench = engine.open(size, max(len(text.prompt) + len(text.response) for text in texts))
    coming = find_shared_prefixes([text.prompt for text in texts])
    if scored:
        coming.sort(key=lambda one: one[0])
    with engine.running():
        for some in (coming[start : start + size] for start in range(0, len(coming), size)):
            prompts, responses = zip(
                *((texts[i].prompt, texts[i].response) for i, _ in some), strict=True
            )
            first = engine.read_prompts(bench, 0, prompts, [stem for _, stem in some])
            for part in passes([len(ids) for ids in responses], _tokens_at_once(loaded, scored)):
                new, known = responses[part], [len(ids) for ids in prompts[part]]
                keep = _all_but_last(new) if scored else torch.tensor([], dtype=torch.long)
                rest = engine.read(
                    bench, "response", known, new, part.start, keep.to(loaded.device)
                )
                for place, _ in enumerate(new, start=part.start):
                    bench.account.finish(place, some[place][0])
                found = (
                    _log_probabilities(first[part], rest, new) if scored else [first[:0]] * len(new)
                )
                yield from zip([index for index, _ in some[part]], found, strict=True)


def _padded(
    loaded: LoadedModel, texts: Sequence[Text], size: int, reader: Reader, scored: bool
) -> Iterator[tuple[int, Tensor]]:
    """The same in transformers' own cache, for models that do not read packed tokens."""
    order = list(range(len(texts)))
    if not scored:
        order.sort(key=lambda i: (texts[i].prompt, len(texts[i].response)))
    longest = max(len(text.response) for text in texts)
    size = min(size, max(1, _tokens_at_once(loaded, scored=True) // longest))
    with tap_masked(loaded, reader) as begin:
        for chosen in (order[start : start + size] for start in range(0, len(order), size)):
            account = reader.open(len(chosen))
            found = _read_padded(
                loaded, [texts[i] for i in chosen], reader.open(len(chosen)), account, begin
            )
            for place, index in enumerate(chosen):
                account.finish(place, index)
            yield from zip(chosen, found, strict=True)


def _read_padded(
    loaded: LoadedModel,
    texts: Sequence[Text],
    above: ReaderState,
    account: ReaderState,
    begin: Begin,
) -> list[Tensor]:
    """Log-probabilities of responses; prompts that are the same are read once, into the account `above`."""
    pad, device = loaded.tokenizer.pad_token_id, loaded.device
    prompts = list(dict.fromkeys(text.prompt for text in texts))
    owners = [prompts.index(text.prompt) for text in texts]
    rows, cache = torch.tensor(owners, device=device), new_cache(loaded)
    ids, prompt_mask = left_pad(prompts, pad, device)
    begin(above, "prompt", torch.arange(len(prompts), device=device), prompt_mask)
    first = forward(loaded, ids, prompt_mask, cache)[rows, -1]
    cache.reorder_cache(rows)
    for place, there in enumerate(owners):
        account.inherit(place, above, there)
    ids, mask = right_pad([text.response for text in texts], pad, device)
    begin(account, "response", torch.arange(len(texts), device=device), mask)
    logits = forward(loaded, ids, torch.cat([prompt_mask[rows], mask], 1), cache, last_only=False)
    return _log_probabilities(first, logits[:, :-1][mask[:, 1:]], [text.response for text in texts])


def _tokens_at_once(loaded: LoadedModel, scored: bool) -> int:
    vocabulary: int = loaded.model.config.get_text_config().vocab_size
    return min(TOKENS, max(1, _LOGIT_BYTES // (4 * vocabulary))) if scored else TOKENS


def _all_but_last(sequences: Sequence[Ids]) -> Tensor:
    """int64: the places of all tokens of packed sequences but the last one of each."""
    last = torch.zeros(sum(map(len, sequences)), dtype=torch.bool)
    last[torch.tensor([len(ids) for ids in sequences]).cumsum(0) - 1] = True
    return (~last).nonzero().squeeze(1)


def _log_probabilities(first: Tensor, rest: Tensor, responses: Sequence[Ids]) -> list[Tensor]:
    """float32 [T] of each response, from logits `first` [R, V] before it, and packed `rest` within it."""
    opening = _log_probability(first, [ids[0] for ids in responses])
    within = _log_probability(rest, [token for ids in responses for token in ids[1:]])
    parts = torch.split(within, [len(ids) - 1 for ids in responses])
    return [torch.cat([opening[i : i + 1], part]) for i, part in enumerate(parts)]


def _log_probability(logits: Tensor, tokens: Sequence[int]) -> Tensor:
    """float32 [N] of the tokens that came, from logits [N, V]."""
    came = torch.tensor(tokens, dtype=torch.long, device=logits.device)[:, None]
    return logits.gather(1, came).squeeze(1).float() - logits.float().logsumexp(1)
