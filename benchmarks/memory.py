"""How much memory extraction takes above the model's, and whether that grows with the number of rollouts.

    python -m benchmarks.memory --rollouts 100 [--tokens 64]

Prints the peak in bytes. Each number of rollouts needs a process of its own.
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
from traitcli.generation.batch_size import BatchSize
from traitcli.generation.decode import generate
from traitcli.generation.request import Request

_TOGETHER = 100


class Peak:
    """The most memory that this process held while it was watched, in bytes."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self.most = self._process.memory_info().rss
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
            self.most = max(self.most, self._process.memory_info().rss)


def peak_above_model(rollouts: int, tokens: int) -> int:
    """Peak while so many rollouts are generated and handed over, less what the model and one pass of it take."""
    loaded = load_embedded()
    prompts = find_prompts(loaded, 100)
    sampling = SamplingConfig(max_new_tokens=tokens)
    list(generate(loaded, [Request(prompts[0], 0)], SamplingConfig(max_new_tokens=1), BatchSize(1)))
    gc.collect()
    before = psutil.Process().memory_info().rss
    asked = [Request(prompts[seed % len(prompts)], seed) for seed in range(rollouts)]
    with Peak() as peak:
        for _ in generate(loaded, asked, sampling, BatchSize(_TOGETHER)):
            pass
    return peak.most - before


def measure_memory(tokens: int, few: int = 100, many: int = 1000) -> tuple[int, int]:
    """Peak bytes above the model's with few rollouts and with many, each in a process of its own."""

    def ask(rollouts: int) -> int:
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

    return ask(few), ask(many)


def main() -> int:
    """Measure one number of rollouts."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--rollouts", type=int, required=True)
    options.add_argument("--tokens", type=int, default=64)
    asked = options.parse_args()
    print(peak_above_model(asked.rollouts, asked.tokens))
    return 0


if __name__ == "__main__":
    sys.exit(main())
