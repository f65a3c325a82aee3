"""Reads existing prompts and responses from JSON lines, JSON, chats and plain text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from traitcli.errors import UserError
from traitcli.files import explain_unreadable, parse_json
from traitcli.models.chat_format import Message

_FORMS = 'a line is {"prompt": …, "response": …} or {"messages": [{"role": …, "content": …}, …]}'
_SYSTEM_ROLES = {"system", "developer"}


@dataclass(frozen=True, slots=True)
class Exchange:
    """An existing response, with its prompt and what was said before.

    prompt   the user's last message; empty if the response follows another one, such as a tool's
    about    the file, the number of the line or item, and the turn of a chat
    problem  why the exchange cannot be read; empty if it can
    """

    prompt: str
    response: str
    history: tuple[Message, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


def read_exchanges(path: Path, prompt: str = "") -> list[Exchange]:
    """Read all responses of a file.

    A .jsonl file has JSON lines, and a .json file one object or a list. Any other file is one
    response to `prompt`. In a chat, each message of the assistant is a response. An entry that
    cannot be read becomes an exchange with a problem, so that one bad line does not stop the rest.

    Raises UserError when there is no response at all.
    """
    try:
        # Windows editors begin a file with a byte order mark.
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        is_missing = isinstance(error, FileNotFoundError)
        fix = "check the path" if is_missing else "name a text file in UTF-8"
        raise UserError(f"cannot read {path}", cause=explain_unreadable(error), fix=fix) from None

    found: list[Exchange] = []
    if path.suffix not in {".jsonl", ".json", ".ndjson"}:
        found.append(Exchange(prompt, text, about={"file": path.name}))
    else:
        entries = _parse_items(text) if path.suffix == ".json" else _parse_lines(text)
        for number, entry in entries:
            found += _read_entry(entry, {"file": path.name, "line": number})

    if not any(one.response and not one.problem for one in found):
        raise UserError(f"nothing to read in {path}", cause=_first_problem(found), fix=_FORMS)
    return found


def _first_problem(found: Sequence[Exchange]) -> str:
    """Why the first entry cannot be read, and where it is if there are several."""
    if not found or not found[0].problem:
        return "it is empty"
    if len(found) == 1:
        return found[0].problem
    return f"line {found[0].about['line']}: {found[0].problem}"


def _parse_lines(text: str) -> Iterator[tuple[int, Any]]:
    """The number and the value of each line; the error in place of a value that is not JSON."""
    # Not splitlines: it also splits at U+2028, which may occur in a response.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, _parse(line, is_line=True)


def _parse_items(text: str) -> Iterable[tuple[int, Any]]:
    data = _parse(text)
    return enumerate(data if isinstance(data, list) else [data], start=1)


def _parse(text: str, *, is_line: bool = False) -> Any:
    """The value of a JSON text; the error if it is not JSON."""
    try:
        return parse_json(text)
    except ValueError as error:
        return _UnreadableError(explain_unreadable(error, is_line=is_line))


def _read_entry(entry: Any, about: Mapping[str, Any]) -> Iterator[Exchange]:
    try:
        yield from _parse_entry(entry, about)
    except _UnreadableError as error:
        yield Exchange("", "", about=about, problem=str(error))


def _parse_entry(entry: Any, about: Mapping[str, Any]) -> Iterator[Exchange]:
    """The exchanges of a line or item; raises _UnreadableError when it has another form."""
    if isinstance(entry, _UnreadableError):
        raise entry
    if not isinstance(entry, dict):
        raise _UnreadableError("not a JSON object")
    if "messages" in entry:
        yield from _turns(_messages(entry["messages"]), about)
        return

    missing = [key for key in ("prompt", "response") if key not in entry]
    if missing:
        raise _UnreadableError(f"{' and '.join(missing)} missing, and there are no messages")
    history = _messages(entry.get("history", []))
    prompt = entry["prompt"]
    if isinstance(prompt, list):  # some data sets have a chat as the prompt
        history += _messages(prompt)
        if not history or history[-1]["role"] != "user":
            raise _UnreadableError("the prompt does not end with a user message")
        prompt = history.pop()["content"]
    yield Exchange(_text(prompt), _text(entry["response"]), tuple(history), about)


def _turns(messages: list[Message], about: Mapping[str, Any]) -> Iterator[Exchange]:
    """Each message of the assistant, after everything that was said before it."""
    turn = 0
    for index, message in enumerate(messages):
        # A message that only calls a tool has no text.
        if message["role"] != "assistant" or not message["content"]:
            continue
        turn += 1
        history, prompt = messages[:index], ""
        if history and history[-1]["role"] == "user":
            prompt = history.pop()["content"]
        yield Exchange(prompt, message["content"], tuple(history), {**about, "turn": turn})
    if not turn:
        raise _UnreadableError("no assistant message with text")


def _messages(data: Any) -> list[Message]:
    if not isinstance(data, list):
        raise _UnreadableError("messages must be a list")
    return [_message(one) for one in data]


def _message(data: Any) -> Message:
    if not isinstance(data, dict) or not isinstance(data.get("role"), str):
        raise _UnreadableError("a message has no role")
    # Chat templates know `system` only; OpenAI calls it `developer` for its newer models.
    role = "system" if data["role"] in _SYSTEM_ROLES else data["role"]
    return {"role": role, "content": _text(data.get("content"))}


def _text(content: Any) -> str:
    """The text of a message: a string, or the text parts of a list; "" for a tool call."""
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        content = "".join(str(part.get("text") or "") for part in content)
    if content is not None and not isinstance(content, str):
        raise _UnreadableError("content must be a string or a list of text parts")
    # Half an emoji, which JSON can hold, cannot be written to a file.
    return (content or "").encode("utf-8", "replace").decode()


class _UnreadableError(Exception):
    """An entry has an unknown form."""
