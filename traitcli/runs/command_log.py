"""Keeps what each command did to a run: what it was asked, with what, how long it took, what failed."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Self

from traitcli.config import Config, flatten
from traitcli.errors import StorageError, TraitError
from traitcli.events import (
    Event,
    ModelLoaded,
    Progressed,
    RunFinished,
    RunStarted,
    StageFinished,
    StageStarted,
    TraitFailed,
    VectorBuilt,
    Warned,
)
from traitcli.files import append_lines, read_lines
from traitcli.runs.run import Run

_PACKAGES = ("traitcli", "torch", "transformers", "numpy", "scikit-learn", "openai", "vllm", "ray")
_NOTED = ModelLoaded | StageStarted | StageFinished | TraitFailed | Warned
_NAMES: dict[type, str] = {
    ModelLoaded: "loaded",
    StageStarted: "began",
    StageFinished: "finished stage",
    TraitFailed: "failed",
    Warned: "warned",
}
_LOGIN = re.compile(r"(?<=://)[^/@\s]+@")
"""What of an endpoint's address may be a secret."""


class CommandLog:
    """Listens to one command, and appends to `commands.jsonl` what a reader of the run will ask.

    Lines are written as things happen: those of a command that was killed end with what it had done. One that
    finds everything done leaves none.
    """

    def __init__(self, run: Run, config: Config, stages: Sequence[str]) -> None:
        self._run = run
        self._pending: list[dict[str, Any]] = []
        self._is_open = False
        self._tokens = 0
        self._found: dict[tuple[str, str], int] = {}
        """(trait, stage) -> how many were done before this command."""
        self._told = {
            "stages": list(stages),
            "settings": _settings(config),
            "versions": versions(),
            **_machine(),
        }

    def listen(self, event: Event) -> None:
        """Note an event, if it is one to note."""
        match event:
            case StageStarted():
                self._found[event.trait, event.stage] = event.done
            case Progressed():
                self._tokens += event.tokens
                self._is_open |= event.tokens > 0 or event.done > self._found.get(
                    (event.trait, event.stage), 0
                )
            case VectorBuilt() | TraitFailed() | ModelLoaded():
                self._is_open = True
        self._note(self._line(event))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Note what has cut the command short, if anything has."""
        if error is not None:
            cut = isinstance(error, KeyboardInterrupt | SystemExit)
            told = error.problem if isinstance(error, TraitError) else str(error)
            problem = "interrupted" if cut else told or type(error).__name__
            with suppress(StorageError):  # it would hide the error
                self._note({"event": "stopped", "problem": problem, "tokens": self._tokens})

    def _line(self, event: Event) -> dict[str, Any] | None:
        if isinstance(event, RunStarted):
            told = {
                "traits": list(event.traits),
                "devices": list(event.devices),
                "todo": event.todo,
            }
            return {"event": "started"} | told | self._told
        if isinstance(event, RunFinished):
            used = asdict(event.used)
            return {
                "event": "finished",
                "seconds": event.seconds,
                "tokens": self._tokens,
                "used": used,
            }
        if isinstance(event, _NOTED):
            return {"event": _NAMES[type(event)]} | asdict(event)
        return None

    def _note(self, line: dict[str, Any] | None) -> None:
        if line:
            self._pending.append(
                line | {"at": datetime.now().astimezone().isoformat(timespec="seconds")}
            )
        if self._is_open and self._pending:
            append_lines(self._run.folder / "commands.jsonl", self._pending)
            self._pending.clear()


def read_commands(run: Run) -> list[dict[str, Any]]:
    """What commands did to a run, oldest first, each a table:

    started, stages, traits, settings, versions, machine, devices; models (name, revision, device, seconds);
    took (trait, stage, seconds, of how many: done before, in all); failures; warnings; tokens written; used; and
    `ending`: finished, stopped (with `problem`), or none where it was killed or is at work.
    """
    found: list[dict[str, Any]] = []
    begun: dict[tuple[str, str], Mapping[str, Any]] = {}
    for line in read_lines(run.folder / "commands.jsonl"):
        kind = line.pop("event", "")
        if kind == "started":
            began: dict[str, Any] = {
                "models": [],
                "took": [],
                "failures": [],
                "warnings": [],
                "ending": None,
            }
            found.append(
                line
                | {"started": line.pop("at"), "seconds": None, "tokens": None, "used": None}
                | began
            )
            begun = {}
            continue
        if not found:
            continue
        last = found[-1]
        match kind:
            case "loaded":
                last["models"].append(line)
            case "began":
                begun[line["trait"], line["stage"]] = line
            case "finished stage":
                start = begun.get((line["trait"], line["stage"]), {})
                last["took"].append(
                    line | {"before": start.get("done"), "total": start.get("total")}
                )
            case "failed":
                last["failures"].append(line)
            case "warned":
                last["warnings"].append(line)
            case "finished" | "stopped":
                last |= line | {"ending": kind}
    return found


def versions() -> dict[str, str]:
    """Python and the packages that figures depend on, as they are installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _machine() -> dict[str, str]:
    return {"machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"}


def _settings(config: Config) -> dict[str, Any]:
    """All settings but where things lie on this disk."""
    told = flatten(config.model_dump(mode="json", exclude={"paths"}))
    return {
        key: _LOGIN.sub("", value) if isinstance(value, str) else value
        for key, value in told.items()
    }
