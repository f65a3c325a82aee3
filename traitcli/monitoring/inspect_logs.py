"""Reads the samples of Inspect logs: each answer that the model generated is a response."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from traitcli.monitoring.eval_archives import LARGEST_SAMPLE, read_archive
from traitcli.monitoring.log_facts import read_facts, short
from traitcli.monitoring.log_shapes import Entry, Exchange, ShapeError, has_text, read_entry

_ATTACHMENT = "attachment://"


@dataclass(frozen=True, slots=True)
class InspectSample:
    """A sample as JSON, and the description of its evaluation (`eval` of the log)."""

    sample: Mapping[str, Any]
    evaluation: Mapping[str, Any]


def is_log(value: Any) -> bool:
    """Whether JSON is a whole Inspect log."""
    if not isinstance(value, Mapping) or not isinstance(value.get("eval"), Mapping):
        return False
    return "task" in value["eval"] and isinstance(value.get("samples"), list)


def samples_in(log: Mapping[str, Any]) -> Iterator[tuple[int, Any]]:
    """Number and sample of a log for which `is_log` is true."""
    for number, sample in enumerate(log["samples"], start=1):
        yield number, _sample(sample, log["eval"])


def samples_of(path: Path) -> Iterator[tuple[int, Any]]:
    """Number and sample of a .eval file, or the ValueError of one that cannot be read.

    Raises UserError as `read_archive` does.
    """
    evaluation: Mapping[str, Any] = {}
    for number, value in read_archive(path):
        if not number:
            evaluation = value
        else:
            yield number, _sample(value, evaluation)


def _sample(value: Any, evaluation: Mapping[str, Any]) -> InspectSample | ValueError:
    if isinstance(value, ValueError):
        return value
    if not isinstance(value, Mapping):
        return ValueError("the sample is not a JSON object")
    return InspectSample(value, evaluation)


def read_sample(
    found: InspectSample, about: Mapping[str, Any], name: str, keys: Sequence[str] = ()
) -> Entry:
    """Take a sample apart.

    Args:
        found: The sample.
        about: What every exchange says of its place.
        name: The file's name; its date is the time of a sample without one.
        keys: Keys of the sample's metadata, the sample or the evaluation to keep.

    Returns:
        An exchange for each message that the model generated. Messages of the sample's input are
        history. `about` gets `id`, `epoch`, `task`, `model`, `time`, `roles` (role -> number of
        messages before the answer), `tool_calls` (those since the answer before, its own
        included) and `message` (the id of the answer's message).

    Raises:
        ShapeError: The model generated no text.
    """
    sample, evaluation = found.sample, found.evaluation
    messages = _messages(sample)
    facts = _facts(found, name, keys)
    try:
        entry = read_entry({"messages": messages}, {**about, **facts})
    except ShapeError as error:
        raise ShapeError(_reason(sample, str(error))) from None
    turns = [
        index for index, one in enumerate(messages) if one["role"] == "assistant" and has_text(one)
    ]
    exchanges: list[Exchange] = []
    start = 0
    for index, exchange in zip(turns, entry.exchanges, strict=True):
        if messages[index].get("source") == "input":
            continue
        model = messages[index].get("model") or evaluation.get("model")
        own = {
            "model": short(model) if model else None,
            "roles": dict(Counter(short(one["role"]) for one in messages[:index])),
            "tool_calls": _tool_calls(messages[start : index + 1]),
            "message": short(identity) if (identity := messages[index].get("id")) else None,
        }
        start = index + 1
        kept = {key: value for key, value in own.items() if value}
        exchanges.append(replace(exchange, about={**exchange.about, **kept}))
    if not exchanges:
        raise ShapeError(_reason(sample, "the model generated no text"))
    return Entry("sample", exchanges, entry.left_out - {"tool_calls"})


def _facts(found: InspectSample, name: str, keys: Sequence[str]) -> dict[str, Any]:
    sample, evaluation = found.sample, found.evaluation
    times = (sample.get("started_at"), sample.get("completed_at"), evaluation.get("created"))
    metadata: dict[str, Any] = {key: evaluation.get(key) for key in keys}
    for place in (evaluation.get("metadata"), sample, sample.get("metadata")):
        if isinstance(place, Mapping):
            metadata |= {key: place[key] for key in keys if place.get(key) is not None}
    asked = {"id": sample.get("id"), "time": next(filter(None, times), None), "metadata": metadata}
    facts = read_facts(asked, name, keys)
    own = {"epoch": sample.get("epoch"), "task": evaluation.get("task")}
    return facts | {key: short(value) for key, value in own.items() if value is not None}


def _reason(sample: Mapping[str, Any], otherwise: str) -> str:
    """Why a sample has no answer: its own error, if it has one."""
    error = sample.get("error")
    message = error.get("message") if isinstance(error, Mapping) else None
    return f"the sample failed: {short(message)}" if message else otherwise


def _messages(sample: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The messages, with the texts that are stored apart; raises ShapeError."""
    messages = sample.get("messages")
    if not isinstance(messages, list) or not all(_is_message(one) for one in messages):
        raise ShapeError("its messages are not a list of messages with a role")
    attachments = sample.get("attachments")
    if not isinstance(attachments, Mapping) or not attachments:
        return messages
    resolver = _Attachments(attachments)
    return [{**one, "content": resolver.content(one.get("content"))} for one in messages]


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str)


class _Attachments:
    """Puts texts that a log stores once where they belong."""

    def __init__(self, attachments: Mapping[str, Any]) -> None:
        self._attachments = attachments
        self._size = 0

    def content(self, content: Any) -> Any:
        if isinstance(content, str):
            return self._text(content)
        if not isinstance(content, list):
            return content
        return [
            {**one, "text": self._text(one["text"])}
            if isinstance(one, dict) and isinstance(one.get("text"), str)
            else one
            for one in content
        ]

    def _text(self, text: str) -> str:
        if not text.startswith(_ATTACHMENT):
            return text
        found = self._attachments.get(text.removeprefix(_ATTACHMENT))
        if not isinstance(found, str):
            return text
        # A small file may name a large text a million times.
        self._size += len(found)
        if self._size > LARGEST_SAMPLE:
            raise ShapeError("its attachments are too large")
        return found


def _tool_calls(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The calls in messages: function and arguments, as short texts."""
    found = []
    for message in messages:
        calls = message.get("tool_calls")
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, Mapping):
                arguments = short(call.get("arguments") or {})
                found.append({"function": short(call.get("function")), "arguments": arguments})
    return found
