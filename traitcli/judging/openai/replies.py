"""Read the body of a chat completion: lenient for what a score does not need."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from traitcli.files import explain_unreadable, parse_json


class UnreadableReplyError(Exception):
    """The body is incomplete, is not JSON, or is not a chat completion."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model replied. The reply cache stores these fields by name.

    finish             why the reply ended: stop, length, content_filter, …
    alternatives       token text -> probability, for the first token; empty if not returned
    prompt_tokens      as the endpoint counts them; 0 if it does not
    completion_tokens  the same
    """

    text: str
    finish: str
    alternatives: Mapping[str, float]
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def has_content(self) -> bool:
        """False for a filtered or empty reply; the next reply to the same request may differ."""
        return self.finish != "content_filter" and bool(self.text or self.alternatives)


def read_reply(body: bytes) -> Reply:
    """Return the first choice of a chat completion.

    What a score does not need may have any shape. Raises UnreadableReplyError if the text or the
    probabilities cannot be read.
    """
    completion = _parse(body)
    choices = completion.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise UnreadableReplyError("the reply has no choices")
    choice = choices[0]
    message = choice.get("message")
    if not isinstance(message, Mapping):
        # Old completions have the text in the choice.
        message = {"content": choice.get("text")}
    usage = completion.get("usage")
    counts = usage if isinstance(usage, Mapping) else {}
    return Reply(
        # The text of a refusal becomes the reason why there is no score.
        text=_text(message.get("content")) or _text(message.get("refusal")),
        finish=str(choice.get("finish_reason") or ""),
        alternatives=_probabilities(_first_alternatives(choice.get("logprobs"))),
        prompt_tokens=_count(counts.get("prompt_tokens")),
        completion_tokens=_count(counts.get("completion_tokens")),
    )


@dataclass(frozen=True, slots=True)
class BodyError:
    """An error that came with the status 200.

    status   the status that it stands for
    body     the error as the endpoint wrote it
    headers  headers of the provider behind the endpoint, such as when to try again
    """

    status: int
    body: Mapping[str, Any]
    headers: Mapping[str, str]


def find_error(body: bytes) -> BodyError | None:
    """The error in a body, if it holds one in place of a choice."""
    try:
        found = _parse(body)
    except UnreadableReplyError:
        return None
    error: Any = found.get("error")
    choices = found.get("choices")
    if not error and isinstance(choices, list) and choices and isinstance(choices[0], Mapping):
        error = choices[0].get("error")
    if not error:
        return None
    if not isinstance(error, Mapping):
        error = {"message": str(error)}
    metadata = error.get("metadata")
    headers = metadata.get("headers") if isinstance(metadata, Mapping) else None
    named = headers.items() if isinstance(headers, Mapping) else ()
    return BodyError(_status(error), error, {str(name): str(value) for name, value in named})


_STATUS_WORDS = {
    "rate": 429, "quota": 429, "overload": 503, "unavailable": 503, "timeout": 504,
    "authentic": 401, "permission": 403, "not_found": 404, "invalid": 400,
}  # fmt: skip


def _status(error: Mapping[str, Any]) -> int:
    """The HTTP status that an error names as a number or in words; 502 if it does not say."""
    for key in ("code", "status", "status_code"):
        value = error.get(key)
        if str(value).isdecimal() and 400 <= int(str(value)) < 600:
            return int(str(value))
    words = f"{error.get('code')} {error.get('type')} {error.get('status')}".lower()
    # A failure of whoever stands behind the endpoint may pass.
    return next((status for word, status in _STATUS_WORDS.items() if word in words), 502)


def _parse(body: bytes) -> Mapping[str, Any]:
    try:
        found = parse_json(body)
    except ValueError as error:
        start = body[:200].decode("utf-8", "replace").lstrip()
        if start.startswith("<"):
            raise UnreadableReplyError("the reply is a web page, not a chat completion") from None
        problem = explain_unreadable(error, is_line=True)
        raise UnreadableReplyError(f"the reply is not a chat completion: {problem}") from None
    if isinstance(found, list) and len(found) == 1:
        [found] = found
    if not isinstance(found, Mapping):
        raise UnreadableReplyError("the reply is not a chat completion: it is not an object")
    return found


def _text(content: Any) -> str:
    """A text, or the text parts of a list; thoughts are no part of a reply."""
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, Mapping)]
        return "".join(_text(p.get("text")) for p in parts if p.get("type", "text") == "text")
    if content is not None and not isinstance(content, str):
        raise UnreadableReplyError("the text of the reply is not a string")
    return content or ""


def _count(value: Any) -> int:
    """A number of tokens; 0 for anything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return round(value) if is_number and math.isfinite(value) and value >= 0 else 0


def _first_alternatives(logprobs: Any) -> list[tuple[Any, Any]]:
    """(token, log-probability) of the first position, in one of the two common forms."""
    if not isinstance(logprobs, Mapping):
        return []
    positions = logprobs.get("content")
    if isinstance(positions, list) and positions and isinstance(positions[0], Mapping):
        listed = positions[0].get("top_logprobs")
        if isinstance(listed, list):
            found = [one for one in listed if isinstance(one, Mapping)]
            return [(one.get("token"), one.get("logprob")) for one in found]
    # Completions, and the chats of some servers: a mapping for each position.
    positions = logprobs.get("top_logprobs")
    if isinstance(positions, list) and positions and isinstance(positions[0], Mapping):
        return list(positions[0].items())
    return []


def _probabilities(alternatives: Sequence[tuple[Any, Any]]) -> dict[str, float]:
    """Return token text -> probability. Tokens with the same text (parts of a character) add up."""
    probabilities: dict[str, float] = defaultdict(float)
    for token, logprob in alternatives:
        is_number = isinstance(logprob, int | float) and not isinstance(logprob, bool)
        if not isinstance(token, str) or not (is_number or logprob is None):
            raise UnreadableReplyError("the log-probabilities of the reply cannot be read")
        # JSON has no −inf, so servers write null. NaN would spread into every score, and a value
        # above 0 is no log-probability.
        if logprob is not None and not math.isnan(logprob):
            probabilities[token] += math.exp(min(0.0, logprob))
    return dict(probabilities)
