"""Runs the parts of a benchmark within a time limit, and records what they find."""

from __future__ import annotations

import json
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

Outcome = Literal["done", "wrong", "failed", "not there", "no time"]
Value = float | int | str

FAULTS: tuple[Outcome, ...] = ("wrong", "failed")
"""Outcomes that need a person."""
_MEASURE_WIDTH = 60
_LAST_LINES = 8
"""Lines of a traceback that the file keeps."""


class NotThereError(Exception):
    """A part cannot run on this machine; the message says why."""


class PartResult(NamedTuple):
    """How a part ended; `reason` is empty if it is done."""

    subject: str
    part: str
    outcome: Outcome
    reason: str = ""


class Parts:
    """Prints one table of all parts, and writes the same as JSON lines.

    `deadline` is in seconds after the start: a part that needs longer is left out.
    """

    def __init__(
        self,
        path: Path,
        deadline: float,
        clean_up: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`clean_up` is called after every part, so that a failed one leaves no memory behind."""
        self.deadline = deadline
        self.subject = ""
        self.results: list[PartResult] = []
        self._clean_up = clean_up
        self._clock = clock
        self._start = clock()
        self._part = ""
        self._wrong: list[str] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        path.write_text("", encoding="utf-8")

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._start

    def run(self, part: str, needs: float, measure: Callable[[], None]) -> None:
        """Run one part if the `needs` seconds are left; one that fails does not end the rest."""
        self._begin(part)
        left = self.deadline - self.seconds
        if needs > left:
            self._end("no time", f"it needs about {needs:.0f} s, and {max(left, 0):.0f} s are left")
            return
        try:
            measure()
        except NotThereError as error:
            self._end("not there", str(error))
        except Exception as error:  # noqa: BLE001 - it is recorded, and the other parts still count
            lines = traceback.format_exc().splitlines()[-_LAST_LINES:]
            self._end("failed", f"{type(error).__name__}: {error}", lines)
        else:
            self._end("wrong" if self._wrong else "done", "; ".join(self._wrong))
        finally:
            self._clean_up()

    def leave_out(self, part: str, outcome: Outcome, reason: str) -> None:
        """Record a part that cannot begin."""
        self._begin(part)
        self._end(outcome, reason)

    def found(self, measure: str, value: Value, unit: str = "", verdict: str = "") -> None:
        """Record what a part has measured."""
        text = f"{_format(value)} {unit}".rstrip()
        # Flushed, so that an interrupted benchmark has shown all it knows.
        print(f"  {measure:{_MEASURE_WIDTH}} {text}  {verdict}".rstrip(), flush=True)
        found: dict[str, object] = {"measure": measure, "value": value, "unit": unit}
        self._write(found | ({"verdict": verdict} if verdict else {}))

    def at_most(self, measure: str, value: float, limit: float, unit: str = "") -> None:
        """Record a number that is wrong beyond its limit (or NaN)."""
        self._check(measure, value, unit, value <= limit, f"at most {_format(limit)}")

    def at_least(self, measure: str, value: float, limit: float, unit: str = "") -> None:
        """Record a number that is wrong below its limit (or NaN)."""
        self._check(measure, value, unit, value >= limit, f"at least {_format(limit)}")

    def print_summary(self) -> None:
        """Print how many parts ended how, and each one that is not done."""
        counts = Counter(result.outcome for result in self.results)
        listed = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
        print(f"\n{len(self.results)} parts in {self.seconds:.0f} s: {listed}")
        for result in self.results:
            if result.outcome != "done":
                name = f"{result.subject}: {result.part}"
                print(f"  {result.outcome:10}{name}: {result.reason}")

    def _check(self, measure: str, value: float, unit: str, is_right: bool, limit: str) -> None:
        self.found(measure, value, unit, f"right ({limit})" if is_right else f"WRONG ({limit})")
        if not is_right:
            self._wrong.append(f"{measure}: {_format(value)}, must be {limit}")

    def _begin(self, part: str) -> None:
        self._part, self._wrong = part, []
        print(f"\n{self.subject}: {part}", flush=True)

    def _end(self, outcome: Outcome, reason: str = "", lines: list[str] | None = None) -> None:
        self.results.append(PartResult(self.subject, self._part, outcome, reason))
        if outcome not in ("done", "wrong"):
            print(f"  {outcome}: {reason}", flush=True)
        ended: dict[str, object] = {"outcome": outcome, "reason": reason}
        self._write(ended | ({"traceback": lines} if lines else {}))

    def _write(self, fields: dict[str, object]) -> None:
        head = {"subject": self.subject, "part": self._part, "second": round(self.seconds, 1)}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(head | fields, ensure_ascii=False) + "\n")


def _format(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
