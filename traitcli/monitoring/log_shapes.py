"""Reads one entry of a log: finds out which of the common shapes it has, and takes it apart.

| shape               | keys                                                           |
|---------------------|----------------------------------------------------------------|
| chat                | messages with role and content, or a bare list of them;        |
|                     | Anthropic's top-level system; Gemini's contents and parts      |
| ShareGPT            | conversations with from and value                              |
| prompt and response | prompt, question, instruction, ... and response, completion, … |
| OpenAI response     | choices; output of the Responses API; a line of batch output   |
| Anthropic response  | type: message, role and content                                |
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from traitcli.files import join_surrogates
from traitcli.models.chat_format import Message

_ROLES = {
    **dict.fromkeys(("user", "human", "prompter", "question"), "user"),
    **dict.fromkeys(("assistant", "model", "gpt", "bot", "ai", "chatbot", "chatgpt"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
"""Roles of other tools; all others, such as tool, stay as they are."""
_CHATS = ("messages", "conversations", "conversation", "chat", "dialog", "dialogue", "contents")
PROMPTS = ("prompt", "question", "instruction", "query", "user", "input")
RESPONSES = (
    *("response", "completion", "answer", "output", "assistant", "reply", "generated_text"),
    *("generation", "model_output"),
)
_SYSTEMS = ("system", "system_prompt", "system_message", "system_instruction", "instructions")
_NOT_READ = ("tools", "functions", "documents", "images", "context", "persona")
"""Keys that change what a model reads, and that traitcli cannot place in a chat."""
_KNOWN = (*_CHATS, *PROMPTS, *RESPONSES, *_SYSTEMS, *_NOT_READ, "history", "parameters")
_SPELLINGS = {
    **{name.replace("_", ""): name for name in _KNOWN},
    **{"preprompt": "system", "chathistory": "history"},
}
"""A key in lower case and without separators -> the spelling that is read here."""
_THOUGHTS = {"thinking", "redacted_thinking", "reasoning"}
_THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking")
FORMS = (
    'an entry is {"messages": [{"role": …, "content": …}, …]}, {"prompt": …, "response": …}, '
    "or one of the other shapes in docs/scoring-texts.md"
)


@dataclass(frozen=True, slots=True)
class Exchange:
    """An existing response, with its prompt and what was said before.

    prompt   the user's last message; empty if the response follows another one, such as a tool's
    about    the file, the number of the line or item, and the turn of a chat
    keys     other keys of its entry that were asked for, such as a label
    problem  why the exchange cannot be read; empty if it can
    """

    prompt: str
    response: str
    history: tuple[Message, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    keys: Mapping[str, Any] = field(default_factory=dict)

    @property
    def located_problem(self) -> str:
        """The problem, and the line or item that has it."""
        return f"line {self.about['line']}: {self.problem}"


class ShapeError(Exception):
    """An entry has none of the shapes."""


@dataclass(slots=True)
class Entry:
    """An entry taken apart: the name of its shape, its exchanges, and what they leave out."""

    shape: str
    exchanges: list[Exchange]
    left_out: set[str]


def read_entry(value: Any, about: Mapping[str, Any]) -> Entry:
    """Take an entry apart; raises ShapeError if it has none of the shapes."""
    reader = _Reader()
    shape, exchanges = reader.read(value)
    placed = []
    for exchange in exchanges:
        placed.append(replace(exchange, about={**about, **exchange.about}))
    return Entry(shape, placed, reader.left_out)


def is_chat(value: Any) -> bool:
    """Whether a list is one conversation, and not a list of entries."""
    return isinstance(value, list) and bool(value) and all(map(_is_message, value))


def has_text(message: Mapping[str, Any]) -> bool:
    """Whether a message has a text, so that it is a response if the assistant wrote it."""
    return bool(_Reader()._message_text(message))


def read_chat(value: Any) -> list[Message]:
    """The messages of a chat; raises ShapeError for anything else, and for pictures."""
    messages = list(value) if isinstance(value, Sequence) else value
    if messages != [] and not is_chat(messages):
        raise ShapeError(f"a chat is a list of messages with role and content, not {value!r:.60}")
    reader = _Reader()
    read = reader._messages(messages)
    if reader.left_out - {"thinking"}:
        raise ShapeError(f"a message has {', '.join(sorted(reader.left_out))}, which is no text")
    return read


def _is_message(value: Any) -> bool:
    if not isinstance(value, Mapping):
        return False
    has_role = isinstance(value.get("role"), str) and not value.keys() & {"type"} - {"content"}
    is_typed = value.get("type") == "message" and "id" not in value
    return (has_role or is_typed or "from" in value) and bool(
        value.keys() & {"content", "value", "parts", "tool_calls"}
    )


class _Reader:
    """Reads one entry, and notes what it leaves out."""

    def __init__(self) -> None:
        self.left_out: set[str] = set()

    def read(self, value: Any) -> tuple[str, list[Exchange]]:
        if is_chat(value):
            return "chat", list(self._turns(self._messages(value)))
        if not isinstance(value, Mapping):
            raise ShapeError("not a JSON object")
        value = _respelled(value)
        self.left_out |= {key for key in _NOT_READ if value.get(key)}
        if isinstance(value.get("request"), Mapping) or _has_body(value):
            return self._read_traffic(value)

        system = self._system(value)
        if "choices" in value or isinstance(value.get("output"), list):
            return "OpenAI response", self._replies(value, system)
        if value.get("type") == "message" and value.get("role") == "assistant":
            text = self._text(value.get("content"))
            return "Anthropic response", [_exchange([*system], text)]
        for key in _CHATS:
            if isinstance(value.get(key), list) or key == "messages" in value:
                return self._read_chat(key, value, system)
        return "prompt and response", self._pair(value, system)

    def _read_chat(
        self, key: str, value: Mapping[str, Any], system: list[Message]
    ) -> tuple[str, list[Exchange]]:
        messages = [*system, *self._messages(value[key])]
        shape = "ShareGPT" if any("from" in one for one in value[key]) else "chat"
        response = _first(value, RESPONSES)
        # A chat that ends with the user may have its answer beside it.
        if response is not None and messages and messages[-1]["role"] != "assistant":
            messages += self._answers(response)
        return shape, list(self._turns(messages))

    def _read_traffic(self, value: Mapping[str, Any]) -> tuple[str, list[Exchange]]:
        """A request and its response, or a line of a batch's output."""
        response = value.get("response")
        reply = response.get("body", response) if isinstance(response, Mapping) else response
        if reply is None:
            raise ShapeError("it is a request without a response")
        request: Mapping[str, Any] = {}
        if isinstance(value.get("request"), Mapping):
            request = _respelled(value["request"].get("body", value["request"]))
        self.left_out |= {key for key in _NOT_READ if request.get(key)}
        before = self._system(request)
        for key in (*_CHATS, *PROMPTS):
            if request.get(key):
                before += self._questions(request[key])
                break
        if not isinstance(reply, Mapping):
            return "request and response", [_exchange(before, self._text(reply))]
        shape, exchanges = self.read(reply)
        if not before:
            return shape, exchanges
        return f"{shape} with its request", [
            replace(one, **_before([*before, *one.history])) for one in exchanges
        ]

    def _replies(self, value: Mapping[str, Any], system: list[Message]) -> list[Exchange]:
        """The texts of a response body, each as an answer of its own."""
        before = list(system)
        for key in ("messages", "input"):
            if value.get(key):
                before += self._questions(value[key])
        texts = []
        if "choices" in value:
            choices = value["choices"] if isinstance(value["choices"], list) else []
            for choice in choices:
                if isinstance(choice, Mapping):
                    message = choice.get("message")
                    text = self._message_text(message) if isinstance(message, Mapping) else ""
                    texts.append(text or self._text(choice.get("text")))
        else:
            found = []
            for item in value["output"]:
                kind = item.get("type") if isinstance(item, Mapping) else None
                if kind == "message":
                    found.append(self._text(item.get("content")))
                elif kind:
                    self.left_out.add(str(kind))
            texts.append("".join(found))
        exchanges = [_exchange(before, text) for text in texts if text]
        if not exchanges:
            raise ShapeError("the response has no text")
        return exchanges

    def _pair(self, value: Mapping[str, Any], system: list[Message]) -> list[Exchange]:
        prompt, response = _first(value, PROMPTS), _first(value, RESPONSES)
        missing = []
        if prompt is None:
            missing.append("prompt")
        if response is None and value.keys().isdisjoint(RESPONSES):
            missing.append("response")
        if missing:
            keys = ", ".join(map(str, value)) or "none"
            found = f"{' and '.join(missing)} missing, and there are no messages"
            raise ShapeError(f"{found}; its keys: {keys}")
        history = self._messages(value.get("history") or [])
        asked = self._questions(prompt)
        # Alpaca: what the instruction is about.
        if "instruction" in value and isinstance(value.get("input"), str) and value["input"]:
            asked[-1] = {**asked[-1], "content": f"{asked[-1]['content']}\n\n{value['input']}"}
        messages = [*system, *history, *asked]
        if isinstance(prompt, list) and not (prompt and messages[-1]["role"] == "user"):
            raise ShapeError("the prompt does not end with a user message")
        answers = self._answers(response)
        if len(answers) == 1:
            return [_exchange(messages, answers[0]["content"])]
        return list(self._turns([*messages, *answers]))

    def _questions(self, value: Any) -> list[Message]:
        """Messages from a chat, or the one user message of a text."""
        if is_chat(value):
            return self._messages(value)
        return [{"role": "user", "content": self._text(value)}]

    def _answers(self, value: Any) -> list[Message]:
        if is_chat(value):
            return self._messages(value)
        if isinstance(value, Mapping) and "content" in value:
            value = value["content"]
        return [{"role": "assistant", "content": self._text(value)}]

    def _system(self, value: Mapping[str, Any]) -> list[Message]:
        """The system message that stands beside the messages, as a text or as parts."""
        parameters = value.get("parameters")
        for place in (value, _respelled(parameters) if isinstance(parameters, Mapping) else {}):
            for key in _SYSTEMS:
                if place.get(key):
                    return [{"role": "system", "content": self._text(place[key])}]
        return []

    def _turns(self, messages: list[Message]) -> Iterator[Exchange]:
        """Each message of the assistant, after everything that was said before it."""
        turn = 0
        for index, message in enumerate(messages):
            # A message that only calls a tool has no text.
            if message["role"] == "assistant" and message["content"]:
                turn += 1
                exchange = _exchange(messages[:index], message["content"])
                yield replace(exchange, about={"turn": turn})
        if not turn:
            raise ShapeError("no assistant message with text")

    def _messages(self, data: Any) -> list[Message]:
        if not isinstance(data, list):
            raise ShapeError("messages must be a list")
        return [self._message(one) for one in data]

    def _message(self, data: Any) -> Message:
        role = data.get("role") or data.get("from") if isinstance(data, Mapping) else None
        if not isinstance(role, str):
            raise ShapeError("a message has no role")
        if data.get("tool_calls"):
            self.left_out.add("tool_calls")
        return {"role": _ROLES.get(role.lower(), role), "content": self._message_text(data)}

    def _message_text(self, message: Mapping[str, Any]) -> str:
        if any(message.get(key) for key in _THOUGHT_KEYS):
            self.left_out.add("thinking")
        # OpenAI puts the text of a refusal beside an empty content.
        return self._text(_first(message, ("content", "value", "parts", "refusal")))

    def _text(self, content: Any) -> str:
        """The text of a message: a string, or the text parts of a list; "" for a tool call."""
        if isinstance(content, Mapping):
            # One part, or Gemini's list of them.
            content = content.get("text", content.get("parts", content))
        if isinstance(content, list) and all(isinstance(part, Mapping) for part in content):
            content = "".join(map(self._part, content))
        if content is not None and not isinstance(content, str):
            raise ShapeError("content must be a string or a list of text parts")
        # Half an emoji, which JSON can hold, cannot be written to a file.
        return join_surrogates(content or "")

    def _part(self, part: Mapping[str, Any]) -> str:
        kind = str(part.get("type") or "text")
        if kind in _THOUGHTS:
            self.left_out.add("thinking")
            return ""
        for key in ("text", "refusal"):
            if isinstance(part.get(key), str):
                return str(part[key])
        self.left_out.add(kind)
        return ""


