"""Measures what neutral readings cost, beside the generating and judging of the same rollouts.

    python -m benchmarks.stages [--rounds 3] [--tokens 64] [--trait refusal]

A whole run in this process, on the embedded model with its likelihood judge, with the questions of
the demo. Files are written as in any run. Loading the model does not count.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import torch

from traitcli.config import EMBEDDED, Config
from traitcli.events import STAGES, Event, ModelLoaded, Stage, StageFinished
from traitcli.pipeline.ledgers import RunLedgers
from traitcli.pipeline.trait_pipeline import Job
from traitcli.runs.run import Run, start_run
from traitcli.scheduling import run_jobs
from traitcli.scheduling.placement import Placement
from traitcli.traits.definitions import find_traits, load_trait

MEASURED = STAGES[: STAGES.index("judgements") + 1]


def measure_stages(name: str, tokens: int) -> dict[Stage, float]:
    """Stage -> seconds that a trait takes in it, answers of at most `tokens` tokens."""
    trait = load_trait(find_traits(Path("traits"))[name])
    seconds: dict[Stage, float] = {}
    loading = 0.0

    def note(event: Event) -> None:
        nonlocal loading
        if isinstance(event, ModelLoaded):
            loading += event.seconds
        elif isinstance(event, StageFinished):
            seconds[event.stage] = event.seconds

    with tempfile.TemporaryDirectory() as folder:
        config = Config.model_validate(
            {
                "model": {"id": EMBEDDED, "device": "cpu", "persona_in": "user"},
                "extract": {
                    "questions": 4,
                    "evaluation_questions": 2,
                    "sampling": {"temperature": 0.7, "max_new_tokens": tokens},
                },
                "judge": {"backend": "likelihood"},
                "paths": {"runs": folder},
            }
        )
        run = Run(Path(folder) / "bench")
        start_run(run, config, [trait])
        job = Job(trait, config, RunLedgers(run), MEASURED)
        failures = run_jobs([job], Placement(("cpu",)), note)
    if failures:
        raise RuntimeError(failures[0].problem)
    # The first stage loads the model, which the others then have.
    seconds["rollouts"] -= loading
    return seconds


def measure_readings(name: str, tokens: int, rounds: int) -> tuple[float, float]:
    """Seconds of neutral readings ÷ those of generating and judging, and ÷ generating alone.

    The second is what counts where an endpoint judges. Medians over the rounds.
    """
    torch.set_num_threads(2)
    of_both, of_generating = [], []
    for number in range(1, rounds + 1):
        seconds = measure_stages(name, tokens)
        reading, generating = seconds["readings"], seconds["rollouts"]
        of_both.append(reading / (generating + seconds["judgements"]))
        of_generating.append(reading / generating)
        parts = ", ".join(f"{stage} {seconds[stage]:.1f} s" for stage in MEASURED)
        print(f"round {number}, {name}: {parts}", file=sys.stderr)
    return statistics.median(of_both), statistics.median(of_generating)


def main() -> int:
    """Measure and print."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--tokens", type=int, default=64)
    options.add_argument("--trait", default="refusal")
    arguments = options.parse_args()

    both, alone = measure_readings(arguments.trait, arguments.tokens, arguments.rounds)
    print(f"neutral readings ÷ generating and judging: {both:.2f}, ÷ generating: {alone:.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
