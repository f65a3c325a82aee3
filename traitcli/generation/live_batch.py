"""Continuous batching: requests join a running batch at any time, and leave it when they end.

    any thread                            the batch's own thread

    submit ──> queue, clients in turn ──> join ──> step ──> step ──> … ──> end
                                            └─ callback of the request ─┘

Memory: there is a fixed number of slots, with room for a fixed number of tokens each. A request
whose prompt and longest answer do not fit in a slot is refused. So a request that has joined never
has to wait or to give way, and memory does not grow with the number of requests. Keys and values
are allocated for what runs, up to all slots at full size. All slots are as long as the longest
answer that runs needs: that is the price of reading them in one operation.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch

from traitcli.errors import BusyError, ModelError, TraitError
from traitcli.generation.batch_size import estimate_size
from traitcli.generation.fair_queue import FairQueue
from traitcli.generation.live_answer import LiveAnswer
from traitcli.generation.live_request import LiveRequest, OnEvent, check_request
from traitcli.generation.live_steps import LiveSteps
from traitcli.models.engine import TOKENS_PER_PASS
from traitcli.models.loaded import LoadedModel

_MOST_SLOTS = 32
"""Slots without a number in the limits; with more, each answer gets its tokens more slowly."""


@dataclass(frozen=True, slots=True)
class LiveLimits:
    """How much a live batch takes.

    slots     requests that run together; none: as many as fit in the free memory, at most 32
    capacity  tokens of a prompt and its answer, at most the model's context
    waiting   requests that wait for a slot, at most
    """

    slots: int | None = None
    capacity: int = 4096
    waiting: int = 256


@dataclass(frozen=True, slots=True)
class LiveCounts:
    """What a live batch is doing.

    slots     in all
    running   slots in use
    waiting   requests that wait for a slot
    steps     passes over tokens of answers so far
    capacity  tokens of a slot, at most
    most      requests that run and wait together, at most
    """

    slots: int
    running: int
    waiting: int
    steps: int
    capacity: int
    most: int


class LiveBatch:
    """Writes the answers to requests side by side, from `with` to its end.

    Each request has its own sampling, steering, probes and stop strings. In float32 its tokens are
    those that it gets alone, and its scores differ by rounding; while it is alone, they are the
    same bit by bit.

    The model belongs to the batch: nothing else may use it inside `with`.

    Args:
        loaded: A model that reads packed tokens.
        limits: Slots, their capacity, and the length of the queue.

    Raises:
        ModelError: The model does not read packed tokens.

    Example:
        events = queue.SimpleQueue()
        with LiveBatch(loaded) as batch:
            answer = batch.submit(LiveRequest(ids, seed=0), events.put)
            while not isinstance(event := events.get(), LiveEnd):
                print(event.text)
    """

    def __init__(self, loaded: LoadedModel, limits: LiveLimits | None = None) -> None:
        if not loaded.packs:
            reason = loaded.self_test.slow_reason if loaded.self_test else ""
            raise ModelError(
                f"{loaded.name} cannot write answers side by side",
                cause=f"it does not read packed tokens: {reason or 'it was not tested'}",
                fix="use another model, or answer one prompt at a time with monitor",
            )
        limits = limits or LiveLimits()
        self._loaded = loaded
        self._capacity = min(limits.capacity, loaded.context)
        slots = limits.slots or min(_MOST_SLOTS, estimate_size(loaded, self._capacity))
        self._steps = LiveSteps(loaded, slots, self._capacity)
        # All that follows is changed only with this lock; waiting threads are woken by its changes.
        self._changed = threading.Condition()
        self._queue: FairQueue[LiveAnswer] = FairQueue(limits.waiting)
        self._is_accepting = False
        self._is_cancelling = False
        self._is_idle = True
        # A daemon: a kernel that hangs must not keep the whole process alive.
        self._thread = threading.Thread(target=self._run, name="live-batch", daemon=True)

    def __enter__(self) -> Self:
        self._is_accepting = True
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def submit(self, request: LiveRequest, on_event: OnEvent) -> LiveAnswer:
        """Let a request wait for a slot; may be called from any thread.

        Args:
            request: The request.
            on_event: Gets a `LiveToken` for each token and one `LiveEnd` at last, from the batch's
                own thread. It must not wait: all requests would. If it raises, the request ends
                without another event.

        Returns:
            The answer, of which only `cancel` is meant for others.

        Raises:
            UserError: The request does not fit in a slot, or not the model.
            BusyError: The queue is full, or the batch takes no more requests.
        """
        check_request(request, self._loaded, self._capacity)
        answer = LiveAnswer(self._loaded, request, on_event)
        with self._changed:
            self.check_room()
            self._queue.put(request.client, answer, self._free)
            self._is_idle = False
            self._changed.notify_all()
        return answer

    def check_room(self) -> None:
        """Raise the BusyError of `submit`, before anyone spends time on a request."""
        with self._changed:
            if not self._is_accepting:
                raise BusyError(
                    f"{self._loaded.name} takes no more requests",
                    cause="its batch is closed, or about to close",
                    fix="send the request to another process, or again later",
                )
            self._queue.check_room(self._free)

    @property
    def _free(self) -> int:
        """Slots that the next step fills from the queue, however many requests come at once."""
        return self._steps.slots - len(self._steps.answers)

    @property
    def counts(self) -> LiveCounts:
        """What it is doing now."""
        with self._changed:
            steps = self._steps
            waiting = len(self._queue)
            return LiveCounts(
                slots=steps.slots,
                running=len(steps.answers),
                waiting=waiting,
                steps=steps.count,
                capacity=self._capacity,
                most=steps.slots + self._queue.bound,
            )

    def drain(self, timeout: float | None = None) -> bool:
        """Take no more requests, and wait until those that it has have ended.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether all have ended.
        """
        with self._changed:
            self._is_accepting = False
            return self._changed.wait_for(lambda: self._is_idle, timeout)

    def close(self) -> None:
        """Cancel all requests and end the thread; not to be called by an `on_event`."""
        with self._changed:
            self._is_accepting = False
            self._is_cancelling = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        problem: BaseException | None = None
        try:
            # The mode belongs to the thread.
            with torch.inference_mode(), self._steps.running():
                while self._wait_for_work():
                    self._cancel()
                    self._steps.join(self._next_answers())
                    self._steps.step()
        except BaseException as error:  # noqa: BLE001 - every request gets it
            problem = error
        self._end_all(problem)

    def _wait_for_work(self) -> bool:
        """Wait until an answer waits or runs; false at the end of the batch."""
        with self._changed:
            while not (self._queue or self._steps.answers):
                self._is_idle = True
                self._changed.notify_all()
                if self._is_cancelling:
                    return False
                self._changed.wait()
            return True

    def _cancel(self) -> None:
        """End answers that are cancelled or over, those that wait too."""

        def is_cancelled(answer: LiveAnswer) -> bool:
            return answer.is_cancelled or self._is_cancelling or answer.request.is_over()

        with self._changed:
            cancelled = self._queue.remove(is_cancelled)
        cancelled += filter(is_cancelled, self._steps.answers)
        for answer in cancelled:
            answer.end("cancelled")
        self._steps.leave()

    def _next_answers(self) -> Sequence[LiveAnswer]:
        """Take the answers out of the queue that join now.

        Their prompts fit in one pass, or it is a single longer one: others wait for it meanwhile.
        """
        chosen: list[LiveAnswer] = []
        tokens = 0
        with self._changed:
            while self._queue and len(chosen) < self._steps.free:
                tokens += len(self._queue.first().request.ids)
                if chosen and tokens > TOKENS_PER_PASS:
                    break
                chosen.append(self._queue.take())
        return chosen

    def _end_all(self, problem: BaseException | None) -> None:
        """End what is left if the thread fails, and let nobody wait for it."""
        with self._changed:
            self._is_accepting = False
            left = self._queue.remove(lambda answer: True)
        error = TraitError(
            f"the batch of {self._loaded.name} has failed",
            cause=f"{type(problem).__name__}: {problem}",
            fix="start it again; if it fails again, open an issue",
        )
        for answer in [*self._steps.answers, *left]:
            answer.end("error", error)
        self._steps.leave()
        with self._changed:
            self._is_idle = True
            self._changed.notify_all()
