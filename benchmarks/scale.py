"""Measures whether two workers are twice as fast as one, and simulates 8, 64 and 512 devices.

    python -m benchmarks.scale [--rounds 2]

Measured: the embedded model answers for eight traits, with one worker of one thread and with two of
one thread each. The rate is rollouts a second from the first token to the last, without loading.

Simulated: the product's own scheduler assigns eight traits with ten repeats to devices that decode
one token of each of 64 slots in a step, after they have loaded the model. Answers have the measured
lengths. Only devices and time are simulated. A device is idle if it has nothing to generate between
its first rollout and the end of the run; full is the fraction of slots in use meanwhile.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.case import built_in_traits
from traitcli.config import EMBEDDED, Config
from traitcli.events import Event, Progressed
from traitcli.judging.fake import FakeJudge
from traitcli.pipeline.ledgers import RunLedgers
from traitcli.pipeline.messages import (
    GenerateTask,
    Heartbeat,
    Message,
    ReleaseRequest,
    RolloutsMade,
    RolloutsReleased,
    TaskEnded,
    TaskStarted,
    WorkerInput,
    WorkerReady,
)
from traitcli.pipeline.trait_pipeline import Job
from traitcli.records import Rollout, RolloutKey
from traitcli.runs.run import Run, start_run
from traitcli.scheduling import run_jobs
from traitcli.scheduling.placement import Placement
from traitcli.scheduling.pool import Receive
from traitcli.scheduling.scheduler import Scheduler

SLOTS = 64
"""Sequences that a simulated device decodes together."""
LOADING = 400
"""Steps that loading the model takes: ten seconds, at 25 ms a step."""
BATCH = 16
"""Rollouts that are sent together, as the product does."""
DEVICES = (1, 8, 64, 512)


def make_jobs(folder: Path, **extract: Any) -> list[Job]:
    """Eight traits, rollouts only, in a run of their own."""
    config = Config.model_validate(
        {
            "name": "scale",
            "model": {"id": EMBEDDED, "device": "cpu", "persona_in": "user"},
            "extract": extract,
            "judge": {"backend": "fake"},
            "paths": {"runs": folder / "runs", "vectors": folder / "vectors"},
        }
    )
    traits, run = built_in_traits(), Run(folder / "runs" / "scale")
    start_run(run, config, traits)
    ledgers = RunLedgers(run)
    return [Job(trait, config, ledgers, ("rollouts",)) for trait in traits]


def rate(devices: Sequence[str]) -> tuple[float, dict[str, list[int]]]:
    """Rollouts a second once tokens are written, and the length of each answer by trait."""
    times: list[float] = []

    def listen(event: Event) -> None:
        if isinstance(event, Progressed) and (event.tokens or event.done):
            times.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as name:
        sampling = {"temperature": 0.7, "max_new_tokens": 64}
        jobs = make_jobs(
            Path(name), questions=1, evaluation_questions=0, batch_size=10, sampling=sampling
        )
        failures = run_jobs(jobs, Placement(tuple(devices)), listen)
        assert not failures, failures
        lengths: dict[str, list[int]] = {}
        for job in jobs:
            rollouts = job.ledgers.trait(job.trait.name).rollouts
            lengths[job.trait.name] = [rollout.response_tokens for rollout in rollouts]
    return sum(map(len, lengths.values())) / (times[-1] - times[0]), lengths


@dataclass
class Device:
    """A simulated device: rollouts are pending, then active with a number of tokens left."""

    loading: int = LOADING
    messages: deque[WorkerInput] = field(default_factory=deque)
    working: bool = False
    pending: deque[RolloutKey] = field(default_factory=deque)
    active: dict[RolloutKey, int] = field(default_factory=dict)
    finished: list[RolloutKey] = field(default_factory=list)
    began: int | None = None
    busy: int = 0
    used: int = 0


class SimulatedPool:
    """Devices that take one step a poll."""

    def __init__(self, count: int, lengths: dict[str, list[int]]) -> None:
        self.devices = [f"gpu:{index}" for index in range(count)]
        self.running: dict[int, Device] = {}
        self.step = 0
        self._lengths = lengths
        self._draw = random.Random(0)

    def start(self, worker: int) -> None:
        self.running[worker] = Device()

    def send(self, worker: int, message: WorkerInput) -> None:
        self.running[worker].messages.append(message)

    def end(self, worker: int) -> None:
        pass

    def close(self) -> None:
        pass

    def poll(self, receive: Receive, timeout: float) -> None:
        self.step += 1
        for worker, device in self.running.items():
            for message in self._step(device):
                receive(worker, message)

    def _step(self, device: Device) -> list[Message]:
        if device.loading:
            device.loading -= 1
            return [] if device.loading else [WorkerReady()]
        sent: list[Message] = []
        while device.messages:
            match device.messages.popleft():
                case GenerateTask(_, keys):
                    device.pending.extend(keys)
                    device.working = True
                    sent.append(TaskStarted())
                case ReleaseRequest(fraction) if device.working:
                    count = round(fraction * len(device.pending))
                    released = [device.pending.pop().id for _ in range(count)]
                    sent.append(RolloutsReleased(tuple(released)))
        return [*sent, *self._decode(device)] if device.working else sent

    def _decode(self, device: Device) -> list[Message]:
        while device.pending and len(device.active) < SLOTS:
            key = device.pending.popleft()
            device.active[key] = max(1, self._draw.choice(self._lengths[key.trait]))
        device.began = self.step if device.began is None else device.began
        device.busy += bool(device.active)
        device.used += len(device.active)
        for key in list(device.active):
            device.active[key] -= 1
            if not device.active[key]:
                del device.active[key]
                device.finished.append(key)
        over = not device.active and not device.pending
        sent: list[Message] = [Heartbeat(0, len(device.pending), 0)] if self.step % 8 == 0 else []
        if len(device.finished) >= BATCH or (over and device.finished):
            sent.append(RolloutsMade(tuple(map(as_rollout, device.finished))))
            device.finished = []
        if over:
            device.working = False
            sent.append(TaskEnded())
        return sent


def as_rollout(key: RolloutKey) -> Rollout:
    index = (key.trait, key.split, key.polarity, key.pair, key.question, key.repeat)
    return Rollout(key.id, *index, 0, "", "", 1, 1, "stop")


def simulate(count: int, lengths: dict[str, list[int]]) -> dict[str, float]:
    """Steps until the end, and how idle and how full the devices were."""
    pool = SimulatedPool(count, lengths)
    with tempfile.TemporaryDirectory() as name:
        jobs = make_jobs(Path(name), repeats=10)
        scheduler = Scheduler(
            jobs, pool, FakeJudge(), lambda event: None, clock=lambda: pool.step * 0.025
        )
        failures = scheduler.run()
        assert not failures, failures
        assert all(len(job.ledgers.trait(job.trait.name).rollouts) == 2200 for job in jobs)
    ran = [device for device in pool.running.values() if device.began is not None]
    spans = [pool.step - device.began + 1 for device in ran]
    busy = [device.busy / span for device, span in zip(ran, spans, strict=True)]
    full = [device.used / (SLOTS * max(device.busy, 1)) for device in ran]
    return {
        "devices": count,
        "steps": pool.step,
        "idle": 1 - statistics.mean(busy),
        "most_idle": 1 - min(busy),
        "full": statistics.mean(full),
    }


def median_rates(rounds: int) -> tuple[list[dict[str, float]], dict[str, list[int]]]:
    """The rates of each round with one worker and with two, and the lengths of answers."""
    found, lengths = [], {}
    for turn in range(rounds):
        one, lengths = rate(["cpu"])
        two, _ = rate(["cpu", "cpu"])
        found.append({"one": one, "two": two, "ratio": two / one})
        print(
            f"round {turn + 1}: {one:.2f} and {two:.2f} rollouts/s, {two / one:.2f} ×",
            file=sys.stderr,
            flush=True,
        )
    return found, lengths


def main() -> int:
    """Print both parts and store them as JSON."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--out", type=Path, default=Path("runs/bench-scale.json"))
    asked = options.parse_args()
    torch.set_num_threads(1)

    rates, lengths = median_rates(asked.rounds)
    ratio = statistics.median(each["ratio"] for each in rates)
    print(f"two workers with a thread each ÷ one: {ratio:.2f}  (must be ≥ 1.8)")
    means = [f"{trait} {statistics.mean(lengths[trait]):.0f}" for trait in lengths]
    print("tokens an answer: " + ", ".join(means))
    rows = [simulate(count, lengths) for count in DEVICES]
    names = f"{'devices':>8} {'steps':>7} {'speed-up':>9} {'idle':>7} {'most idle':>10}"
    print(f"{names} {'slots full':>12}")
    for row in rows:
        speed = rows[0]["steps"] / row["steps"]
        print(
            f"{row['devices']:8.0f} {row['steps']:7.0f} {speed:8.1f}× {row['idle']:7.1%} "
            f"{row['most_idle']:10.1%} {row['full']:12.1%}"
        )
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps({"rates": rates, "ratio": ratio, "simulated": rows}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
