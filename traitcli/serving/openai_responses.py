"""Answers as JSON in OpenAI's form, with scores under `traitcli` in each choice."""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from traitcli.monitoring.summaries import Summary
from traitcli.record_json import DECIMALS

if TYPE_CHECKING:
    from traitcli.generation.live_request import LogProbs
    from traitcli.records import TokenScores
    from traitcli.serving.openai_requests import ApiRequest
    from traitcli.serving.served import ServedEnd, ServedReason, ServedToken

TokenBytes = Callable[[int], bytes]
"""The bytes that a token stands for; part of a character is possible."""

DONE = b"data: [DONE]\n\n"
"""The end of a stream."""

_LOWEST = -9999.0
"""What OpenAI writes for the logarithm of 0: JSON has no infinity."""
_FINISH_REASONS: Mapping[ServedReason, str] = {
    "stop": "stop",
    "length": "length",
    "alarm": "content_filter",
    # OpenAI has no word for it; `ended` in `traitcli` says it.
    "time": "length",
}
_ROLLING = Summary("rolling")


def to_bytes(data: Mapping[str, Any]) -> bytes:
    """JSON in ASCII: some clients split a stream at characters that Unicode calls line ends."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).encode("ascii")


def to_event(data: Mapping[str, Any]) -> bytes:
    """An event of a stream."""
    return b"data: " + to_bytes(data) + b"\n\n"


@dataclass(frozen=True, slots=True)
class Responses:
    """Writes the answers to one HTTP request.

    request  what was asked
    model    the name of the model
    bytes_of token -> its bytes, for log-probabilities
    """

    request: ApiRequest
    model: str
    bytes_of: TokenBytes
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def chunk(self, index: int, token: ServedToken) -> dict[str, Any]:
        """The chunk of a token of choice `index`.

        A token that is part of a character has the text "": the character comes with its last
        token.
        """
        choice = self._delta(index, token.text, is_first=token.index == 0)
        if token.log_probs is not None:
            choice["logprobs"] = self._log_probs([token])
        choice["finish_reason"] = None
        if self.request.has_tokens:
            choice["traitcli"] = {"index": token.index, **_scores(token)}
        return self._head(is_chunk=True) | {"choices": [choice]}

    def last_chunk(self, index: int, end: ServedEnd) -> dict[str, Any]:
        """The chunk that ends choice `index`."""
        is_first = not end.record.tokens
        choice = self._delta(index, end.text, is_first=is_first)
        if self.request.is_chat and not (end.text or is_first):
            choice["delta"] = {}
        choice["finish_reason"] = _FINISH_REASONS[end.reason]
        choice["traitcli"] = summary(end)
        return self._head(is_chunk=True) | {"choices": [choice]}

    def usage_chunk(self, prompt_tokens: int, ends: Sequence[ServedEnd]) -> dict[str, Any]:
        """The last chunk of a stream that includes the usage."""
        return self._head(is_chunk=True) | {"choices": [], "usage": usage(prompt_tokens, ends)}

    def body(
        self,
        prompt_tokens: int,
        answers: Sequence[tuple[Sequence[ServedToken], ServedEnd]],
    ) -> dict[str, Any]:
        """The whole response that is not a stream; `answers` are the choices in order."""
        choices = [self._choice(index, *answer) for index, answer in enumerate(answers)]
        ends = [end for _, end in answers]
        return self._head(is_chunk=False) | {
            "choices": choices,
            "usage": usage(prompt_tokens, ends),
        }

    def _head(self, *, is_chunk: bool) -> dict[str, Any]:
        if self.request.is_chat:
            kind = "chat.completion.chunk" if is_chunk else "chat.completion"
            name = f"chatcmpl-{self.id}"
        else:
            kind, name = "text_completion", f"cmpl-{self.id}"
        return {"id": name, "object": kind, "created": self.created, "model": self.model}

    def _delta(self, index: int, text: str, *, is_first: bool) -> dict[str, Any]:
        if not self.request.is_chat:
            return {"index": index, "text": text}
        delta = {"role": "assistant", "content": text} if is_first else {"content": text}
        return {"index": index, "delta": delta}

    def _choice(self, index: int, tokens: Sequence[ServedToken], end: ServedEnd) -> dict[str, Any]:
        text = "".join(token.text for token in tokens) + end.text
        choice: dict[str, Any] = {"index": index}
        if self.request.is_chat:
            choice["message"] = {"role": "assistant", "content": text}
        else:
            choice["text"] = text
        if self.request.answers[index].log_probs is not None:
            choice["logprobs"] = self._log_probs(tokens)
        choice["finish_reason"] = _FINISH_REASONS[end.reason]
        choice["traitcli"] = summary(end)
        if self.request.has_tokens:
            texts = [token.text for token in tokens]
            if texts:
                texts[-1] += end.text
            choice["traitcli"]["tokens"] = [
                {"index": token.index, "token": own, **_scores(token)}
                for token, own in zip(tokens, texts, strict=True)
            ]
        return choice

    # Log-probabilities

    def _log_probs(self, tokens: Sequence[ServedToken]) -> dict[str, Any]:
        found = [(token, token.log_probs) for token in tokens if token.log_probs is not None]
        if self.request.is_chat:
            return {"content": [self._entry(token, probs) for token, probs in found]}
        return self._legacy(found)

    def _entry(self, token: ServedToken, probs: LogProbs) -> dict[str, Any]:
        likeliest = [self._log_prob(*pair) for pair in probs.likeliest]
        return self._log_prob(token.token, probs.token) | {"top_logprobs": likeliest}

    def _log_prob(self, token: int, value: float) -> dict[str, Any]:
        data = self.bytes_of(token)
        return {"token": _name(data), "logprob": max(value, _LOWEST), "bytes": list(data)}

    def _legacy(self, found: Sequence[tuple[ServedToken, LogProbs]]) -> dict[str, Any]:
        """The form of /v1/completions: columns, and the likeliest as a mapping."""
        return {
            "tokens": [_name(self.bytes_of(token.token)) for token, _ in found],
            "token_logprobs": [max(probs.token, _LOWEST) for _, probs in found],
            "top_logprobs": [
                {_name(self.bytes_of(one)): max(value, _LOWEST) for one, value in probs.likeliest}
                for _, probs in found
            ],
        }


def _name(data: bytes) -> str:
    r"""The text of a token; OpenAI writes part of a character as bytes:\xe4\xbd."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


