"""Remember how an endpoint wants to be asked, as its refusals and replies have taught."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from traitcli.judging.scales import Scale

Method = Literal["logprobs", "digits", "text"]
"""How a score is had: from the first token's alternatives, from a number written digit by digit, from text."""

_ROOM: dict[Method, int] = {"logprobs": 1, "digits": 8, "text": 16}
_ROOM_FOR_REASONS = 256
_ROOM_TO_THINK = 2048


@dataclass(frozen=True, slots=True)
class Dialect:
    """What an endpoint and its model are known to take and to give.

    logprobs     it gives the log-probabilities of alternatives
    digitwise    the model writes 85 as '8', '5'
    limit        the parameter that limits the length of a reply
    temperature  it takes temperature 0
    thinks       the model thinks before it replies, which needs room
    """

    logprobs: bool = True
    digitwise: bool = False
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    temperature: bool = True
    thinks: bool = False

    def method(self, scale: Scale) -> Method:
        """The best way to a score on this scale."""
        if scale == "binary_text" or self.thinks or not self.logprobs:
            return "text"
        return "digits" if self.digitwise and scale == "0_100" else "logprobs"

    def room(self, scale: Scale, method: Method) -> int:
        """Tokens that the reply may have."""
        if method == "logprobs":
            return _ROOM[method]
        if self.thinks:
            return _ROOM_TO_THINK
        return _ROOM_FOR_REASONS if scale == "binary_text" else _ROOM[method]

    def after(self, complaint: str, method: Method) -> Dialect | None:
        """The dialect that avoids a complaint about a request in this one, or none if it is about something else.

        `complaint` is all that the endpoint said, in lower case.
        """
        if "could not finish" in complaint and "limit" in complaint:
            return None if self.thinks else replace(self, thinks=True)
        if "logprobs" in complaint and method == "logprobs":
            return replace(self, logprobs=False)
        if "max_tokens" in complaint and self.limit == "max_tokens":
            return replace(self, limit="max_completion_tokens")
        if "temperature" in complaint and self.temperature:
            return replace(self, temperature=False)
        return None
