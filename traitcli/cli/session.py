"""What every mode of monitor shares: the checked options, the loaded model and the view."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from traitcli.cli.output import print_json
from traitcli.errors import UserError
from traitcli.files import decode_text
from traitcli.record_json import FailedRecord, to_json
from traitcli.records import TokenScores, TraitVector

if TYPE_CHECKING:
    from rich.console import Console

    from traitcli.api.model import Model
    from traitcli.views.monitor.view import MonitorView
    from traitcli.views.plain import PlainMonitorView


_EXAMPLE = 'traitcli monitor "What should I read?"'

ALARM_EXIT_CODE = 3
"""Exit code when a --fail-on rule is met."""


@dataclass(frozen=True, slots=True)
class Source:
    """What to monitor: a prompt, a chat, a prompt set, existing text, or a stored record."""

    prompt: str | None
    chat: bool
    prompts: str | None
    text: Path | None
    replay: Path | None
    speed: float

    def from_pipe(self) -> Source:
        """The same with the prompt from stdin, if it is "-", or if a pipe is all there is."""
        is_all = self.prompt is None and not self.options and not sys.stdin.isatty()
        if self.prompt != "-" and not is_all:
            return self
        # An empty pipe is no prompt.
        piped = decode_text(sys.stdin.buffer.read()).strip("\r\n") or None
        return replace(self, prompt=piped)

    @property
    def options(self) -> list[str]:
        """The options that name a source, as the user typed them; none for a prompt alone."""
        values = {
            "--chat": self.chat,
            "--prompts": self.prompts,
            "--input": self.text,
            "--replay": self.replay,
        }
        return [option for option, value in values.items() if value]

    def check(self) -> None:
        """Raise UserError unless there is exactly one source, and its own options fit it."""
        options = self.options
        if len(options) > 1:
            raise UserError(
                f"{' and '.join(options)} cannot be used together",
                cause="each of them is a source on its own",
                fix="keep one of them",
            )

        option = options[0] if options else ""
        if self.prompt is not None and option in {"--prompts", "--replay"}:
            raise UserError(
                f"a prompt and {option} cannot be used together",
                cause=f"{option} has its own prompts",
                fix="leave one of them out",
            )

        if not option and self.prompt is None:
            raise UserError(
                "there is nothing to monitor",
                cause="no prompt and no other source is named",
                fix=f"{_EXAMPLE}, or --chat, --prompts teaching, --input FILE, --replay FILE",
            )
        if not option and not (self.prompt or "").strip():
            raise UserError(
                "the prompt is empty", cause="there is nothing to answer", fix=f"try {_EXAMPLE}"
            )

        if not self.speed > 0:
            raise UserError(
                f"invalid --speed {self.speed:g}",
                cause="the speed must be above 0",
                fix="--speed 2 replays twice as fast",
            )


@dataclass(frozen=True, slots=True)
class Display:
    """What the screen shows; `as_json` prints JSON lines instead.

    group_by  the key of the table over existing texts; None is one row a file, for a folder
    """

    trait: str | None
    per_layer: bool
    prompt_tokens: bool
    raw: bool
    as_json: bool
    group_by: str | None


@dataclass(frozen=True, slots=True)
class MonitorOptions:
    """The options of one monitor command; what the config holds is not repeated here.

    layer  the layer to read for all traits; None takes each vector's own
    """

    source: Source
    display: Display
    traits: tuple[str, ...]
    layer: int | None
    steer: tuple[str, ...]
    stop_on: tuple[str, ...]
    fail_on: tuple[str, ...]
    vectors: Path | None
    out: Path | None
    trust: bool

    def check(self) -> None:
        """Raise UserError for a source that is missing, and for options that do not fit it."""
        self.source.check()
        option = "".join(self.source.options)
        self._check_effect(option)

        # A .json file is replaced by each record, so only the last one would stay.
        writes_several = option in {"--chat", "--prompts", "--input"}
        if self.writes_table:
            from traitcli.monitoring.score_tables import check_table

            check_table(self.out or Path())
        elif writes_several and self.out and self.out.suffix != ".jsonl":
            raise UserError(
                f"cannot write the records of {option} to {self.out}",
                cause=f"{option} writes several records, and only a .jsonl file holds several",
                fix=f"--out {self.out.with_suffix('.jsonl')}",
            )

    @property
    def writes_table(self) -> bool:
        """Whether --out is a table of existing texts' scores; their records go elsewhere."""
        is_table = self.out is not None and self.out.suffix.lower() in {".csv", ".parquet"}
        return is_table and self.source.text is not None

    def _check_effect(self, option: str) -> None:
        """Raise UserError for an option that would have no effect on this source."""
        # An option without effect is a mistake: the user believes that it does something.
        without_effect: dict[str, object] = {}
        if option != "--input" and self.display.group_by is not None:
            raise UserError(
                "--by has no effect without --input",
                cause="--by groups the scores of existing texts",
                fix="add --input DIR, or leave --by out",
            )
        if self.display.group_by is not None and not self.display.group_by.strip():
            raise UserError("--by is empty", cause="it names no key", fix="--by day")
        if option in {"--input", "--replay"}:
            without_effect |= {"--steer": self.steer, "--stop-on": self.stop_on}
        if option == "--replay":
            without_effect |= {
                "--traits": self.traits,
                "--layer": self.layer is not None,
                "--per-layer": self.display.per_layer,
                "--prompt-tokens": self.display.prompt_tokens,
                "--vectors": self.vectors,
                "--fail-on": self.fail_on,
                "--out": self.out,
            }

        cause = {
            "--input": "--input scores existing text; nothing is generated",
            "--replay": "--replay shows a stored record unchanged",
        }
        for name, value in without_effect.items():
            if value:
                raise UserError(
                    f"{name} and {option} cannot be used together",
                    cause=cause[option],
                    fix=f"leave {name} out",
                )


@dataclass(frozen=True, slots=True)
class MonitorSession:
    """What a mode of monitor works with: options, vectors, the model, the view."""

    options: MonitorOptions
    vectors: Mapping[str, TraitVector]
    model: Model
    view: MonitorView | PlainMonitorView

    def console(self, *, beside_tokens: bool) -> Console:
        """Where a table goes: stdout, unless programs read stdout.

        `beside_tokens`: token lines go to stdout too, so in a pipe the table goes to stderr.
        """
        from rich.console import Console

        # A program that reads token lines must not meet a table among them.
        in_pipe = beside_tokens and not sys.stdout.isatty()
        return Console(stderr=self.options.display.as_json or in_pipe)

    def record_path(self, name: str, suffix: str = ".json") -> Path:
        """The file that the record is written to: --out, or a new file in the runs folder."""
        from traitcli.monitoring.record_files import record_path

        own = record_path(self.model.config.paths.runs, name, suffix)
        return own if self.options.writes_table else self.options.out or own

    def print_record(self, record: TokenScores | FailedRecord) -> bool:
        """Print a record if --json asks for it. Returns whether a --fail-on rule is met."""
        if self.options.display.as_json:
            print_json(to_json(record))
        # An answer that failed has no alarms.
        crossings = () if isinstance(record, FailedRecord) else record.crossings
        return any(crossing.action == "fail" for crossing in crossings)
