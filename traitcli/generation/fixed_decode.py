"""The decode loop for an accelerator: every answer keeps its slot, and no step waits for the host.

    host     start step 1   start step 2     start step 3     …
                            read report 1    read report 2
    device   [ step 1     ] [ step 2      ] [ step 3      ]

The host learns one step late what was written and what has ended. Then it gives the slots of ended
answers away. The step has fixed shapes, so on CUDA it can be captured as a graph and replayed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from traitcli.config import SamplingConfig
from traitcli.generation.device_slots import BROKEN, FULL, STOPPED, DeviceSlots
from traitcli.generation.request import FinishReason, Release, Request, Step
from traitcli.generation.waiting import Waiting
from traitcli.models.engine import Engine
from traitcli.models.finite import not_finite
from traitcli.models.fixed_input import Kernels
from traitcli.models.loaded import LoadedModel
from traitcli.models.reader import Reader

if TYPE_CHECKING:
    from torch import Tensor

    from traitcli.models.reader import Floats

Run = Callable[[], None]
Capture = Callable[[Run], Run]
"""Records what a function does on the device, without doing it; returns what repeats it."""

_SPAN_STEP = 256
"""In a graph, our own attention reads keys up to a multiple of this many."""


def capture_cuda_graph(run: Run) -> Run:
    """Capture a function as a CUDA graph."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


@dataclass(frozen=True, slots=True)
class HowToRun:
    """How steps are run.

    capture  makes a graph of each shape of step; none: steps are run as they are
    kernels  what computes attention; none: what the device has
    """

    capture: Capture | None = None
    kernels: Kernels | None = None


@dataclass(slots=True, eq=False)
class _RunningRequest:
    """A request that has started.

    index     its index among all requests
    slot      where it is
    length    tokens that its slot may hold: of the prompt, and one for each step that was started
    steps     steps that were started and may have written a token of it
    """

    index: int
    slot: int
    length: int
    steps: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _StartedStep:
    """A step that the device may not have done yet.

    running  the requests that were part of it, with the slots that they had
    report   what it writes, on its way to the CPU
    """

    running: Sequence[tuple[int, _RunningRequest]]
    report: _Report


class _Report:
    """A tensor on its way from the device, which goes on with the next step meanwhile."""

    def __init__(self, on_device: Tensor) -> None:
        is_cuda = on_device.device.type == "cuda"
        self._copy = torch.empty(on_device.shape, dtype=on_device.dtype, pin_memory=is_cuda)
        self._copy.copy_(on_device, non_blocking=is_cuda)
        self._done = torch.cuda.Event() if is_cuda else None  # type: ignore[no-untyped-call]
        if self._done:
            self._done.record()

    def wait(self) -> Tensor:
        """The tensor on the CPU, once the device has written it."""
        if self._done:
            self._done.synchronize()
        return self._copy


