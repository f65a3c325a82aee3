"""Record what an endpoint and its model support, as learned from their refusals and replies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from traitcli.judging.scales import Scale

Method = Literal["logprobs", "number", "text"]
"""How a score is read.

logprobs  from the alternatives of the first token
number    from the whole number that the model writes at temperature 0
text      from what the reply says
"""

_MAX_TOKENS: dict[Method, int] = {"logprobs": 1, "number": 8, "text": 16}
_MAX_TOKENS_WITH_REASONS = 256
_MAX_TOKENS_WITH_THINKING = 2048
"""Thoughts count as tokens of the reply, and a score that is cut off costs as much."""
_FEWER_ALTERNATIVES = 5
"""Some endpoints accept no more than this."""


@dataclass(frozen=True, slots=True)
class QueryMode:
    """How to ask a question: on which scale, and by which method to read the reply."""

    method: Method
    scale: Scale


@dataclass(frozen=True, slots=True)
class EndpointCapabilities:
    """What an endpoint and its model support, as far as is known.

    logprobs         the endpoint returns log-probabilities of alternatives
    alternatives     how many alternatives it returns
    digit_by_digit   the model writes 85 as the tokens '8', '5'
    limit_parameter  the parameter that limits the length of a reply
    temperature      the endpoint accepts a temperature
    thinks           the model thinks before it replies, so the reply needs more tokens
    """

    logprobs: bool = True
    alternatives: int = 20
    digit_by_digit: bool = False
    limit_parameter: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    temperature: bool = True
    thinks: bool = False

    def query_mode(self, scale: Scale) -> QueryMode:
        """Return the best mode to get a score on this scale."""
        if scale == "binary_text" or self.thinks or not self.logprobs:
            return QueryMode("text", scale)
        # The first token of a number written digit by digit is not the number. A question that is
        # answered with one digit keeps log-probabilities usable.
        if self.digit_by_digit and scale == "0_100":
            return QueryMode("logprobs", "0_10")
        return QueryMode("logprobs", scale)

    def max_tokens(self, mode: QueryMode) -> int:
        """Return how many tokens the reply may have."""
        if mode.method == "logprobs":
            return _MAX_TOKENS[mode.method]
        if self.thinks:
            return _MAX_TOKENS_WITH_THINKING
        if mode.scale == "binary_text":
            return _MAX_TOKENS_WITH_REASONS
        return _MAX_TOKENS[mode.method]

    def adapt(self, complaint: str, method: Method) -> EndpointCapabilities | None:
        """Return the capabilities that avoid a complaint, or None if nothing here avoids it.

        `complaint` is the endpoint's whole message in lower case; `method` is how the refused
        request was to be read.
        """
        # "top_logprobs" comes before "logprobs", which is a part of it.
        if "could not finish" in complaint and "limit" in complaint:
            return None if self.thinks else replace(self, thinks=True)
        if "top_logprobs" in complaint and self.alternatives > _FEWER_ALTERNATIVES:
            return replace(self, alternatives=_FEWER_ALTERNATIVES)
        if "logprobs" in complaint and method == "logprobs":
            return replace(self, logprobs=False)
        if "max_tokens" in complaint and self.limit_parameter == "max_tokens":
            return replace(self, limit_parameter="max_completion_tokens")
        if "temperature" in complaint and self.temperature:
            return replace(self, temperature=False)
        return None
