"""What a pretend accelerator was asked to do, each with the line of traitcli that asked for it."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal

import traitcli

Kind = Literal["launch", "upload", "download", "wait"]

PACKAGE = Path(traitcli.__file__).parent
DEVICE_CODE = {Path(__file__), Path(__file__).with_name("sim_device.py")}


@dataclass(frozen=True, slots=True)
class Event:
    """Something that costs time on an accelerator.

    kind  launch: a kernel, a copy between devices included
          upload, download: a copy to the device or from it
          wait: another reason to wait until the device is done
    line  of traitcli, as "generation/decode.py:241"
    code  the innermost code outside torch, if it is not traitcli's own
    """

    kind: Kind
    operator: str
    line: str
    code: str


@dataclass(slots=True)
class Log:
    """What has happened since the last look at it."""

    events: list[Event] = field(default_factory=list)

    def take(self) -> Log:
        """Return the events so far, and forget them."""
        taken, self.events = Log(self.events), []
        return taken

    def count(self, kind: Kind) -> int:
        return sum(event.kind == kind for event in self.events)

    @property
    def waits(self) -> int:
        """How often the host waits until the device is done; each copy back is such a wait."""
        return self.count("download") + self.count("wait")

    def table(self, *kinds: Kind) -> str:
        """Number, kind, operator and line of the events, for the message of a failed test."""
        chosen = Counter(event for event in self.events if event.kind in kinds or not kinds)
        rows = [
            f"{number:5} {event.kind:8} {event.operator:32} {event.line} {event.code}"
            for event, number in chosen.most_common()
        ]
        return "\n" + "\n".join(rows)


def running_line() -> tuple[str, str]:
    """The line of traitcli that runs, and the innermost code outside torch if it is another's."""
    frame, code = sys._getframe(1), ""
    while frame:
        is_ours, name = _owner(frame.f_code.co_filename)
        if is_ours:
            return f"{name}:{frame.f_lineno}", code
        if name and not code:
            code = f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return "", code


@cache
def _owner(file: str) -> tuple[bool, str]:
    """Whether a file is traitcli's, and its name; torch and the pretend device have none."""
    path = Path(file)
    if path.is_relative_to(PACKAGE):
        return True, str(path.relative_to(PACKAGE))
    if "torch" in path.parts or path in DEVICE_CODE:
        return False, ""
    return False, "/".join(path.parts[-3:])
