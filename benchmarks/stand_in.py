"""Workers that deliver ready-made rollouts, through the product's own pipes, outbox and scheduler.

No model is loaded and nothing is decoded: what is left is the way of rollouts to the disk.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from traitcli.config import Config
from traitcli.events import Listener, TraitFailed
from traitcli.judging.fake import FakeJudge
from traitcli.pipeline.flush import FinishedRollout, Packer, send_in_batches
from traitcli.pipeline.ledgers import RunLedgers, store_states
from traitcli.pipeline.messages import (
    GenerateTask,
    Message,
    RolloutsReleased,
    TaskStarted,
    WorkerReady,
)
from traitcli.pipeline.trait_pipeline import Job
from traitcli.pipeline.worker_context import Worker
from traitcli.records import POSITIONS, Rollout, RolloutKey, Trait
from traitcli.runs.run import Run, start_run
from traitcli.scheduling.local import LocalPool, PipeInbox, WorkerSpec, deliver
from traitcli.scheduling.outbox import Outbox
from traitcli.scheduling.scheduler import Scheduler
from traitcli.scheduling.worker import WorkerLoop

if TYPE_CHECKING:
    from traitcli.records import Floats


_QUEUE = 8
"""Messages on their way: an eighth of the product's, or a short run could never fill it."""


@dataclass(frozen=True, slots=True)
class StandIn:
    """What each worker delivers.

    shape    of a state, [L+1, H]
    half     whether states are stored in half precision
    seconds  time that it takes for sixteen rollouts; 0 is as fast as possible
    workers  how many workers wait for each other before they begin
    """

    shape: tuple[int, int]
    half: bool
    seconds: float
    workers: int


def value_of(name: str) -> int:
    """The number that all states of a rollout or a prompt have; exact in half precision."""
    return zlib.crc32(name.encode()) % 2048


def run_stand_ins(
    made: StandIn, config: Config, traits: list[Trait], on_event: Listener
) -> list[TraitFailed]:
    """Make the rollouts of some traits that the run lacks, like `extract --until rollouts`."""
    run = Run(config.paths.runs / config.name)
    start_run(run, config, traits)
    ledgers = RunLedgers(run, traits)
    jobs = [Job(trait, config, ledgers, ("rollouts",)) for trait in traits]
    devices = [f"stand-in:{number}" for number in range(made.workers)]
    pool = _StandInPool(config, devices, False, run.folder / "logs", partial(store_states, run))
    pool.made = made
    return Scheduler(jobs, pool, FakeJudge(), on_event, run.folder / "logs").run()


class _StandInPool(LocalPool):
    """The product's pool with another main function."""

    made: StandIn

    def main(self) -> Callable[[WorkerSpec, Any], None]:
        return partial(_run_process, self.made)


def _run_process(made: StandIn, spec: WorkerSpec, pipe: Any) -> None:
    outbox = Outbox(lambda message: deliver(pipe, message), _QUEUE)
    worker = _StandInWorker(spec.config, spec.device, outbox.send)
    loop = _StandInLoop(worker, PipeInbox(pipe), outbox.send)
    loop.made, loop.note = made, spec.log.with_suffix(".json")
    outbox.send(WorkerReady())
    loop.run()
    outbox.close()
    loop.note.write_text(json.dumps({"began": loop.began, "waits": outbox.waits}))


class _StandInWorker(Worker):
    def memory(self) -> int:
        return 0


class _StandInLoop(WorkerLoop):
    """Delivers rollouts where the product generates them."""

    made: StandIn
    note: Path
    began: float | None = None
    sent: dict[str, set[str]]

    def _generate(self, task: GenerateTask) -> None:
        self._send(TaskStarted())
        if self.began is None:
            self.sent = {}
            self._wait_for_others()
            self.began = self._next = time.monotonic()
        packer = Packer(
            task.trait.name, self.made.half, self.sent.setdefault(task.trait.name, set())
        )

        def message(finished: Any) -> Message:
            self._next += self.made.seconds
            time.sleep(max(0.0, self._next - time.monotonic()))
            return packer.rollouts_made(finished)

        send_in_batches(self._finished(list(task.keys)), self._forward, message)

    def _wait_for_others(self) -> None:
        self.note.with_suffix(".ready").touch()
        while len(list(self.note.parent.glob("*.ready"))) < self.made.workers:
            time.sleep(0.01)

    def _finished(self, keys: list[RolloutKey]) -> Iterator[FinishedRollout | RolloutsReleased]:
        while keys:
            released = [keys.pop() for _ in range(self._release(len(keys)))]
            for key in released:
                yield RolloutsReleased((key.id,))
            if keys:
                self._count_tokens(1)
                yield self._make(keys.pop(0))

    def _make(self, key: RolloutKey) -> FinishedRollout:
        index = (key.trait, key.split, key.polarity, key.pair, key.question, key.repeat)
        rollout = Rollout(key.id, *index, 0, "prompt", "answer", 1, 1, "stop")
        prompt = key.id.rpartition("-")[0]
        values = dict.fromkeys(POSITIONS, value_of(prompt)) | {"response_avg": value_of(key.id)}
        states = {position: self._state(value) for position, value in values.items()}
        return FinishedRollout(rollout, states, prompt)

    def _state(self, value: int) -> Floats:
        # A view: filling 1.6 MB for each rollout would take longer than all else.
        return np.broadcast_to(np.float32(value), self.made.shape)
