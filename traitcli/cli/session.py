"""What every mode of monitor shares: the options that were given, and the vectors, rules and view made from them."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from traitcli.config import Config
from traitcli.errors import UserError
from traitcli.records import TraitVector

if TYPE_CHECKING:
    from rich.console import Console

    from traitcli.models.loaded import LoadedModel
    from traitcli.views.monitor.view import MonitorView
    from traitcli.views.plain import PlainMonitorView


_EXAMPLE = 'traitcli monitor "What should I read?"'

ALARM = 3
"""Exit code when --fail-on was crossed."""


@dataclass(frozen=True, slots=True)
class MonitorOptions:
    """What the command line asks for; the rest is in the config."""

    prompt: str | None
    chat: bool
    prompts: str | None
    text: Path | None
    replay: Path | None
    speed: float
    traits: tuple[str, ...]
    trait: str | None
    layer: str
    per_layer: bool
    prompt_tokens: bool
    raw: bool
    steer: tuple[str, ...]
    stop_on: tuple[str, ...]
    fail_on: tuple[str, ...]
    vectors: Path | None
    out: Path | None
    as_json: bool
    trust: bool

    @property
    def row(self) -> int | None:
        """The layer to read; none: each vector's own."""
        return None if self.layer == "auto" else int(self.layer)

    def check(self) -> None:
        """Raise UserError unless there is one thing to watch, and the rest goes with it."""
        ways = {
            "--chat": self.chat,
            "--prompts": self.prompts,
            "--input": self.text,
            "--replay": self.replay,
        }
        chosen = [name for name, value in ways.items() if value]
        if len(chosen) > 1:
            raise UserError(
                f"{' and '.join(chosen)} do not go together",
                cause="each is watched alone",
                fix="choose one of them",
            )
        way = chosen[0] if chosen else ""
        if self.prompt is not None and way in {"--prompts", "--replay"}:
            raise UserError(
                f"a prompt and {way} do not go together",
                cause=f"{way} brings its own",
                fix="leave one of them out",
            )
        if not way and self.prompt is None:
            raise UserError(
                "there is nothing to watch",
                cause="neither a prompt nor another source is given",
                fix=f"{_EXAMPLE}, or --chat, --prompts teaching, --input FILE, --replay FILE",
            )
        if not way and not (self.prompt or "").strip():
            raise UserError("the prompt is empty", cause="there is nothing to answer", fix=_EXAMPLE)
        self._check_options(way)
        if way in {"--chat", "--prompts", "--input"} and self.out and self.out.suffix != ".jsonl":
            raise UserError(
                f"{way} writes several records, and {self.out} is for one",
                cause="each is a line of a .jsonl file",
                fix=f"--out {self.out.with_suffix('.jsonl')}",
            )
        if self.layer != "auto" and not (self.layer.isascii() and self.layer.isdigit()):
            raise UserError(
                f"no layer {self.layer}", cause="it is no row", fix="--layer 16, or --layer auto"
            )
        if not self.speed > 0:
            raise UserError(
                f"no speed {self.speed:g}",
                cause="it must be above 0",
                fix="--speed 2 is twice as fast",
            )

    def _check_options(self, way: str) -> None:
        """Raise UserError for an option that would be without effect."""
        refused: dict[str, object] = {}
        if way in {"--input", "--replay"}:
            refused |= {"--steer": self.steer, "--stop-on": self.stop_on}
        if way == "--replay":
            refused |= {
                "--traits": self.traits,
                "--layer": self.layer != "auto",
                "--per-layer": self.per_layer,
            }
            refused |= {
                "--prompt-tokens": self.prompt_tokens,
                "--vectors": self.vectors,
                "--fail-on": self.fail_on,
            }
            refused |= {"--out": self.out}
        for option in [option for option, value in refused.items() if value]:
            raise UserError(
                f"{option} and {way} do not go together",
                cause="what is there already is only read"
                if way == "--input"
                else "a record is shown as it is",
                fix=f"leave {option} out",
            )


@dataclass(frozen=True, slots=True)
class MonitorSession:
    """All that a way of watching works with."""

    wanted: MonitorOptions
    config: Config
    vectors: Mapping[str, TraitVector]
    loaded: LoadedModel
    view: MonitorView | PlainMonitorView

    def console(self, *, shared: bool) -> Console:
        """Where a table goes: stdout, unless programs read it: JSON, or token lines that it would be `shared` with."""
        from rich.console import Console

        return Console(stderr=self.wanted.as_json or (shared and not sys.stdout.isatty()))

    def place(self, name: str, suffix: str = ".json") -> Path:
        """Where the record goes."""
        from traitcli.monitoring.record_files import record_path

        return self.wanted.out or record_path(self.config.paths.runs, name, suffix)

    def tell(self, record: Mapping[str, Any]) -> bool:
        """Print a record, if that is asked for; whether it fails."""
        if self.wanted.as_json:
            typer.echo(json.dumps(record, ensure_ascii=False))
        return any(alarm["action"] == "fail" for alarm in record.get("alarms", ()))