class FixedLoop:
    """Writes answers that stay in their slots; see `decode`."""

    def __init__(
        self,
        loaded: LoadedModel,
        requests: Sequence[Request],
        sampling: SamplingConfig,
        size: int,
        reader: Reader,
        run: HowToRun,
    ) -> None:
        self._loaded, self._requests, self._capture = loaded, requests, run.capture
        self._limit = sampling.max_new_tokens
        self._waiting = Waiting(requests)
        self._engine = Engine(loaded, reader)
        # The first slots are in use, as many as `_size`; the others never are again.
        self._size = min(size, len(requests))
        self._capacity = max(len(request.ids) for request in requests) + self._limit
        self._batch = self._engine.open_fixed(self._size, self._capacity)
        kernels = run.kernels or Kernels.for_device(loaded.device)
        # Slots have room for one token more, see `Engine.open_fixed`.
        self._slots = DeviceSlots(
            loaded, self._engine, self._batch, sampling, kernels, self._capacity + 1
        )
        self._running: dict[int, _RunningRequest] = {}
        # How often a shape was run; what repeats it.
        self._replays: dict[tuple[int, int], Run | None] = {}

    def steps(self, release: Release) -> Iterator[Step]:
        with self._engine.running():
            last: _StartedStep | None = None
            while self._running or self._waiting:
                if count := release(len(self._waiting)):
                    yield Step(released=self._waiting.release(count))
                prompt_scores: list[tuple[int, Floats]] = []
                free = self._size - len(self._running)
                if self._waiting.has_room(free, self._size):
                    prompt_scores = self._start_requests()
                self._close_up()
                started = self._start_step()
                if self._running and not (started or last):
                    # Only a graph that does not repeat the step can do this; it would never end.
                    raise RuntimeError("answers have had all their steps and have not ended")
                if last or prompt_scores:
                    yield self._read_step(last, prompt_scores)
                last = started

    def _start_requests(self) -> list[tuple[int, Floats]]:
        """Read prompts into all free slots; returns (request, scores) of prompts."""
        free = [slot for slot in range(self._size) if slot not in self._running]
        slots = free[: len(self._waiting)]
        chosen, logits, prompt_scores = self._waiting.read_next(self._engine, self._batch, slots)
        requests = [self._requests[index] for index in chosen]
        for slot, index, request in zip(slots, chosen, requests, strict=True):
            self._running[slot] = _RunningRequest(index, slot, len(request.ids))
        self._slots.start(slots, requests, logits)
        return prompt_scores

    def _close_up(self) -> None:
        """Halve the slots once half of them are free for good, so that steps get smaller."""
        half = (self._size + 1) // 2
        if self._waiting or half == self._size or not 0 < len(self._running) <= half:
            return
        free = [slot for slot in range(half) if slot not in self._running]
        far = [request for slot, request in self._running.items() if slot >= half]
        for request, slot in zip(far, free, strict=False):
            source, store = request.slot, self._batch.store
            store.copy_prefix(store, source, range(slot, slot + 1), request.length)
            self._batch.state.move(source, slot)
            self._slots.move(source, slot)
            del self._running[source]
            self._running[slot], request.slot = request, slot
        self._size = half

    def _start_step(self) -> _StartedStep | None:
        """Start the next step of all answers; none if no answer can need one."""
        if all(request.steps == self._limit for request in self._running.values()):
            return None
        for request in self._running.values():
            if request.steps < self._limit:
                request.steps += 1
                request.length += 1
        self._run(max(request.length for request in self._running.values()))
        return _StartedStep(sorted(self._running.items()), _Report(self._slots.report(self._size)))

    def _run(self, span: int) -> None:
        if self._capture is None:
            self._slots.run(self._size, span)
            return
        # One graph for many steps: keys up to the next multiple, under the mask.
        span = min(span + -span % _SPAN_STEP, self._capacity)
        shape = (self._size, span)
        if shape not in self._replays:
            # Libraries allocate memory in the first run, which a graph cannot.
            self._replays[shape] = None
            self._slots.run(*shape)
            return
        replay = self._replays[shape] or self._capture(lambda: self._slots.run(*shape))
        self._replays[shape] = replay
        replay()

    def _read_step(
        self, started: _StartedStep | None, prompt_scores: Sequence[tuple[int, Floats]]
    ) -> Step:
        """What a step has written and which answers it has ended; frees their slots."""
        if started is None:
            return Step(prompt_scores=prompt_scores)
        report = started.report.wait()
        rows = report[:, :2].tolist()
        written: list[tuple[int, int]] = []
        slots: list[int] = []
        ended: list[tuple[_RunningRequest, FinishReason]] = []
        for slot, request in started.running:
            token, status = rows[slot]
            if status == BROKEN:
                raise not_finite(self._loaded, self._loaded.layer_count)
            if token >= 0:
                written.append((request.index, token))
                slots.append(slot)
            is_new = self._running.get(request.slot) is request
            if is_new and status in (STOPPED, FULL):
                ended.append((request, "stop" if status == STOPPED else "length"))

        scores = None
        if written and report.shape[1] > 2:
            found = report[slots, 2:].view(torch.float32)
            now = {slot: request.slot for slot, request in started.running}
            scores = self._batch.state.give_scores([now[slot] for slot in slots], found)
        self._finish([request for request, _ in ended])
        reasons = [(request.index, reason) for request, reason in ended]
        return Step(written, scores, reasons, prompt_scores=prompt_scores)

    def _finish(self, ended: Sequence[_RunningRequest]) -> None:
        if ended:
            slots = [request.slot for request in ended]
            self._batch.state.finish(slots, [request.index for request in ended])
            for slot in slots:
                del self._running[slot]
