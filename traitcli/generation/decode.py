"""The decode loop: writes token by token and lets a reader see every hidden state once.

Each written token is fed to the model, the last one too, so the state read for a token is the
state *at* that token. End-of-text tokens are neither fed nor part of the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import torch

from traitcli.config import SamplingConfig
from traitcli.generation.sampling import pick, uniforms
from traitcli.models.batching import forward, left_pad, new_cache
from traitcli.models.hooks import tap
from traitcli.models.load import LoadedModel
from traitcli.records import Position

if TYPE_CHECKING:
    from torch import Tensor

Phase = Literal["prompt", "response"]


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt to continue, and the seed of its own random numbers."""

    ids: tuple[int, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class Generation:
    """What one request gave.

    activations  position -> float32 [L+1, H] on the CPU; none when the answer is empty
    """

    ids: tuple[int, ...]
    finish_reason: Literal["stop", "length"]
    activations: dict[Position, Tensor] | None


class Reader(Protocol):
    """Sees the hidden states of `rows` in every forward pass of the loop."""

    @property
    def rows(self) -> Iterable[int]: ...

    def begin(self, phase: Phase, requests: Tensor, mask: Tensor) -> None:
        """The next pass feeds the tokens where `mask` [B, T] is true, for `requests` int64 [B]."""
        ...

    def __call__(self, row: int, hidden: Tensor) -> None:
        """Hidden states [B, T, H] of one row."""
        ...


class MeanReader:
    """Sums all rows on the device while decoding: float32 [n, L+1, H] for each position."""

    def __init__(self, loaded: LoadedModel, requests: int) -> None:
        self.rows = range(loaded.rows)
        shape = (requests, loaded.rows, loaded.hidden_size)
        self._sums = {phase: torch.zeros(shape, device=loaded.device) for phase in ("prompt", "response")}
        self._counts = {phase: torch.zeros(requests, device=loaded.device) for phase in ("prompt", "response")}
        self._last = torch.zeros(shape, device=loaded.device)

    def begin(self, phase: Phase, requests: Tensor, mask: Tensor) -> None:
        self._phase, self._requests, self._mask = phase, requests, mask
        self._counts[phase].index_add_(0, requests, mask.sum(1).float())

    def __call__(self, row: int, hidden: Tensor) -> None:
        # Padding may hold anything, NaN included, so it is replaced before summing, not weighted by 0.
        summed = hidden.float().masked_fill(~self._mask[:, :, None], 0).sum(1)
        self._sums[self._phase][:, row].index_add_(0, self._requests, summed.to(self._sums[self._phase].device))
        if self._phase == "prompt":
            self._last[:, row] = hidden[:, -1].float()

    def activations(self, request: int) -> dict[Position, Tensor] | None:
        """The means of one request, or none when it wrote nothing."""
        if not self._counts["response"][request]:
            return None
        return {
            "response_avg": (self._sums["response"][request] / self._counts["response"][request]).cpu(),
            "prompt_avg": (self._sums["prompt"][request] / self._counts["prompt"][request]).cpu(),
            "prompt_last": self._last[request].cpu(),
        }


def generate(
    loaded: LoadedModel,
    requests: Sequence[Request],
    sampling: SamplingConfig,
    on_step: Callable[[int], None] = lambda tokens: None,
) -> list[Generation]:
    """Answer a batch of requests and capture its activations in the same pass."""
    reader = MeanReader(loaded, len(requests))
    written: list[list[int]] = [[] for _ in requests]
    for step in decode(loaded, requests, sampling, reader):
        for request, token in step:
            written[request].append(token)
        on_step(len(step))
    return [
        Generation(
            ids=tuple(ids),
            finish_reason="length" if len(ids) == sampling.max_new_tokens else "stop",
            activations=reader.activations(request),
        )
        for request, ids in enumerate(written)
    ]


@torch.inference_mode()
def decode(
    loaded: LoadedModel, requests: Sequence[Request], sampling: SamplingConfig, reader: Reader
) -> Iterator[list[tuple[int, int]]]:
    """Yield at each step the (request, token) pairs just written; their states have been read.

    Rows that are finished leave the batch and its cache.
    """
    stop = torch.tensor(sorted(loaded.stop_ids), device=loaded.device)
    draws = uniforms([r.seed for r in requests], sampling.max_new_tokens).to(loaded.device)
    active = torch.arange(len(requests), device=loaded.device)
    ids, mask = left_pad([r.ids for r in requests], loaded.tokenizer.pad_token_id, loaded.device)
    cache = new_cache(loaded)
    with tap(loaded.model, reader.rows, reader):
        reader.begin("prompt", active, mask)
        logits = forward(loaded, ids, mask, cache)
        for step in range(sampling.max_new_tokens):
            tokens = pick(logits[:, -1], draws[active, step], sampling)
            going = (~torch.isin(tokens, stop)).nonzero().squeeze(1)
            if len(going) == 0:
                return
            if len(going) < len(active):
                active, tokens, mask = active[going], tokens[going], mask[going]
                cache.batch_select_indices(going)
            mask = torch.cat([mask, mask.new_ones(len(active), 1)], 1)
            reader.begin("response", active, mask[:, -1:])
            logits = forward(loaded, tokens[:, None], mask, cache)
            yield list(zip(active.tolist(), tokens.tolist(), strict=True))