# Scores


def summary(end: ServedEnd) -> dict[str, Any]:
    """What is known of an answer at its end: `mean`, `max_rolling`, `alarms`, `record`."""
    record = end.record
    found: dict[str, Any] = {
        "mean": dict(_numbers((trait, record.mean(trait)) for trait in record.raw)),
        "max_rolling": dict(_numbers((trait, _highest(record, trait)) for trait in record.raw)),
        "alarms": [
            asdict(crossing) | {"score": round(crossing.score, DECIMALS)}
            for crossing in record.crossings
        ],
        "record": end.record_id,
    }
    return found | {"ended": "time"} if end.reason == "time" else found


def usage(prompt_tokens: int, ends: Sequence[ServedEnd]) -> dict[str, int]:
    """How many tokens were read and written."""
    written = sum(len(end.record.tokens) for end in ends)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": written,
        "total_tokens": prompt_tokens + written,
    }


def _scores(token: ServedToken) -> dict[str, Any]:
    """The scores of a token as `monitor` shows them: calibrated if the vector has a scale."""
    shown = {**token.raw, **token.calibrated}
    found: dict[str, Any] = {"scores": dict(_numbers(shown.items()))}
    if not token.counts:
        found["counted"] = False
    if token.braked:
        found["braked"] = list(token.braked)
    return found


def _highest(record: TokenScores, trait: str) -> float:
    shown = record.shown(trait)
    return _ROLLING(shown[index] for index in record.counted(trait))


def _numbers(
    scores: Iterator[tuple[str, float | None]] | Any,
) -> Iterator[tuple[str, float]]:
    """Scores, rounded as in records; one that is not finite is left out: JSON has no NaN."""
    for trait, score in scores:
        if score is not None and math.isfinite(score):
            yield trait, round(score, DECIMALS)
