"""Measures the memory of extraction without the model, and whether more rollouts need more.

    python -m benchmarks.memory --rollouts 100 [--tokens 64]

Prints the peak in bytes. Each number of rollouts needs its own process: a process keeps its peak.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
from pathlib import Path
from threading import Event, Thread

import psutil

from benchmarks.case import find_prompts, load_embedded
from traitcli.config import SamplingConfig
from traitcli.generation.decode import generate
from traitcli.generation.request import Request
from traitcli.models.batch_size import BatchSize

_BATCH_SIZE = 100


class Peak:
    """The peak memory of this process inside a `with` block, in bytes."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self.bytes = self._process.memory_info().rss
        self._stop = Event()
        self._thread = Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.bytes = max(self.bytes, self._process.memory_info().rss)


def peak_above_model(rollouts: int, tokens: int) -> int:
    """Peak while rollouts are generated, without the memory of the model and one pass of it."""
    loaded = load_embedded()
    prompts = find_prompts(loaded, 100)
    sampling = SamplingConfig(max_new_tokens=tokens)
    one_token = SamplingConfig(max_new_tokens=1)
    list(generate(loaded, [Request(prompts[0], 0)], one_token, BatchSize(1)))
    gc.collect()
    before = psutil.Process().memory_info().rss
    requests = [Request(prompts[seed % len(prompts)], seed) for seed in range(rollouts)]
    with Peak() as peak:
        for _ in generate(loaded, requests, sampling, BatchSize(_BATCH_SIZE)):
            pass
    return peak.bytes - before


def measure_memory(tokens: int, few: int = 100, many: int = 1000) -> tuple[int, int]:
    """Peak bytes without the model, with few rollouts and with many, each in its own process."""

    def measure(rollouts: int) -> int:
        command = [
            sys.executable,
            "-m",
            "benchmarks.memory",
            "--rollouts",
            str(rollouts),
            "--tokens",
            str(tokens),
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
        )
        return int(done.stdout)

    return measure(few), measure(many)


def main() -> int:
    """Measure one number of rollouts."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--rollouts", type=int, required=True)
    options.add_argument("--tokens", type=int, default=64)
    arguments = options.parse_args()
    print(peak_above_model(arguments.rollouts, arguments.tokens))
    return 0


if __name__ == "__main__":
    sys.exit(main())
