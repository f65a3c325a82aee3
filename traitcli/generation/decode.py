"""The decode loop: writes answers token by token while a reader sees every hidden state once.

Each written token is fed to the model, the last one too: the state read for a token is the state
*at* that token. End-of-text tokens are neither fed nor part of the answer.

    waiting ──(read prompts)──> running ──(feed one token each)──> written ──> ended
    sorted, so that             slots 0, 1, … of a                             the slot goes to
    prefixes are shared         SequenceBatch, no gaps                         a waiting request
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from traitcli.config import SamplingConfig
from traitcli.generation.fixed_decode import FixedLoop, HowToRun, capture_cuda_graph
from traitcli.generation.mean_activations import Activations, MeanReader
from traitcli.generation.padded_decode import padded_steps
from traitcli.generation.request import FinishReason, Release, Request, Step, release_none
from traitcli.generation.sampling import pick_tokens, uniforms
from traitcli.generation.waiting import Waiting
from traitcli.models.batch_size import BatchSize, run_shrinking
from traitcli.models.engine import Engine
from traitcli.models.loaded import LoadedModel
from traitcli.models.reader import Reader

if TYPE_CHECKING:
    from torch import Tensor

    from traitcli.models.reader import Floats


@dataclass(frozen=True, slots=True)
class Generation:
    """The answer to one request.

    activations  position -> float32 [L+1, H] on the CPU; none when the answer is empty
    thinking     how many of the first tokens are left out of `response_avg`
    """

    ids: tuple[int, ...]
    finish_reason: FinishReason
    activations: Activations | None
    thinking: int = 0


def generate(
    loaded: LoadedModel,
    requests: Sequence[Request],
    sampling: SamplingConfig,
    size: BatchSize,
    on_step: Callable[[int], None] = lambda tokens: None,
    release: Release = release_none,
) -> Iterator[tuple[int, Generation | None]]:
    """Answer requests, `size.now` at a time, and capture their activations in the same pass.

    Yields (index of the request, its generation) as soon as an answer is complete; the generation
    is none for a released request. When memory runs out and the size can shrink, unfinished
    answers start again: in float32 their seeds make the same answers.
    """

    def run(pending: Sequence[int]) -> Iterator[tuple[int, Generation | None]]:
        chosen = {index: requests[index] for index in pending}
        return _generate(loaded, chosen, sampling, size, on_step, release)

    yield from run_shrinking(len(requests), size, run)


def _generate(
    loaded: LoadedModel,
    pending: Mapping[int, Request],
    sampling: SamplingConfig,
    size: BatchSize,
    on_step: Callable[[int], None],
    release: Release,
) -> Iterator[tuple[int, Generation | None]]:
    """Answer all requests; once the size has changed, only those that have started."""
    indices = list(pending)
    initial_size = size.now
    reader = MeanReader(loaded)
    tokens: dict[int, list[int]] = {}

    def release_unstarted(unstarted: int) -> int:
        # Slots are never added or moved while they are in use: a new size needs a new loop.
        return release(unstarted) if size.now == initial_size else unstarted

    requests = list(pending.values())
    for step in decode(loaded, requests, sampling, initial_size, reader, release_unstarted):
        # After a change of size, released requests are not given back: the next loop gets them.
        if size.now == initial_size:
            for request in step.released:
                yield indices[request], None

        for request, token in step.written:
            tokens.setdefault(request, []).append(token)
        on_step(len(step.written))

        for request, reason in step.ended:
            size.complete()
            ids = tuple(tokens.pop(request, ()))
            yield indices[request], Generation(ids, reason, reader.finished.pop(request))


@torch.inference_mode()
def decode(
    loaded: LoadedModel,
    requests: Sequence[Request],
    sampling: SamplingConfig,
    size: int,
    reader: Reader,
    release: Release = release_none,
) -> Generator[Step, None, None]:
    """Write answers, at most `size` at a time; yields a `Step` for each forward pass over tokens.

    A model that cannot read packed tokens is decoded with padding, with the same results. The
    model cannot be used for anything else until the generator ends or is closed.
    """
    if not loaded.packs:
        yield from padded_steps(loaded, requests, sampling, size, reader, release)
    elif requests and loaded.decode_loop != "moving":
        capture = capture_cuda_graph if loaded.decode_loop == "graph" else None
        loop = FixedLoop(loaded, requests, sampling, size, reader, HowToRun(capture))
        yield from loop.steps(release)
    elif requests:
        yield from _DecodeLoop(loaded, requests, sampling, size, reader).steps(release)


@dataclass(slots=True, eq=False)
class _RunningRequest:
    """A request that has started.

    index   its index among all requests
    draws   float32 [max_new_tokens, 3], the random numbers of its tokens
    length  tokens in its slot of the KV store
    token   the next token to feed
    """

    index: int
    draws: Tensor
    length: int
    written: int = 0
    token: int = -1


class _DecodeLoop:
    """Request i of `_running` is in slot i of the batch, so slots in use have no gaps."""

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

        self._waiting = Waiting(requests)
        self._size = min(size, len(requests))
        longest_prompt = max(len(request.ids) for request in requests)
        self._batch = self._engine.open(self._size, longest_prompt + sampling.max_new_tokens)
        self._running: list[_RunningRequest] = []

    def steps(self, release: Release) -> Iterator[Step]:
        with self._engine.running():
            while self._running or self._waiting:
                if count := release(len(self._waiting)):
                    yield Step(released=self._waiting.release(count))
                ended: list[tuple[int, FinishReason]] = []
                prompt_scores: list[tuple[int, Floats]] = []
                if self._waiting.has_room(self._size - len(self._running), self._size):
                    ended, prompt_scores = self._start_requests()

                # All prompts may have been answered with end-of-text at once.
                if not self._running:
                    yield Step(ended=ended, prompt_scores=prompt_scores)
                    continue
                written = [(request.index, request.token) for request in self._running]
                token_scores, ended_now = self._feed_tokens()
                yield Step(written, token_scores, ended + ended_now, prompt_scores=prompt_scores)

    def _start_requests(self) -> tuple[list[tuple[int, FinishReason]], list[tuple[int, Floats]]]:
        """Read prompts into all free slots and pick the first token of each.

        Returns (request, reason) of answers that are empty, and (request, scores) of prompts.
        """
        count = min(self._size - len(self._running), len(self._waiting))
        slots = range(len(self._running), len(self._running) + count)
        starting, logits, prompt_scores = self._waiting.read_next(self._engine, self._batch, slots)
        new = [self._new_request(index) for index in starting]
        self._running += new
        return self._pick_tokens(new, logits), prompt_scores

    def _new_request(self, index: int) -> _RunningRequest:
        request = self._requests[index]
        [draws] = uniforms([request.seed], self._sampling.max_new_tokens)
        return _RunningRequest(index, draws, length=len(request.ids))

    def _feed_tokens(self) -> tuple[Floats | None, list[tuple[int, FinishReason]]]:
        """Feed the token of every running request and pick the next one.

        Returns the scores of the tokens that were fed, and (request, reason) of complete answers.
        """
        running, limit = self._running, self._sampling.max_new_tokens
        # The last token of a full answer is fed for its hidden states; its logits are not needed.
        going = [slot for slot, request in enumerate(running) if request.written + 1 < limit]
        logits_at = going if len(going) < len(running) else None
        known = [request.length for request in running]
        new = [(request.token,) for request in running]
        slots = range(len(running))
        logits = self._engine.read(self._batch, "response", slots, known, new, logits_at)
        token_scores = self._batch.state.token_scores()

        for request in running:
            request.length += 1
            request.written += 1
        full = [request for request in running if request.written == limit]
        ended = self._pick_tokens([running[slot] for slot in going], logits, full)
        return token_scores, ended

    def _pick_tokens(
        self,
        requests: Sequence[_RunningRequest],
        logits: Tensor,
        full: Sequence[_RunningRequest] = (),
    ) -> list[tuple[int, FinishReason]]:
        """Pick each request's next token; finish those that stop with it, and the `full` ones."""
        ended: list[tuple[_RunningRequest, FinishReason]] = []
        ended += [(request, "length") for request in full]
        if requests:
            draws = torch.stack([request.draws[request.written] for request in requests])
            tokens = pick_tokens(self._loaded, logits, draws, self._sampling)
            for request, token in zip(requests, tokens, strict=True):
                request.token = token
                if token in self._loaded.stop_ids:
                    ended.append((request, "stop"))

        self._finish([request for request, _ in ended])
        return [(request.index, reason) for request, reason in ended]

    def _finish(self, ended: Sequence[_RunningRequest]) -> None:
        """Free the requests' slots, and move the last requests there, so that no gap is left."""
        if not ended:
            return  # as in most steps
        slots = [self._running.index(request) for request in ended]
        self._batch.state.finish(slots, [request.index for request in ended])

        before = list(self._running)
        for request in ended:
            self._running[self._running.index(request)] = self._running[-1]
            self._running.pop()
        # Neighbors are read without a copy of their keys.
        for slot, request in enumerate(self._running):
            if before[slot] is not request:
                source, store = before.index(request), self._batch.store
                store.copy_prefix(store, source, range(slot, slot + 1), request.length)
                self._batch.state.move(source, slot)