def _respelled(value: Mapping[str, Any]) -> dict[str, Any]:
    """The same keys, those of other spelling under the name that is read here."""
    renamed = {}
    for key, content in value.items():
        name = _SPELLINGS.get(re.sub("[_ -]", "", str(key)).lower(), key)
        renamed[key if name in value else name] = content
    return renamed


def _has_body(value: Mapping[str, Any]) -> bool:
    response = value.get("response")
    if not isinstance(response, Mapping):
        return "body" in value and "method" in value
    return not response.keys().isdisjoint({"body", "choices", "output"})


def _first(value: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((value[key] for key in keys if value.get(key) is not None), None)


def _before(messages: Sequence[Message]) -> dict[str, Any]:
    """The prompt and the history of an exchange that follows these messages."""
    history = list(messages)
    # A second system message belongs to the first.
    while len(history) > 1 and history[0]["role"] == history[1]["role"] == "system":
        first, second = history.pop(0), history.pop(0)
        joined = f"{first['content']}\n\n{second['content']}"
        history.insert(0, {"role": "system", "content": joined})
    prompt = history.pop()["content"] if history and history[-1]["role"] == "user" else ""
    return {"prompt": prompt, "history": tuple(history)}


def _exchange(before: Sequence[Message], response: str) -> Exchange:
    return Exchange(response=response, **_before(before))
