"""Requests that wait for a slot, and the reading of their prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from traitcli.generation.request import Request
from traitcli.models.engine import Engine, SequenceBatch
from traitcli.models.prefix_tree import find_shared_prefixes

if TYPE_CHECKING:
    from torch import Tensor

    from traitcli.models.reader import Floats


class Waiting:
    """Requests that have not started, in an order in which neighbors share prefixes."""

    def __init__(self, requests: Sequence[Request]) -> None:
        self._requests = requests
        # (request, its shared prefix), the next one last: it is popped from the end.
        self._queue = find_shared_prefixes([request.ids for request in requests])[::-1]

    def __len__(self) -> int:
        return len(self._queue)

    def release(self, count: int) -> list[int]:
        """Drop the requests that would start last.

        Prefixes that were read for them stay in memory until the loop ends.
        """
        released = [index for index, _ in self._queue[:count]]
        del self._queue[:count]
        return released

    def has_room(self, free: int, size: int) -> bool:
        """Whether enough slots are free: few large passes over prompts cost less than many."""
        worth_a_pass = min(max(1, size // 8), len(self._queue))
        return bool(self._queue) and free >= worth_a_pass

    def read_next(
        self, engine: Engine, batch: SequenceBatch, slots: Sequence[int]
    ) -> tuple[list[int], Tensor, list[tuple[int, Floats]]]:
        """Read the prompts of the next requests into free slots, rising, one for each.

        Returns the requests, the logits [R, V] after their prompts, and (request, scores) of
        prompts that the reader scores.
        """
        starting = [self._queue.pop() for _ in slots]
        prompts = [self._requests[index].ids for index, _ in starting]
        prefixes = [prefix for _, prefix in starting]
        logits = engine.read_prompts(batch, slots, prompts, prefixes)

        # Before tokens are picked: an answer that ends with its first one gives up its slot.
        prompt_scores: list[tuple[int, Floats]] = []
        for slot, (index, _) in zip(slots, starting, strict=True):
            scores = batch.state.prompt_scores(slot)
            if scores is not None:
                prompt_scores.append((index, scores))
        return [index for index, _ in starting], logits, prompt_scores
