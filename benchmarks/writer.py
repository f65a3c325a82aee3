"""Measures how fast the rollouts of eight workers get to the disk, through pipes and the scheduler.

    python -m benchmarks.writer [--rate 450]

Eight stand-in workers deliver ready-made states of an 8B model, [33, 4096] at three positions, ten
answers to each prompt. The rate is rollouts a second from the moment at which all workers begin
until the last line is in the ledger. The plain speed of the disk is that of one file of the same
size, written and synced just before. Then the workers deliver at a given rate, in the precision of
a model in half precision, and the times are counted at which one of them had to wait.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.case import built_in_traits
from benchmarks.stand_in import StandIn, run_stand_ins
from traitcli.config import Config
from traitcli.runs.run import Run

WORKERS, SHAPE = 8, (33, 4096)
ROLLOUTS = 2400
"""Eight traits, three questions, five pairs, two sides, ten repeats."""
TARGET = 1000
"""Rollouts a second, on a disk that allows it."""


def make_config(folder: Path) -> Config:
    return Config.model_validate(
        {
            "name": "writer",
            "model": {"id": "stand-in", "device": "cpu"},
            "extract": {"questions": 3, "evaluation_questions": 0, "repeats": 10},
            "judge": {"backend": "fake"},
            "paths": {"runs": folder / "runs", "vectors": folder / "vectors"},
        }
    )


def disk_speed(folder: Path, size: int) -> float:
    """Bytes a second of one file that is written and synced."""
    block, path = os.urandom(2**23), folder / "plain"
    began = time.perf_counter()
    with path.open("wb") as file:
        for _ in range(size // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - began
    path.unlink()
    return size / seconds


def workers_cpu() -> float:
    """CPU seconds of all workers that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(half: bool, rate: float) -> dict[str, Any]:
    """One run; `rate` is what all workers deliver together, 0 as fast as possible."""
    # Here and not in /tmp, which may be in memory.
    Path("runs").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir="runs") as name:
        folder = Path(name).absolute()
        size = ROLLOUTS * SHAPE[0] * SHAPE[1] * (2 if half else 4) * 12 // 10
        plain = disk_speed(folder, size)
        config, traits = make_config(folder), built_in_traits()
        seconds = WORKERS * 16 / rate if rate else 0.0
        own, all_workers = time.process_time(), workers_cpu()
        failures = run_stand_ins(StandIn(SHAPE, half, seconds, WORKERS), config, traits, _ignore)
        own, all_workers = time.process_time() - own, workers_cpu() - all_workers
        assert not failures, failures

        run = Run(config.paths.runs / config.name)
        ledgers = [run.folder / trait.name / "rollouts.jsonl" for trait in traits]
        assert sum(path.read_bytes().count(b"\n") for path in ledgers) == ROLLOUTS
        # Not the end of the run: workers take a moment to end.
        ended = max(path.stat().st_mtime for path in ledgers) - time.time() + time.monotonic()
        notes = [json.loads(path.read_text()) for path in (run.folder / "logs").glob("*.json")]
        spent = ended - min(note["began"] for note in notes if note["began"])
        written = sum(path.stat().st_size for path in run.folder.rglob("*.safetensors"))
        return {
            "precision": "half" if half else "float32",
            "delivered": rate,
            "rollouts_per_second": ROLLOUTS / spent,
            "mb_per_second": written / spent / 1e6,
            "mb_per_rollout": written / ROLLOUTS / 1e6,
            "disk_mb_per_second": plain / 1e6,
            "of_disk": written / spent / plain,
            "command_cpu": own / ROLLOUTS * 1000,
            "workers_cpu": all_workers / ROLLOUTS * 1000,
            "waits": sum(note["waits"] for note in notes),
        }


def _ignore(event: Any) -> None:
    pass


def main() -> int:
    """Print a table and store it as JSON."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rate", type=float, default=450)
    options.add_argument("--out", type=Path, default=Path("runs/bench-writer.json"))
    asked = options.parse_args()

    print(
        f"{'states':>8} {'delivered':>12} {'stored':>13} {'MB each':>8} {'MB/s':>6} {'disk':>6} "
        f"{'of disk':>8} {'CPU':>13} {'waits':>6}"
    )
    rows = []
    for half, rate in ((False, 0.0), (True, 0.0), (True, asked.rate)):
        row = measure(half, rate)
        rows.append(row)
        delivered = f"{rate:.0f}/s" if rate else "unlimited"
        print(
            f"{row['precision']:>8} {delivered:>12} {row['rollouts_per_second']:11.0f}/s "
            f"{row['mb_per_rollout']:8.2f} {row['mb_per_second']:6.0f} "
            f"{row['disk_mb_per_second']:6.0f} {row['of_disk']:8.2f} "
            f"{row['command_cpu']:5.2f} + {row['workers_cpu']:5.2f} {row['waits']:6}",
            flush=True,
        )
    print("CPU: seconds for a thousand rollouts, of the command + of all workers with their start")
    print(f"unlimited: must be ≥ {TARGET}/s on a disk that allows it; waits of the last row: 0")
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
