"""Checks and measures the engine on a GPU, on random models of real shape, without network.

    python -m benchmarks.gpu [--out DIR] [--minutes 9] [--model llama|gemma2|both]
    python -m benchmarks.gpu --tiny --device cpu

It needs no more than the engine: torch, transformers, accelerate, numpy, pydantic, PyYAML. Two
models share the minutes. Each of its parts stands alone: one that fails says why, one without time
is left out, and the rest goes on. It prints a table, writes the same to DIR/gpu.jsonl, and exits
with 1 if a part is wrong or has failed.

first the machine, then for each model:
checks      4 of its blocks in float32 and bfloat16, next to transformers on the same device:
            states, mean activations, tokens; answers at several batch sizes, and repeated
steps       the decode loop at several batch sizes, next to its matrix products alone and the
            reading of its keys and values; replayed as a CUDA graph; where it waits; its kernels
whole tasks a run with refills, transformers' own loops, existing texts, a monitored answer
memory      estimated and real; whether a run goes on when it runs out
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.gpu_checks import check_batches, check_means, check_self_test, check_states
from benchmarks.gpu_graph import (
    check_loops,
    measure_fixed,
    measure_graph,
    measure_kernels,
    measure_whole,
)
from benchmarks.gpu_machine import measure_machine, show_versions
from benchmarks.gpu_memory import measure_memory, run_out_of_memory
from benchmarks.gpu_models import FAMILIES, FULL, TINY, Family, Sizes, make_model
from benchmarks.gpu_parts import FAULTS, Outcome, Parts
from benchmarks.gpu_runs import (
    measure_generate,
    measure_generate_batch,
    measure_monitor,
    measure_reading,
    measure_run,
)
from benchmarks.gpu_steps import count_synchronisations, measure_step, profile_step
from traitcli.models.devices import pick_device
from traitcli.models.loaded import LoadedModel

_CHECK_SPREAD = 0.05
"""Weights this large make some tokens clearly likelier, so that rounding seldom turns a choice."""
_SHORT, _LONG = 128, 2000
"""Answers whose memory is measured; of the long ones, fewer fit than the most that are useful."""


class Part(NamedTuple):
    """One part that measures a model; `needs` is about how many seconds it takes."""

    name: str
    needs: float
    measure: Callable[[LoadedModel, Sizes, Parts], None]


def list_checks(dtype: torch.dtype) -> list[Part]:
    """The parts that compare with transformers."""
    checks = [
        Part("self-test", 10, check_self_test),
        Part("states of all tokens", 15, check_states),
        Part("mean activations and greedy tokens", 20, check_means),
        Part("batch sizes", 20, check_batches),
    ]
    # In half precision, two ways to compute the same may choose different tokens.
    if dtype == torch.float32:
        checks.append(Part("fixed slots and graphs", 10, check_loops))
    return checks


def list_measurements(sizes: Sizes) -> list[Part]:
    """The parts that measure the whole model, the most important ones first."""
    steps = [
        Part(f"step at batch {batch}", 15, partial(measure_step, batch=batch))
        for batch in sizes.batches
    ]
    fixed = [
        Part(f"fixed slots at batch {batch}", 8, partial(measure_fixed, batch=batch))
        for batch in sizes.batches
    ]
    graphs = [
        Part(f"CUDA graph at batch {batch}", 12, partial(measure_graph, batch=batch))
        for batch in sizes.batches
    ]
    generates = [
        Part(f"generate at batch {batch}", 10, partial(measure_generate, batch=batch))
        for batch in sizes.generate
    ]
    return [
        *steps,
        Part("synchronisations", 5, count_synchronisations),
        Part("profile of a step", 10, profile_step),
        *graphs,
        Part("attention kernels", 15, partial(measure_kernels, batch=sizes.profiled)),
        Part("run with refills", 40, measure_run),
        Part("existing texts", 15, measure_reading),
        Part("monitor", 10, measure_monitor),
        Part("run and monitor with the fastest loop", 45, measure_whole),
        *fixed,
        *generates,
        Part("memory of short answers", 15, partial(measure_memory, tokens=_SHORT)),
        Part("memory of long answers", 15, partial(measure_memory, tokens=_LONG)),
        Part("lack of memory", 20, run_out_of_memory),
        # Last, because it runs in a thread of its own, and a failure may leave memory behind.
        Part("generate_batch", 30, measure_generate_batch),
    ]


class Benchmark:
    """All parts of a benchmark on one device."""

    def __init__(self, device: torch.device, parts: Parts, *, tiny: bool) -> None:
        self._device = device
        self._parts = parts
        self._tiny = tiny
        self._sizes = TINY if tiny else FULL

    def measure_machine(self) -> None:
        """The parts that need no model."""
        self._parts.subject = "machine"
        self._run("versions", 0, partial(show_versions, self._device, self._parts))
        self._run("basic operations", 5, partial(measure_machine, self._device, self._parts))

    def measure_family(self, family: Family) -> None:
        """All parts of a model: its checks, then its measurements."""
        for dtype in (torch.float32, torch.bfloat16):
            self._parts.subject = f"{family.name}, {_name(dtype)}"
            make = partial(
                self._make, family, dtype, self._sizes.check_layers, spread=_CHECK_SPREAD
            )
            self._run_with_model(make, 10, list_checks(dtype))

        dtype = torch.bfloat16 if self._device.type == "cuda" else torch.float32
        self._parts.subject = f"{family.name}, whole"
        self._run_with_model(partial(self._make, family, dtype), 30, list_measurements(self._sizes))

    def _make(
        self, family: Family, dtype: torch.dtype, layers: int | None = None, spread: float = 0.02
    ) -> LoadedModel:
        return make_model(
            family, self._device, dtype, tiny=self._tiny, layers=layers, spread=spread
        )

    def _run_with_model(
        self, make: Callable[[], LoadedModel], needs: float, measured: Sequence[Part]
    ) -> None:
        models: list[LoadedModel] = []
        self._run("making the model", needs, lambda: models.append(make()))
        had_time = self._parts.results[-1].outcome != "no time"
        for part in measured:
            if models:
                measure = partial(part.measure, models[0], self._sizes, self._parts)
                self._run(part.name, part.needs, measure)
                # It refers to the model, which must be freed before the next one is made.
                del measure
            else:
                outcome: Outcome = "not there" if had_time else "no time"
                self._parts.leave_out(part.name, outcome, "there is no model")
        models.clear()
        free_memory()

    def _run(self, name: str, needs: float, measure: Callable[[], None]) -> None:
        self._parts.run(name, 0 if self._tiny else needs, measure)


def choose_device(name: str) -> torch.device:
    """The device to measure, ready for it."""
    device = torch.device(pick_device(name))
    if device.type == "cpu":
        # Tiny models gain nothing from more.
        torch.set_num_threads(1)
    if device.type == "cuda":
        # With its number, which limits of memory want; graphs are made on the current device.
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)
    return device


def free_memory() -> None:
    """Give memory back that a part no longer uses."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure all parts, print them and store them as JSON lines."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--out", type=Path, default=Path("runs/gpu"))
    options.add_argument("--minutes", type=float, default=9)
    options.add_argument("--model", choices=[*FAMILIES, "both"], default="both")
    options.add_argument("--device", default="cuda")
    options.add_argument("--tiny", action="store_true", help="tiny models, to try the benchmark")
    asked = options.parse_args(arguments)

    device = choose_device(asked.device)
    families = list(FAMILIES.values()) if asked.model == "both" else [FAMILIES[asked.model]]
    parts = Parts(asked.out / "gpu.jsonl", 60 * asked.minutes, free_memory)
    benchmark = Benchmark(device, parts, tiny=asked.tiny)
    benchmark.measure_machine()
    for number, family in enumerate(families, start=1):
        # Otherwise the first model might leave no time to the second.
        parts.deadline = 60 * asked.minutes * number / len(families)
        benchmark.measure_family(family)
    parts.print_summary()
    return int(any(result.outcome in FAULTS for result in parts.results))


if __name__ == "__main__":
    sys.exit(main())
