"""Read the body of a chat completion without trusting its shape."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import BaseModel, NonNegativeInt, ValidationError


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
    """Return the first choice of a chat completion. Raises UnreadableReplyError."""
    try:
        completion = _Completion.model_validate_json(body)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        path = ".".join(str(part) for part in fault["loc"])
        raise UnreadableReplyError(
            f"the reply is not a chat completion: {path} {fault['msg']}"
        ) from None

    if not completion.choices:
        raise UnreadableReplyError("the reply has no choices")
    choice = completion.choices[0]

    positions = choice.logprobs.content if choice.logprobs else None
    first = positions[0].top_logprobs if positions else None

    usage = completion.usage or _Usage()
    return Reply(
        # The text of a refusal becomes the reason why there is no score.
        text=choice.message.content or choice.message.refusal or "",
        finish=choice.finish_reason or "",
        alternatives=_probabilities(first or ()),
        prompt_tokens=usage.prompt_tokens or 0,
        completion_tokens=usage.completion_tokens or 0,
    )


class _Alternative(BaseModel):
    token: str
    logprob: float


class _Position(BaseModel):
    top_logprobs: list[_Alternative] | None = None


class _Logprobs(BaseModel):
    content: list[_Position] | None = None


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Usage(BaseModel):
    prompt_tokens: NonNegativeInt | None = None
    completion_tokens: NonNegativeInt | None = None


class _Completion(BaseModel):
    choices: list[_Choice]
    usage: _Usage | None = None


def _probabilities(alternatives: Sequence[_Alternative]) -> dict[str, float]:
    """Return token text -> probability. Tokens with the same text (parts of a character) add up."""
    probabilities: dict[str, float] = defaultdict(float)
    for alternative in alternatives:
        # A NaN would spread into every score, and a value above 0 is no log-probability.
        if not math.isnan(alternative.logprob):
            probabilities[alternative.token] += math.exp(min(0.0, alternative.logprob))
    return dict(probabilities)
