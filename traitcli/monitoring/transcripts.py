"""Reads what was said already: prompts and responses, chats, plain text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from traitcli.errors import UserError
from traitcli.files import parse_json
from traitcli.models.prompts import Message

_FORMS = 'a line is {"prompt": …, "response": …} or {"messages": [{"role": …, "content": …}, …]}'
_SYSTEM = {"system", "developer"}


@dataclass(frozen=True, slots=True)
class Exchange:
    """An answer that is there already, what was asked, and what was said before.

    prompt   the user's last message; empty where the answer follows another one, such as a tool's
    about    the file it comes from, its line or number there, and its turn in a chat
    problem  why it cannot be read; empty where it can
    """

    prompt: str
    response: str
    history: tuple[Message, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""


def read_exchanges(path: Path, prompt: str = "") -> list[Exchange]:
    """All answers of a file: JSON lines, a JSON list or object, else plain text, which is one answer to `prompt`.

    Each turn of a chat's assistant is an answer. What cannot be read keeps its place, with the problem told.
    Raises UserError when nothing can be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read {path}", cause=str(error), fix="name a text file in UTF-8"
        ) from None
    if path.suffix not in {".jsonl", ".json", ".ndjson"}:
        found = [Exchange(prompt, text, about={"file": path.name})]
    else:
        entries = _lines(text) if path.suffix != ".json" else _items(text)
        found = [
            one
            for number, entry in entries
            for one in _exchanges(entry, {"file": path.name, "line": number})
        ]
    if not any(one.response and not one.problem for one in found):
        cause = found[0].problem or "it is empty" if found else "it is empty"
        raise UserError(f"{path} holds nothing to read", cause=cause, fix=_FORMS)
    return found


def _lines(text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, _parsed(line)


def _items(text: str) -> Iterable[tuple[int, Any]]:
    whole = _parsed(text)
    return enumerate(whole if isinstance(whole, list) else [whole], start=1)


def _parsed(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        return error


def _exchanges(entry: Any, about: Mapping[str, Any]) -> Iterator[Exchange]:
    try:
        yield from _understood(entry, about)
    except _NotUnderstoodError as error:
        yield Exchange("", "", about=about, problem=str(error))


def _understood(entry: Any, about: Mapping[str, Any]) -> Iterator[Exchange]:
    if isinstance(entry, Exception):
        raise _NotUnderstoodError(f"it is not JSON: {entry}")
    if not isinstance(entry, dict):
        raise _NotUnderstoodError("it is no JSON object")
    if "messages" in entry:
        yield from _turns([_message(one) for one in _list(entry["messages"])], about)
        return
    missing = [key for key in ("prompt", "response") if key not in entry]
    if missing:
        raise _NotUnderstoodError(f"it has neither messages nor {' and '.join(missing)}")
    before = [_message(one) for one in _list(entry.get("history", []))]
    if isinstance(entry["prompt"], list):  # a chat, as some data sets have it
        before += [_message(one) for one in entry["prompt"]]
        if not before or before[-1]["role"] != "user":
            raise _NotUnderstoodError("its prompt does not end with a message of the user's")
        *before, last = before
        prompt = last["content"]
    else:
        prompt = _text(entry["prompt"])
    yield Exchange(prompt, _text(entry["response"]), tuple(before), about)


def _turns(messages: list[Message], about: Mapping[str, Any]) -> Iterator[Exchange]:
    """Each answer of the assistant's behind all that was said before it."""
    turn = 0
    for place, message in enumerate(messages):
        if message["role"] != "assistant" or not message["content"]:
            continue
        turn += 1
        before, prompt = messages[:place], ""
        if before and before[-1]["role"] == "user":
            prompt = before.pop()["content"]
        yield Exchange(prompt, message["content"], tuple(before), {**about, "turn": turn})
    if not turn:
        raise _NotUnderstoodError("no message of the assistant's in it")


def _message(told: Any) -> Message:
    if not isinstance(told, dict) or not isinstance(told.get("role"), str):
        raise _NotUnderstoodError("a message has no role")
    role = "system" if told["role"] in _SYSTEM else told["role"]
    return {"role": role, "content": _text(told.get("content"))}


def _text(content: Any) -> str:
    """A text, or the texts among the parts of a message; nothing where a tool was called instead."""
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        content = "".join(str(part.get("text") or "") for part in content)
    if content is None or isinstance(content, str):
        return (content or "").encode("utf-8", "replace").decode()  # half an emoji is no text
    raise _NotUnderstoodError("a text is no text")


def _list(told: Any) -> list[Any]:
    if not isinstance(told, list):
        raise _NotUnderstoodError("its messages are no list")
    return told


class _NotUnderstoodError(Exception):
    """An entry has no form that is known."""
