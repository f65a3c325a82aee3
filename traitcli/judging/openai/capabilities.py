"""Remember how an endpoint wants to be asked, as its refusals and replies have taught."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from traitcli.judging.scales import Scale

Method = Literal["logprobs", "number", "text"]
"""How a score is had: from the first token's alternatives, from the whole number at temperature 0, from text."""

_ROOM: dict[Method, int] = {"logprobs": 1, "number": 8, "text": 16}
_ROOM_FOR_REASONS = 256
_ROOM_TO_THINK = 2048
_FEW_ALTERNATIVES = 5


@dataclass(frozen=True, slots=True)
class QueryMode:
    """How to ask: on which scale, and by which method its reply is read."""

    method: Method
    scale: Scale


@dataclass(frozen=True, slots=True)
class EndpointCapabilities:
    """What an endpoint and its model are known to take and to give.

    logprobs      it gives the log-probabilities of alternatives
    alternatives  how many of them it gives
    digitwise     the model writes 85 as '8', '5'
    limit         the parameter that limits the length of a reply
    temperature   it takes a temperature
    thinks        the model thinks before it replies, which needs room
    """

    logprobs: bool = True
    alternatives: int = 20
    digitwise: bool = False
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    temperature: bool = True
    thinks: bool = False

    def way(self, scale: Scale) -> QueryMode:
        """The best way to a score that is wanted on this scale.

        A number that is written digit by digit is not in its first token, so such a model is asked
        for one digit.
        """
        if scale == "binary_text" or self.thinks or not self.logprobs:
            return QueryMode("text", scale)
        return QueryMode("logprobs", "0_10" if self.digitwise and scale == "0_100" else scale)

    def room(self, way: QueryMode) -> int:
        """Tokens that the reply may have."""
        if way.method == "logprobs":
            return _ROOM[way.method]
        if self.thinks:
            return _ROOM_TO_THINK
        return _ROOM_FOR_REASONS if way.scale == "binary_text" else _ROOM[way.method]

    def after(self, complaint: str, method: Method) -> EndpointCapabilities | None:
        """The dialect that avoids a complaint about a request in this one, or none if it is about something else.

        `complaint` is all that the endpoint said, in lower case.
        """
        if "could not finish" in complaint and "limit" in complaint:
            return None if self.thinks else replace(self, thinks=True)
        if "top_logprobs" in complaint and self.alternatives > _FEW_ALTERNATIVES:
            return replace(self, alternatives=_FEW_ALTERNATIVES)
        if "logprobs" in complaint and method == "logprobs":
            return replace(self, logprobs=False)
        if "max_tokens" in complaint and self.limit == "max_tokens":
            return replace(self, limit="max_completion_tokens")
        if "temperature" in complaint and self.temperature:
            return replace(self, temperature=False)
        return None
