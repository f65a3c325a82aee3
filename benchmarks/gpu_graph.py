"""A decode step that can be replayed as a CUDA graph: how much of a step is not the device's work.

A graph repeats the same kernels on the same memory. The engine's step makes its inputs and masks
on the CPU, with shapes that grow. This one has the shapes of the full capacity, and counts
positions on the device. The model, the reader and the sampling are the engine's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.gpu_models import Ids, Sizes, answer, make_requests
from benchmarks.gpu_parts import NotThereError, Parts
from benchmarks.gpu_timing import milliseconds
from traitcli.config import SamplingConfig
from traitcli.generation.mean_activations import MeanReader
from traitcli.generation.request import Request
from traitcli.generation.sampling import pick, uniforms
from traitcli.models.engine import Engine, SequenceBatch
from traitcli.models.kv_store import KVStore
from traitcli.models.loaded import LoadedModel
from traitcli.models.packed_attention import (
    PackedInput,
    _AttentionRule,
    _matmul_attention,
    run_packed,
)
from traitcli.models.reader import NullReader, PassTokens, Reader

if TYPE_CHECKING:
    from torch import Tensor

_ALIGNMENT = 64
"""Fused attention wants masks whose width is a multiple of a power of two."""
_WARMUPS = 2
"""Steps before the capture: libraries allocate memory in the first ones, which a graph cannot."""
_REPLAYS = 40


class StaticInput(PackedInput):
    """One token of each of R sequences, in slots 0 to R − 1; no shape and no address changes.

    Only tensors differ from step to step: `ids` and `positions`, int64 [R].
    """

    def __init__(self, store: KVStore, capacity: int, positions: Tensor) -> None:
        # Not the parent's: it makes everything on the CPU, from lists.
        self.content = "responses"
        self.ids = torch.zeros_like(positions)
        self.positions = positions
        self.slots = torch.arange(len(positions), device=positions.device)
        self.ends = self.logits_at = self.slots
        self.tokens = PassTokens(
            self.slots, self.ends, [(slot, 1) for slot in range(len(positions))]
        )
        self._store = store
        self._width = 1
        self._columns = torch.arange(capacity, device=positions.device)
        self._masks_of_step: dict[int | None, Tensor] = {}

    def begin(self) -> None:
        """Forget the masks of the last step."""
        self._masks_of_step.clear()

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, rule: _AttentionRule
    ) -> Tensor:
        stored = self._store.write(layer, self.slots, self.positions, key, value)
        count, heads, _ = query.shape
        # Over the whole capacity: a graph cannot read more keys with every step.
        keys, values = stored[0][:count], stored[1][:count]
        queries = query.reshape(count, keys.shape[1], -1, query.shape[2])
        mask = self._added(rule.window, query.dtype)
        if rule.needs_matmul:
            mixed = _matmul_attention(queries, keys, values, mask.float(), rule)
        else:
            mask = mask.expand(-1, 1, queries.shape[2], -1)
            mixed = scaled_dot_product_attention(
                queries, keys, values, attn_mask=mask, scale=rule.scale
            )
        return mixed.reshape(count, heads, -1)

    def _added(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """[R, 1, 1, capacity]: 0 where a key is seen, else −inf."""
        if window not in self._masks_of_step:
            hidden = self._columns > self.positions[:, None]
            if window is not None:
                hidden = hidden | (self._columns <= self.positions[:, None] - window)
            zeros = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
            mask = zeros.masked_fill_(hidden, -torch.inf)
            self._masks_of_step[window] = mask[:, None, None]
        return self._masks_of_step[window]


class StaticStep:
    """Writes one more token of every sequence; `ids` are the tokens to feed next."""

    def __init__(
        self,
        loaded: LoadedModel,
        engine: Engine,
        batch: SequenceBatch,
        packed: StaticInput,
        sampling: SamplingConfig,
    ) -> None:
        count = len(packed.slots)
        self._loaded, self._engine, self._batch = loaded, engine, batch
        self._packed, self._sampling = packed, sampling
        self._draws = uniforms(range(count), sampling.max_new_tokens).to(loaded.device)
        self._written = torch.zeros_like(packed.slots)

    @property
    def ids(self) -> Ids:
        """The tokens to feed next."""
        return tuple(self._packed.ids.tolist())

    def pick(self, logits: Tensor) -> None:
        """Pick the tokens to feed next."""
        draws = self._draws[self._packed.slots, self._written]
        self._packed.ids.copy_(pick(logits, draws, self._sampling))

    def run(self) -> None:
        """Feed a token of each sequence, and pick the next one."""
        packed = self._packed
        packed.begin()
        self._engine._state = self._batch.state
        self._batch.state.begin("response", packed.tokens)
        logits = run_packed(self._loaded, packed, packed.ends)
        packed.positions.add_(1)
        self._written.add_(1)
        self.pick(logits)

    def capture(self) -> Callable[[], None]:
        """The same step as one CUDA graph; runs `_WARMUPS` steps before."""
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARMUPS):
                self.run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.run()
        return graph.replay


@contextmanager
def static_step(
    loaded: LoadedModel, requests: list[Request], sampling: SamplingConfig, reader: Reader
) -> Iterator[StaticStep]:
    """A step whose prompts are read and whose first tokens are picked."""
    prompts = [request.ids for request in requests]
    capacity = max(map(len, prompts)) + sampling.max_new_tokens
    capacity += -capacity % _ALIGNMENT
    engine = Engine(loaded, reader)
    batch = engine.open(len(prompts), capacity)
    with torch.inference_mode(), engine.running():
        logits = engine.read_prompts(batch, 0, prompts, [None] * len(prompts))
        lengths = torch.tensor([len(ids) for ids in prompts], device=loaded.device)
        packed = StaticInput(batch.store, capacity, lengths)
        step = StaticStep(loaded, engine, batch, packed, sampling)
        step.pick(logits)
        yield step


def check_static_step(loaded: LoadedModel, sizes: Sizes, parts: Parts) -> None:
    """Whether the step that a graph can hold writes the answers of the decode loop."""
    _refuse_padded(loaded)
    count, tokens = sizes.checked
    requests = make_requests(loaded, count)
    sampling = SamplingConfig(max_new_tokens=tokens)
    expected = [one.ids for one in answer(loaded, requests, sampling, count)]

    is_graph = loaded.device.type == "cuda"
    with static_step(loaded, requests, sampling, MeanReader(loaded)) as step:
        by_step = [step.ids]
        # The warm-up steps of a capture write tokens too, which are left out.
        run = step.capture() if is_graph else step.run
        skipped = _WARMUPS if is_graph else 0
        if skipped:
            by_step = [step.ids]
        for _ in range(tokens - 1 - skipped):
            run()
            by_step.append(step.ids)
    found = list(zip(*by_step, strict=True))
    alike = sum(one == other[skipped:] for one, other in zip(found, expected, strict=True))
    name = "as a CUDA graph" if is_graph else "without a graph"
    parts.at_least(f"of {count} answers {name}, as of the decode loop", alike, 0.9 * count)


def measure_graph(loaded: LoadedModel, sizes: Sizes, parts: Parts, batch: int) -> None:
    """Milliseconds of a replayed step, sampling included, with capture and without."""
    _refuse_padded(loaded)
    if loaded.device.type != "cuda":
        raise NotThereError(f"no CUDA graphs on {loaded.device}")
    # The graph must not run beyond the capacity, nor beyond the random numbers.
    replays = min(_REPLAYS, sizes.answer_tokens - _WARMUPS - 5)
    sampling = SamplingConfig(max_new_tokens=sizes.answer_tokens)
    requests = make_requests(loaded, batch)

    def replay(reader: Reader) -> float:
        with static_step(loaded, requests, sampling, reader) as step:
            return milliseconds(loaded.device, step.capture(), replays)

    parts.found("a step in a CUDA graph, sampled", replay(MeanReader(loaded)), "ms")
    parts.found("a step in a CUDA graph, without capture", replay(NullReader()), "ms")


def _refuse_padded(loaded: LoadedModel) -> None:
    if not loaded.packs:
        raise NotThereError("the model cannot read packed tokens")
