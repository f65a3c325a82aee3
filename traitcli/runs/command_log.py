"""Logs what each command did to a run: settings, machine, durations, failures."""

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
_LOGGED = ModelLoaded | StageStarted | StageFinished | TraitFailed | Warned
# Stored names: they stay when a class is renamed.
_NAMES: dict[type, str] = {
    ModelLoaded: "loaded",
    StageStarted: "began",
    StageFinished: "finished stage",
    TraitFailed: "failed",
    Warned: "warned",
}
_LOGIN = re.compile(r"(?<=://)[^/@\s]+@")
"""The part of an endpoint's address that may be secret."""


class CommandLog:
    """Listens to the events of one command, and appends to `commands.jsonl` what a report shows.

    Lines are written as things happen, so a killed command leaves what it had done. A command that
    finds everything done leaves no line.
    """

    def __init__(self, run: Run, config: Config, stages: Sequence[str]) -> None:
        self._run = run
        self._pending: list[dict[str, Any]] = []
        self._has_effect = False
        self._tokens = 0
        self._done_before: dict[tuple[str, str], int] = {}
        """(trait, stage) -> items that were done before this command."""
        self._command = {
            "stages": list(stages),
            "settings": _settings(config),
            "versions": versions(),
            **_machine(),
        }

    def listen(self, event: Event) -> None:
        """Log an event, if it is of interest."""
        match event:
            case StageStarted():
                self._done_before[event.trait, event.stage] = event.done
            case Progressed():
                self._tokens += event.tokens
                # Items of earlier commands are no effect: a rerun of a finished one writes no line.
                before = self._done_before.get((event.trait, event.stage), 0)
                self._has_effect |= event.tokens > 0 or event.done > before
            case VectorBuilt() | TraitFailed() | ModelLoaded():
                self._has_effect = True
        self._write(self._line(event))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Log what ended the command early, if anything did."""
        if error is None:
            return
        problem = error.problem if isinstance(error, TraitError) else str(error)
        if isinstance(error, KeyboardInterrupt | SystemExit):
            problem = "interrupted"
        line = {"event": "stopped", "problem": problem or type(error).__name__}
        with suppress(StorageError):  # the error itself matters more
            self._write({**line, "tokens": self._tokens})

    def _line(self, event: Event) -> dict[str, Any] | None:
        if isinstance(event, RunStarted):
            traits, devices = list(event.traits), list(event.devices)
            todo = event.todo.get("rollouts", 0)
            started = {"traits": traits, "devices": devices, "todo": todo}
            return {"event": "started", **started, **self._command}
        if isinstance(event, RunFinished):
            used = asdict(event.used)
            finished = {"seconds": event.seconds, "tokens": self._tokens, "used": used}
            return {"event": "finished", **finished}
        if isinstance(event, _LOGGED):
            return {"event": _NAMES[type(event)], **asdict(event)}
        return None

    def _write(self, line: dict[str, Any] | None) -> None:
        # Lines wait until the command has an effect: a rerun of a finished one changes no file.
        if line:
            now = datetime.now().astimezone().isoformat(timespec="seconds")
            self._pending.append({**line, "at": now})
        if self._has_effect and self._pending:
            append_lines(self._run.folder / "commands.jsonl", self._pending)
            self._pending.clear()


def read_commands(run: Run) -> list[dict[str, Any]]:
    """What commands did to a run, oldest first, each as one table.

    Keys: started, stages, traits, settings, versions, machine, devices; models (name, revision,
    device, seconds); took (trait, stage, seconds, and how many of the total were done before);
    failures; warnings; tokens generated; used; and ending, which is "finished", "stopped" (with
    `problem`), or None if the command was killed or still works.
    """
    commands: list[dict[str, Any]] = []
    stage_starts: dict[tuple[str, str], Mapping[str, Any]] = {}
    for line in read_lines(run.folder / "commands.jsonl"):
        event = line.pop("event", "")
        if event == "started":
            commands.append(_new_command(line))
            # A killed command has stages without an end, which are not those of this one.
            stage_starts = {}
            continue
        if not commands:
            continue  # the first lines are gone, so nothing says which command this was

        last = commands[-1]
        match event:
            case "loaded":
                last["models"].append(line)
            case "began":
                stage_starts[line["trait"], line["stage"]] = line
            case "finished stage":
                start = stage_starts.get((line["trait"], line["stage"]), {})
                counts = {"before": start.get("done"), "total": start.get("total")}
                last["took"].append({**line, **counts})
            case "failed":
                last["failures"].append(line)
            case "warned":
                last["warnings"].append(line)
            case "finished" | "stopped":
                last.update(line, ending=event)
    return commands


def find_model(run: Run, name: str) -> dict[str, Any]:
    """The model of a run as it was last loaded: `id`, `revision`, `fingerprint`; empty if unknown.

    `name` is the folder name of its vectors.
    """
    found: dict[str, Any] = {}
    for command in read_commands(run):
        for line in command["models"]:
            if line.get("model") == name and line.get("fingerprint"):
                found = {key: line.get(key, "") for key in ("id", "revision", "fingerprint")}
    return found


def _new_command(line: dict[str, Any]) -> dict[str, Any]:
    """A command of which only the start is known yet."""
    lists: dict[str, Any] = {"models": [], "took": [], "failures": [], "warnings": []}
    unknown = {"seconds": None, "tokens": None, "used": None, "ending": None}
    started = line.pop("at")
    return {**line, "started": started, **unknown, **lists}


def versions() -> dict[str, str]:
    """The versions of Python and of the installed packages that results depend on."""
    # From package metadata: importing torch or vllm for a number would take seconds.
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
    """All settings except paths, which say nothing outside this machine, and without logins."""
    # Reports show this file and are sent to others.
    settings = flatten(config.model_dump(mode="json", exclude={"paths"}))
    for key, value in settings.items():
        if isinstance(value, str):
            settings[key] = _LOGIN.sub("", value)
    return settings
