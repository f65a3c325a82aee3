"""Measure whether judging during generation costs time: both alone, then both together.

    python -m benchmarks.overlap

The embedded model generates for four traits, and the judge's server is about as slow as the model.
That is the hardest case, because neither can hide behind the other. The times are wall times of
whole commands. The model has one thread, which leaves a core for the judge, as it
would next to a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.unreliable_server import Behavior, UnreliableServer

TRAITS = ("evil", "refusal", "uncertainty", "verbosity")
CONFIG = """
model: {id: embedded, persona_in: user, device: cpu}
extract:
  questions: 2
  evaluation_questions: 2
  batch_size: 10
  sampling: {temperature: 0.7, max_new_tokens: 24}
judge: {backend: openai, openai: {model: m, cache: false, base_url: "URL"}}
"""


def timed(folder: Path, command: str, run: str, *more: str) -> float:
    """Run a traitcli command and return its wall time in seconds."""
    start = time.monotonic()
    subprocess.run(
        [
            sys.executable,
            "-m",
            "traitcli",
            command,
            *TRAITS,
            "-c",
            "bench.yaml",
            "--run",
            run,
            *more,
        ],
        cwd=folder,
        check=True,
        stderr=subprocess.DEVNULL,
        env=os.environ
        | {"OPENAI_API_KEY": "none", "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"},
    )
    return time.monotonic() - start


def main() -> int:
    """Print and store the three times, and the ratio of both together to the longer one alone."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument(
        "--seconds", type=float, default=2.0, help="how long the server takes to reply"
    )
    options.add_argument(
        "--capacity", type=int, default=4, help="how many requests it works on at once"
    )
    options.add_argument("--out", type=Path, default=Path("runs/bench-overlap.json"))
    asked = options.parse_args()

    behavior = Behavior(seconds=asked.seconds, capacity=asked.capacity, refused=0, hanging=0)
    with UnreliableServer(behavior) as server, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "bench.yaml").write_text(CONFIG.replace("URL", server.url))
        timed(folder, "extract", "warm-up", "--until", "rollouts", "--set", "extract.questions=1")
        times = {
            "generating": timed(folder, "extract", "apart", "--until", "rollouts"),
            "judging": timed(folder, "judge", "apart"),
            "both": timed(folder, "extract", "together", "--until", "judgements"),
        }
    ratio = times["both"] / max(times["generating"], times["judging"])
    print("  ".join(f"{stage} {seconds:.1f} s" for stage, seconds in times.items()))
    print(f"both together take {ratio:.2f} × the longer one alone")
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps(times | {"ratio": ratio}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
