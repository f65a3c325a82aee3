"""Measures the share of the decoding time that the live view takes.

    python -m benchmarks.view [--rounds 7] [--tokens 128]

The embedded model answers with all eight shipped vectors monitored: once without a view, and once
with the live view on a pseudo-terminal (true color, 120 × 40) that another process reads. The two
alternate. The overhead of a round is the difference in time, and the median is printed. The time
spent inside the view is printed too, because a noisy machine affects it less.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import pty
import statistics
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console

from benchmarks.case import load_embedded
from traitcli.config import EMBEDDED, Config, ModelConfig, MonitorConfig
from traitcli.events import Event
from traitcli.generation.projections import make_probes
from traitcli.monitoring.monitor import monitor
from traitcli.monitoring.watch import Watch
from traitcli.vectors.files import load_vectors
from traitcli.views.monitor.view import MonitorView

ASKED = "Can you explain how a pin tumbler lock is picked?"
COLUMNS, LINES = 120, 40


@contextmanager
def terminal() -> Iterator[TextIO]:
    """A pseudo-terminal that another process reads as fast as it can."""
    controller, screen = pty.openpty()
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    with subprocess.Popen(
        ["cat"], stdin=controller, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as reader:
        os.close(controller)
        with os.fdopen(screen, "w", encoding="utf-8") as stream:
            yield stream
        reader.terminate()


class Timed:
    """A view that counts the seconds spent in it."""

    def __init__(self, view: MonitorView) -> None:
        self._view = view
        self.seconds = 0.0

    def show(self, event: Event) -> None:
        start = time.perf_counter()
        self._view.show(event)
        self.seconds += time.perf_counter() - start


def main() -> int:
    """Measure and print."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--rounds", type=int, default=7)
    options.add_argument("--tokens", type=int, default=128)
    asked = options.parse_args()

    loaded = load_embedded()
    vectors = load_vectors(Config(model=ModelConfig(id=EMBEDDED)))
    config = MonitorConfig.model_validate(
        {"sampling": {"temperature": 0, "max_new_tokens": asked.tokens}}
    )
    watching = Watch(make_probes(vectors.values(), loaded, "response_avg"), config)
    overheads, shares = [], []

    # The first answer warms the caches up and is not measured.
    monitor(loaded, watching, ASKED)
    for round_ in range(asked.rounds):
        taken = {}
        # The order alternates, so that a machine that slows down does not favor either.
        for shown in (False, True) if round_ % 2 else (True, False):
            with terminal() as stream:
                console = Console(
                    file=stream,
                    force_terminal=True,
                    color_system="truecolor",
                    width=COLUMNS,
                    height=LINES,
                )
                view = Timed(MonitorView(console))
                start = time.perf_counter()
                monitor(loaded, watching, ASKED, None, view.show if shown else lambda event: None)
                taken[shown] = time.perf_counter() - start
            if shown:
                shares.append(view.seconds / taken[shown])
        overheads.append(taken[True] / taken[False] - 1)
        print(
            f"round {round_ + 1}: {taken[False]:.2f} s silent, {taken[True]:.2f} s shown",
            file=sys.stderr,
        )
    each = ", ".join(f"{overhead:+.1%}" for overhead in overheads)
    print(f"view beyond silent: {statistics.median(overheads):+.1%} ({each})")
    print(f"time inside the view: {statistics.median(shares):.1%} of the whole (must be ≤ 3 %)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
