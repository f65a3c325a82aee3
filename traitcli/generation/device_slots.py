"""The decode step as the device sees it: nothing in it waits for the host or comes from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from traitcli.config import SamplingConfig
from traitcli.generation.request import Request
from traitcli.generation.sampling import pick, uniforms
from traitcli.models.engine import Engine, SequenceBatch
from traitcli.models.fixed_input import FixedInput, Kernels, StepTensors
from traitcli.models.loaded import LoadedModel
from traitcli.models.reader import PassTokens

if TYPE_CHECKING:
    from torch import Tensor

FREE, GOING, STOPPED, FULL, BROKEN = range(5)
"""What a slot's answer is doing: none there, being written, ended by a stop token or by the limit,
or its logits are not finite."""


class DeviceSlots:
    """The answers of a batch, one in each of S slots, and the step that writes one token of each.

    What is picked, counted and ended is on the device. An answer that has ended is still part of
    each step until the host gives its slot away; what is read there goes to a spare slot.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        engine: Engine,
        batch: SequenceBatch,
        sampling: SamplingConfig,
        kernels: Kernels,
        capacity: int,
    ) -> None:
        self._engine, self._batch, self._sampling = engine, batch, sampling
        self._kernels, self._capacity = kernels, capacity
        self._spare = batch.store.slots
        device, count = loaded.device, batch.store.slots

        def numbers(*shape: int, dtype: torch.dtype = torch.long) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self._slots = torch.arange(count, device=device)
        self._stop_ids = torch.tensor(sorted(loaded.stop_ids), dtype=torch.long, device=device)
        # Of each answer: the token to feed next and its position, tokens fed, what it is doing,
        # and its random numbers.
        self._ids, self._positions, self._written = numbers(count), numbers(count), numbers(count)
        self._status = numbers(count)
        self._draws = numbers(count, sampling.max_new_tokens, 3, dtype=torch.float32)
        # None in it until the first step, which shows whether there are scores.
        self._report = numbers(count, 0, dtype=torch.int32)
        self._inputs: dict[tuple[int, int], FixedInput] = {}

    def start(self, slots: Sequence[int], requests: Sequence[Request], logits: Tensor) -> None:
        """Begin answers whose prompts were just read, and pick the first token of each."""
        limit, device = self._sampling.max_new_tokens, self._slots.device
        lengths = [len(request.ids) for request in requests]
        numbers = torch.tensor([slots, lengths]).to(device)
        draws = uniforms([request.seed for request in requests], limit).to(device)
        chosen, self._positions[numbers[0]] = numbers[0], numbers[1]
        self._draws[chosen] = draws
        self._written[chosen] = 0
        tokens = pick(logits.to(device), draws[:, 0], self._sampling)
        self._ids[chosen] = tokens.clamp(min=0)
        self._status[chosen] = self._status_after(tokens, torch.full_like(tokens, GOING))

    def move(self, source_slot: int, slot: int) -> None:
        """Move an answer to another slot."""
        parts = (self._ids, self._positions, self._written, self._status, self._draws)
        for part in parts:
            part[slot] = part[source_slot]
        self._status[source_slot] = FREE

    def run(self, count: int, span: int) -> None:
        """Feed one token of each answer in the first `count` slots, and pick the next ones.

        Sequences have at most `span` tokens afterwards. What has happened is in `report`.
        """
        key = count, span
        if key not in self._inputs:
            ids, positions = self._ids[:count], self._positions[:count]
            self._inputs[key] = FixedInput(
                self._batch.store,
                StepTensors(ids, positions, self._slots[:count]),
                self._capacity,
                span,
                self._kernels,
            )
        packed = self._inputs[key]
        packed.begin()
        ids, positions, slots = packed.ids, packed.positions, packed.slots
        status, written = self._status[:count], self._written[:count]
        is_going = status == GOING
        wanted = torch.where(is_going, slots, self._spare)
        logits = self._engine.run(
            self._batch, "response", packed, PassTokens(wanted, packed.ends, ())
        )
        fed = torch.where(is_going, ids, -1)
        scores = self._batch.state.take_scores()

        positions += is_going
        written += is_going
        # A full answer has no draw left, and needs none.
        draw = written.clamp(max=self._sampling.max_new_tokens - 1)
        tokens = pick(logits.to(ids.device), self._draws[slots, draw], self._sampling)
        is_full = is_going & (written == self._sampling.max_new_tokens)
        status.copy_(self._status_after(tokens, status).masked_fill(is_full, FULL))
        ids.copy_(tokens.clamp(min=0))
        self._write_report(fed, status, scores)

    def _status_after(self, tokens: Tensor, status: Tensor) -> Tensor:
        """What each answer is doing once these tokens are picked; only what goes on can end."""
        is_going = status == GOING
        stops = (tokens[:, None] == self._stop_ids).any(1)
        after = status.masked_fill(is_going & stops, STOPPED)
        return after.masked_fill(is_going & (tokens < 0), BROKEN)

    def _write_report(self, fed: Tensor, status: Tensor, scores: Tensor | None) -> None:
        # All in one tensor of integers, which the host gets with one copy.
        parts = [fed[:, None].int(), status[:, None].int()]
        if scores is not None:
            parts.append(scores.view(torch.int32))
        report = torch.cat(parts, 1)
        if self._report.shape[1] != report.shape[1]:
            self._report = report.new_zeros(len(self._slots), report.shape[1])
        self._report[: len(report)].copy_(report)

    def report(self, count: int) -> Tensor:
        """int32 [count, 2 + P] of the last step.

        The columns are the token fed (−1: none), what the answer is doing now, and the bits of its
        float32 scores.
        """
        return self._report[:count]
