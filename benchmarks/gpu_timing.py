"""Times work on a device, which may go on after a call has returned."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def wait(device: torch.device) -> None:
    """Wait until all work that a GPU was given is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(device: torch.device, run: Callable[[], object]) -> float:
    """Seconds of one call, all its work included."""
    wait(device)
    start = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - start


def milliseconds(
    device: torch.device, run: Callable[[], object], rounds: int = 20, warmups: int = 3
) -> float:
    """Mean milliseconds of one of many calls in a row; the device is waited for once."""
    for _ in range(warmups):
        run()

    def run_all() -> None:
        for _ in range(rounds):
            run()

    return 1000 * seconds_of(device, run_all) / rounds
