"""A watched chat: lines typed become turns, lines that begin with / become settings."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import TemplateError

from traitcli.cli.options import as_text
from traitcli.errors import TraitError, UserError
from traitcli.events import Event, MonitorFinished

if TYPE_CHECKING:
    from traitcli.cli.session import MonitorSession
    from traitcli.models.prompts import Message
    from traitcli.monitoring.monitor import Watch

_PROMPT = "❯ "
_HELP = """\
/trait A        colour by A; without a name by the strongest
/steer A=X[@K]  add X times A's vector at layer K from now on; /steer off ends it, /steer alone tells
/system TEXT    set the system message; without a text there is none
/clear          forget what was said
/save [FILE]    write the chat, with all scores
/quit           leave; so does Ctrl-D. Ctrl-C ends the answer that is being written
"""


def chat(desk: MonitorSession, watching: Watch) -> bool:
    """Talk until the user leaves; whether an alarm fails. Each turn is a line of the record's file by then."""
    return _Chat(desk, watching).run()


class _Chat:
    """What was said so far, and what the next turn is watched with."""

    def __init__(self, desk: MonitorSession, watching: Watch) -> None:
        self._desk = desk
        self._watching = watching
        self._out = desk.place("chat", ".jsonl")
        self._turns: list[dict[str, Any]] = []
        self._crossed = False
        self._read = _line_reader(
            ["/trait", "/steer", "/system", "/clear", "/save", "/quit", "/help"], desk.vectors
        )
        self._commands: dict[str, Callable[[str], None]] = {
            "trait": self._set_trait,
            "steer": self._set_steering,
            "system": self._set_system,
            "clear": self._clear,
            "save": self._save,
            "help": lambda rest: _say(_HELP.rstrip()),
        }

    def run(self) -> bool:
        first = self._desk.wanted.prompt
        self._desk.view.close()
        _say("Type a message, or /help. /quit leaves.")
        try:
            self._talk(first)
        finally:
            if self._turns:
                _say(f"record: {self._out}")
        return self._crossed

    def _talk(self, first: str | None) -> None:
        """Until the user leaves."""
        with suppress(EOFError):
            while True:
                line = first if first is not None else as_text(self._read())
                typed, first = first is None, None
                if line.strip() == "/quit":
                    break
                if line.startswith("/"):
                    self._obey(line)
                elif line.strip():
                    self._desk.view.echo = not (typed and sys.stdin.isatty())
                    self._answer(line)

    def _answer(self, line: str) -> None:
        from traitcli.monitoring.monitor import monitor

        kept = len(self._turns)
        watching = replace(self._watching, about={"turn": kept + 1})
        try:
            monitor(self._desk.loaded, watching, line, self._out, self._hear)
        except KeyboardInterrupt:
            _say("")  # what was written stays part of the chat
        except (TraitError, TemplateError) as error:
            _say(str(error))
        if sys.stdin.isatty():
            _say("")
        for record in self._turns[kept:]:
            self._crossed |= self._desk.tell(record)
            said: tuple[Message, ...] = (
                {"role": "user", "content": line},
                {"role": "assistant", "content": record["response"]},
            )
            self._watching = replace(self._watching, history=(*self._watching.history, *said))

    def _hear(self, event: Event) -> None:
        """Take note of the turn, and let it be shown."""
        from traitcli.record_json import to_json

        if isinstance(event, MonitorFinished):
            if event.record and event.finish_reason != "failed":
                self._turns.append(to_json(event.record))
            event = replace(event, path="")  # told once, at the end
        self._desk.view.show(event)

    def _obey(self, line: str) -> None:
        name, _, rest = line[1:].strip().partition(" ")
        command = self._commands.get(name)
        if command is None:
            _say(f"there is no /{name}; /help tells what there is")
            return
        try:
            command(rest.strip())
        except TraitError as error:
            _say(str(error))

    def _set_trait(self, name: str) -> None:
        if name and name not in self._watching.probes:
            raise UserError(
                f"no trait {name} is watched", cause=f"watched: {', '.join(self._watching.probes)}"
            )
        self._desk.view.color_by = name or None
        _say(f"colours: {name or 'the strongest trait'}")

    def _set_steering(self, text: str) -> None:
        from traitcli.steering.interventions import make_steering, parse_intervention
        from traitcli.views.words import steering_text

        if text == "off":
            self._watching = replace(self._watching, steering=())
        elif text:
            pushes = [parse_intervention(one, self._desk.vectors) for one in text.split()]
            position = self._desk.config.vector.position
            made = make_steering(pushes, self._desk.vectors, self._desk.loaded, position)
            self._watching = replace(self._watching, steering=made)
        _say(steering_text([one.push for one in self._watching.steering]) or "not steered")

    def _set_system(self, text: str) -> None:
        config = self._watching.config.model_copy(update={"system": text or None})
        self._watching = replace(self._watching, config=config)
        _say(f"system message: {text}" if text else "no system message")

    def _clear(self, rest: str) -> None:
        self._watching = replace(self._watching, history=())
        _say("what was said is forgotten; the record keeps it")

    def _save(self, name: str) -> None:
        from traitcli.monitoring.record_files import save_chat

        if not self._turns:
            raise UserError("there is nothing to save", cause="nothing was said yet")
        path = Path(name or f"{self._out.stem}.json")
        save_chat(path, self._watching.config.system, self._watching.history, self._turns)
        _say(f"saved: {path}")


def _say(text: str) -> None:
    """Tell people; stdout is for the view."""
    from traitcli.views.printable import printable

    print(printable(text), file=sys.stderr, flush=True)


def _line_reader(commands: list[str], traits: Any) -> Callable[[], str]:
    """Reads a line: with arrow keys, history and Tab on a terminal; raises EOFError at the end."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return _piped_line
    with suppress(ImportError):  # Windows has none; lines are plain there
        import readline

        words = [*commands, *traits]
        readline.set_completer_delims(" ")
        readline.set_completer(
            lambda text, state: [*(w for w in words if w.startswith(text)), None][state]
        )
        readline.parse_and_bind(
            "bind ^I rl_complete" if "libedit" in (readline.__doc__ or "") else "tab: complete"
        )
    return _typed_line


def _typed_line() -> str:
    try:
        return input(_PROMPT)
    except (EOFError, KeyboardInterrupt):
        _say("")  # what follows begins on a line of its own
        raise


def _piped_line() -> str:
    line = sys.stdin.buffer.readline().decode("utf-8", "surrogateescape")
    if not line:
        raise EOFError
    return line.rstrip("\r\n")
