"""The decode loop: writes token by token and lets a reader see every hidden state once.

Each written token is fed to the model, the last one too, so the state read for a token is the
state *at* that token. End-of-text tokens are neither fed nor part of the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from accelerate.utils.memory import clear_device_cache

from traitcli.config import SamplingConfig
from traitcli.generation.batch_size import BatchSize
from traitcli.generation.mean_activations import Activations, MeanReader
from traitcli.generation.padded_decode import padded_steps
from traitcli.generation.request import FinishReason, Request, Step, Withdraw, keep_all
from traitcli.generation.sampling import pick, uniforms
from traitcli.models.engine import Engine
from traitcli.models.loaded import LoadedModel
from traitcli.models.memory import ran_out_of_memory
from traitcli.models.prefix_tree import find_shared_prefixes
from traitcli.models.reader import Reader

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Generation:
    """What one request gave.

    activations  position -> float32 [L+1, H] on the CPU; none when the answer is empty
    """

    ids: tuple[int, ...]
    finish_reason: FinishReason
    activations: Activations | None


@dataclass(slots=True, eq=False)
class _Row:
    """A request under way: how many tokens its place holds, how many were written, and the next to be fed."""

    request: int
    draws: Tensor
    known: int
    written: int = 0
    token: int = -1


def generate(
    loaded: LoadedModel,
    requests: Sequence[Request],
    sampling: SamplingConfig,
    size: BatchSize,
    on_step: Callable[[int], None] = lambda tokens: None,
    withdraw: Withdraw = keep_all,
) -> Iterator[tuple[int, Generation | None]]:
    """Answer requests, `size` at a time, and capture their activations in the same pass.

    Yields each one's index with what came of it, as soon as it is complete; with none if it was
    withdrawn. Where memory runs out and the size can shrink, the answers under way are begun again.
    """
    left = dict(enumerate(requests))
    while left:
        try:
            for index, generation in _generate(loaded, left, sampling, size, (on_step, withdraw)):
                del left[index]
                yield index, generation
        except (RuntimeError, MemoryError) as error:
            if not (ran_out_of_memory(error) and size.shrink()):
                raise
        if left:  # the size has changed: what the last loop held goes first
            clear_device_cache(garbage_collection=True)


def _generate(
    loaded: LoadedModel,
    asked: Mapping[int, Request],
    sampling: SamplingConfig,
    size: BatchSize,
    told: tuple[Callable[[int], None], Withdraw],
) -> Iterator[tuple[int, Generation | None]]:
    """Until all are answered, or until those under way are when the size has changed."""
    reader, now, indices = MeanReader(loaded), size.now, list(asked)
    on_step, withdraw = told
    texts: dict[int, list[int]] = {}
    begin_anew: Withdraw = lambda unbegun: withdraw(unbegun) if size.now == now else unbegun  # noqa: E731
    for step in decode(loaded, [asked[i] for i in indices], sampling, now, reader, begin_anew):
        if size.now == now:
            yield from ((indices[request], None) for request in step.withdrawn)
        for request, token in step.written:
            texts.setdefault(request, []).append(token)
        on_step(len(step.written))
        for request, reason in step.ended:
            size.complete()
            yield (
                indices[request],
                Generation(tuple(texts.pop(request, ())), reason, reader.finished.pop(request)),
            )


@torch.inference_mode()
def decode(
    loaded: LoadedModel,
    requests: Sequence[Request],
    sampling: SamplingConfig,
    size: int,
    reader: Reader,
    withdraw: Withdraw = keep_all,
) -> Generator[Step, None, None]:
    """Write answers, `size` at a time at most; the place of one that is complete is given to the next.

    A model that does not read packed tokens is decoded with padding, with the same results. Until the
    last step, or until it is closed, the model can be used for nothing else.
    """
    if not loaded.packs:
        yield from padded_steps(loaded, requests, sampling, size, reader, withdraw)
    elif requests:
        yield from _Loop(loaded, requests, sampling, size, reader).steps(withdraw)


class _Loop:
    """The requests under way hold the first places of a bench, without gaps."""

    def __init__(
        self,
        loaded: LoadedModel,
        requests: Sequence[Request],
        sampling: SamplingConfig,
        size: int,
        reader: Reader,
    ) -> None:
        self._loaded = loaded
        self._requests = requests
        self._sampling = sampling
        self._engine = Engine(loaded, reader)
        self._pending = find_shared_prefixes([request.ids for request in requests])[::-1]
        self._size = min(size, len(requests))
        capacity = max(len(request.ids) for request in requests) + sampling.max_new_tokens
        self._bench = self._engine.open(self._size, capacity)
        self._rows: list[_Row] = []

    def steps(self, withdraw: Withdraw) -> Iterator[Step]:
        with self._engine.running():
            while self._rows or self._pending:
                if count := withdraw(len(self._pending)):
                    yield Step(withdrawn=self._give_up(count))
                ended = self._admit() if self._has_room() else []
                if not self._rows:
                    yield Step(ended=ended)
                    continue
                written = [(row.request, row.token) for row in self._rows]
                yield Step(written, ended + self._feed())

    def _give_up(self, count: int) -> list[int]:
        """Drop the prompts that would be read last; what was read of their stems is kept until the end."""
        withdrawn = [index for index, _ in self._pending[:count]]
        del self._pending[:count]
        return withdrawn

    def _has_room(self) -> bool:
        """Whether enough places are free for a pass over prompts to be worth it."""
        free = self._size - len(self._rows)
        return bool(self._pending) and free >= min(max(1, self._size // 8), len(self._pending))

    def _admit(self) -> list[tuple[int, FinishReason]]:
        """Read as many prompts as there is room for, and pick the first token of each."""
        coming = [
            self._pending.pop()
            for _ in range(min(self._size - len(self._rows), len(self._pending)))
        ]
        prompts = [self._requests[index].ids for index, _ in coming]
        logits = self._engine.read_prompts(
            self._bench, len(self._rows), prompts, [stem for _, stem in coming]
        )
        new = [self._row(index, len(ids)) for (index, _), ids in zip(coming, prompts, strict=True)]
        self._rows += new
        return self._choose(new, logits)

    def _row(self, index: int, known: int) -> _Row:
        return _Row(
            index, uniforms([self._requests[index].seed], self._sampling.max_new_tokens)[0], known
        )

    def _feed(self) -> list[tuple[int, FinishReason]]:
        """PackedInput the token of every row and pick the next one."""
        rows = self._rows
        going = [
            place
            for place, row in enumerate(rows)
            if row.written + 1 < self._sampling.max_new_tokens
        ]
        keep = torch.tensor(going, dtype=torch.long, device=self._loaded.device)
        known, new = [row.known for row in rows], [(row.token,) for row in rows]
        logits = self._engine.read(self._bench, "response", known, new, keep=keep)
        for row in rows:
            row.known += 1
            row.written += 1
        full = [row for row in rows if row.written == self._sampling.max_new_tokens]
        return self._choose([rows[place] for place in going], logits, full)

    def _choose(
        self, rows: Sequence[_Row], logits: Tensor, full: Sequence[_Row] = ()
    ) -> list[tuple[int, FinishReason]]:
        """Pick the next token of rows; those that end with it leave, and so do those that are full."""
        leaving: list[tuple[_Row, FinishReason]] = [(row, "length") for row in full]
        if rows:
            draws = torch.stack([row.draws[row.written] for row in rows]).to(logits.device)
            for row, token in zip(rows, pick(logits, draws, self._sampling).tolist(), strict=True):
                row.token = token
                if token in self._loaded.stop_ids:
                    leaving.append((row, "stop"))
        for row, _ in leaving:
            self._leave(row)
        return [(row.request, reason) for row, reason in leaving]

    def _leave(self, row: _Row) -> None:
        """Close a row's account; the last row takes its place."""
        place, last = self._rows.index(row), self._rows[-1]
        self._bench.account.finish(place, row.request)
        if last is not row:
            self._bench.store.copy(
                self._bench.store, len(self._rows) - 1, slice(place, place + 1), last.known
            )
            self._bench.account.move(len(self._rows) - 1, place)
            self._rows[place] = last
        self._rows.pop()
