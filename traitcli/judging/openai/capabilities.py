"""Record what an endpoint and its model support, as learned from their refusals and replies."""

from __future__ import annotations

import re
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
THINKING_ROOM, MOST_THINKING = 2048, 16384
"""Tokens for thoughts, which count as tokens of the reply: at first, and when it was doubled."""
_FEWER_ALTERNATIVES = (5, 1)
"""Some endpoints accept no more than these, and do not say so."""
_MOST = re.compile(
    r"(?:max(?:imum)?(?: allowed)?(?: value)?(?: is| of)?|less than or equal to|at most|<=|≤|"
    r"between \d+ and|up to|exceeds?(?: the)?(?: limit)?(?: of)?|no more than|\[\d+, ?)"
    r"[\s:]*(\d{1,3})\b"
)
_LEAST = re.compile(
    r"(?:>=|≥|at least|minimum(?: value)?(?: is| of)?|greater than or equal to|no less than)"
    r"[\s:]*(\d{1,4})\b"
)
_UNSUPPORTED = re.compile(
    r"not (?:supported|permitted|allowed|available|enabled)|unsupported|unknown|unrecognized|"
    r"extra_forbidden|does not support|isn't supported|disabled"
)
_LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "max_new_tokens")


@dataclass(frozen=True, slots=True)
class QueryMode:
    """How to ask a question: on which scale, and by which method to read the reply.

    roomy  the reply may be long: the first token looks like the beginning of thoughts
    """

    method: Method
    scale: Scale
    roomy: bool = False


@dataclass(frozen=True, slots=True)
class EndpointCapabilities:
    """What an endpoint and its model support, as far as is known.

    logprobs         the endpoint returns log-probabilities of alternatives
    alternatives     how many alternatives it returns
    digit_by_digit   the model writes 85 as the tokens '8', '5'
    limit_parameter  the parameter that limits the length of a reply
    temperature      the endpoint accepts a temperature
    thinks           the model thinks before it replies, so the reply needs more tokens
    thinking_room    tokens that a reply with thoughts may have
    min_tokens       the smallest limit of a reply's length that the endpoint accepts
    writes_prose     a reply without a number was seen to end: it was a refusal, not thoughts
    """

    logprobs: bool = True
    alternatives: int = 20
    digit_by_digit: bool = False
    limit_parameter: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    temperature: bool = True
    thinks: bool = False
    thinking_room: int = THINKING_ROOM
    min_tokens: int = 1
    writes_prose: bool = False

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
        if mode.roomy or (self.thinks and mode.method != "logprobs"):
            return self.thinking_room
        if mode.scale == "binary_text" and mode.method != "logprobs":
            return _MAX_TOKENS_WITH_REASONS
        return max(self.min_tokens, _MAX_TOKENS[mode.method])

    def with_more_room(self) -> EndpointCapabilities | None:
        """The same with twice the room for thoughts; None if it has the most already."""
        if self.thinking_room >= MOST_THINKING:
            return None
        return replace(self, thinking_room=2 * self.thinking_room)

    def adapt(self, complaint: str, method: Method) -> EndpointCapabilities | None:
        """Return the capabilities that avoid a complaint, or None if nothing here avoids it.

        `complaint` is the endpoint's whole message in lower case; `method` is how the refused
        request was to be read.
        """
        if "could not finish" in complaint and "limit" in complaint:
            return None if self.thinks else replace(self, thinks=True)
        # Before log-probabilities: a complaint about a length names no log-probabilities.
        least = _LEAST.search(complaint) if any(name in complaint for name in _LENGTHS) else None
        if least and int(least[1]) > self.min_tokens:
            return replace(self, min_tokens=int(least[1]))
        if "logprobs" in complaint and method == "logprobs":
            return self._with_fewer_alternatives(complaint)
        if "max_tokens" in complaint and self.limit_parameter == "max_tokens":
            return replace(self, limit_parameter="max_completion_tokens")
        if "temperature" in complaint and self.temperature:
            return replace(self, temperature=False)
        return None

    def _with_fewer_alternatives(self, complaint: str) -> EndpointCapabilities:
        """As many alternatives as the complaint allows, else fewer and fewer, else none."""
        most = _MOST.search(complaint)
        if most and 1 <= int(most[1]) < self.alternatives:
            return replace(self, alternatives=int(most[1]))
        is_off = _UNSUPPORTED.search(complaint)
        if not is_off and ("top_logprobs" in complaint or "number of" in complaint):
            for fewer in _FEWER_ALTERNATIVES:
                if fewer < self.alternatives:
                    return replace(self, alternatives=fewer)
        return replace(self, logprobs=False)

    def describe_change(self, before: EndpointCapabilities) -> str:
        """What was learned since `before`, in words; empty for nothing that a user should know."""
        thinks = self.thinks and (self.thinks, self.thinking_room) != (
            before.thinks,
            before.thinking_room,
        )
        changes = {
            "it gives no log-probabilities, so scores are read from the text": (
                before.logprobs and not self.logprobs
            ),
            f"it gives at most {self.alternatives} log-probabilities": (
                self.alternatives != before.alternatives
            ),
            f"its replies must be allowed at least {self.min_tokens} tokens": (
                self.min_tokens != before.min_tokens
            ),
            f"its model thinks first: a reply may have {self.thinking_room} tokens": thinks,
            f"it wants {self.limit_parameter}": self.limit_parameter != before.limit_parameter,
            "it accepts no temperature": before.temperature and not self.temperature,
        }
        return next((words for words, is_new in changes.items() if is_new), "")
