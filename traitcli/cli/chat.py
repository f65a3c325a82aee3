"""A monitored chat: typed lines are turns; lines that begin with / are commands."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from traitcli.cli.options import as_text
from traitcli.errors import TraitError, UserError, suggest
from traitcli.events import Event, MonitorFinished

if TYPE_CHECKING:
    from traitcli.cli.session import MonitorSession
    from traitcli.models.chat_format import Message
    from traitcli.monitoring.watch import Watch
    from traitcli.records import TokenScores

_PROMPT = "❯ "
_HELP = """\
/trait A        color tokens by A; without a name, by the strongest trait
/steer A=X[@K]  add X times A's vector at layer K from now on; A=ablate, A<=X, A>=X and A=X if B>Y
                work too; /steer off stops it, /steer shows it
/system TEXT    set the system message; without a text, remove it
/clear          forget the conversation
/save [FILE]    write the chat with all scores
/quit           leave; Ctrl-D leaves too, and Ctrl-C ends the current answer
"""


def chat(session: MonitorSession, watching: Watch) -> bool:
    """Talk until the user leaves. Returns whether a --fail-on rule was met.

    Each turn is appended to the record file as soon as it ends.
    """
    return _Chat(session, watching).run()


class _Chat:
    """The conversation so far, and the settings of the next turn."""

    def __init__(self, session: MonitorSession, watching: Watch) -> None:
        self._session = session
        self._watching = watching
        self._path = session.record_path("chat", ".jsonl")
        self._model = session.model.listening(self._take)
        self._turns: list[TokenScores] = []
        self._has_failed = False
        self._commands: dict[str, Callable[[str], None]] = {
            "trait": self._set_trait,
            "steer": self._set_steering,
            "system": self._set_system,
            "clear": self._clear,
            "save": self._save,
            "help": lambda rest: _say(_HELP.rstrip()),
        }
        names = [f"/{name}" for name in (*self._commands, "quit")]
        self._read = _line_reader([*names, *session.vectors])

    def run(self) -> bool:
        first = self._session.options.source.prompt
        # The view has shown how the model loads; a typed line needs the terminal for itself.
        self._session.view.close()
        _say("Type a message, or /help. /quit leaves.")
        try:
            self._talk(first)
        finally:
            if self._turns:
                _say(f"record: {self._path}")
        return self._has_failed

    def _talk(self, first: str | None) -> None:
        """Answer lines until /quit or the end of input; `first` is the command line's prompt."""
        # The end of input (Ctrl-D, or the end of a pipe) leaves like /quit.
        with suppress(EOFError):
            while True:
                line = first if first is not None else as_text(self._read())
                is_typed, first = first is None, None
                if line.strip() == "/quit":
                    break
                if line.startswith("/"):
                    self._run_command(line)
                elif line.strip():
                    # A line typed on a terminal is on the screen already.
                    self._session.view.echo = not (is_typed and sys.stdin.isatty())
                    self._answer(line)

    def _answer(self, line: str) -> None:
        before = len(self._turns)
        watching = replace(self._watching, about={"turn": before + 1})
        try:
            self._model.generate(line, watching, self._path)
        except KeyboardInterrupt:
            _say("")  # the part that was written stays in the chat
        except TraitError as error:
            # A turn that fails, such as a prompt that is too long, does not end the chat.
            _say(str(error))
        if sys.stdin.isatty():
            _say("")

        # At most one. A turn that failed has none, and the model does not see it again.
        for record in self._turns[before:]:
            self._has_failed |= self._session.print_record(record)
            messages: tuple[Message, ...] = (
                {"role": "user", "content": line},
                {"role": "assistant", "content": record.response},
            )
            history = (*self._watching.history, *messages)
            self._watching = replace(self._watching, history=history)

    def _take(self, event: Event) -> None:
        """Keep the turn that an event ends, and show the event."""
        if isinstance(event, MonitorFinished):
            if event.record and event.finish_reason != "failed":
                self._turns.append(event.record)
            event = replace(event, path="")  # the path is shown once, when the chat ends
        self._session.view.show(event)

    def _run_command(self, line: str) -> None:
        name, _, rest = line[1:].strip().partition(" ")
        command = self._commands.get(name)
        if command is None:
            _say(f"unknown command /{name}; /help lists the commands")
            return
        # A mistake in a command must not end the chat.
        try:
            command(rest.strip())
        except TraitError as error:
            _say(str(error))

    def _set_trait(self, name: str) -> None:
        if name and name not in self._watching.probes:
            raise UserError(
                f"the trait {name} is not monitored",
                cause=f"monitored: {', '.join(self._watching.probes)}",
                fix=suggest(name, self._watching.probes) or "choose one of these",
            )
        self._session.view.color_by = name or None
        _say(f"tokens are colored by {name or 'the strongest trait'}")

    def _set_steering(self, text: str) -> None:
        from traitcli.steering.parse import parse_interventions
        from traitcli.views.words import steering_text

        session = self._session
        if text == "off":
            self._watching = replace(self._watching, steering=())
        elif text:
            interventions = parse_interventions(text, session.vectors, "/steer")
            steering = self._model.prepare(interventions, session.vectors)
            self._watching = replace(self._watching, steering=steering)
        _say(steering_text([one.intervention for one in self._watching.steering]) or "not steered")

    def _set_system(self, text: str) -> None:
        config = self._watching.config.model_copy(update={"system": text or None})
        self._watching = replace(self._watching, config=config)
        _say(f"system message: {text}" if text else "no system message")

    def _clear(self, rest: str) -> None:
        self._watching = replace(self._watching, history=())
        _say("the model forgets the conversation; the record keeps it")

    def _save(self, name: str) -> None:
        from traitcli.monitoring.record_files import save_chat

        if not self._turns:
            raise UserError(
                "there is nothing to save", cause="the chat has no turn yet", fix="type a message"
            )
        path = Path(name or f"{self._path.stem}.json")
        save_chat(path, self._watching.config.system, self._watching.history, self._turns)
        _say(f"saved: {path}")


def _say(text: str) -> None:
    """Print a line for people on stderr; stdout belongs to the view."""
    from traitcli.views.printable import printable

    print(printable(text), file=sys.stderr, flush=True)


def _line_reader(words: Iterable[str]) -> Callable[[], str]:
    """A function that reads one line, and raises EOFError at the end of input.

    On a terminal it has arrow keys, history, and Tab completion of `words`.
    """
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return _piped_line

    with suppress(ImportError):  # Windows has no readline; lines have no history there
        import readline

        known = list(words)

        def complete(text: str, state: int) -> str | None:
            matches = [word for word in known if word.startswith(text)]
            return matches[state] if state < len(matches) else None

        # By default / and - end a word, so neither /steer nor a name with - would be completed.
        readline.set_completer_delims(" ")
        readline.set_completer(complete)
        # macOS builds readline on libedit, which has another syntax for key bindings.
        is_libedit = "libedit" in (readline.__doc__ or "")
        readline.parse_and_bind("bind ^I rl_complete" if is_libedit else "tab: complete")
    return _typed_line


def _typed_line() -> str:
    try:
        return input(_PROMPT)
    except (EOFError, KeyboardInterrupt):
        _say("")  # so that the next output starts on its own line
        raise


def _piped_line() -> str:
    # Bytes, because a pipe may hold text that is not UTF-8, and input() would fail on it.
    line = sys.stdin.buffer.readline().decode("utf-8", "surrogateescape")
    if not line:
        raise EOFError
    return line.rstrip("\r\n")
