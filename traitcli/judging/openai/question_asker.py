"""Ask one question until it has a score, and learn meanwhile what the endpoint supports."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from openai import APIStatusError

from traitcli.config import OpenAIConfig
from traitcli.errors import JudgeError
from traitcli.judging import prompts
from traitcli.judging.openai import failures
from traitcli.judging.openai.capabilities import EndpointCapabilities, QueryMode
from traitcli.judging.openai.client import BudgetSpentError, Client, Request
from traitcli.judging.openai.endpoint import Endpoint
from traitcli.judging.openai.replies import Reply
from traitcli.judging.openai.retry import GaveUpError, RetryBudget, Sleep
from traitcli.judging.questions import Question
from traitcli.judging.scales import (
    Reading,
    is_digit_by_digit,
    opens_with_preamble,
    opens_with_word,
    read_probabilities,
    read_text,
    to_percent,
)
from traitcli.records import Score, Usage

_FAILURES_UNTIL_GONE = 10
"""After this many failed questions in a row the endpoint counts as gone."""


class QuestionAsker:
    """Turns questions into requests and replies into scores, for the lifetime of a judge.

    `Score.method` says how a value was read:

    logprobs          expected value over the first token's alternatives
    logprobs on 0_10  the model writes numbers digit by digit, so the first token of a 0–100 score
                      would be a tenth of it; the judge asked for one digit instead
    number            the whole number that was written: it has one digit, or the trait's prompt
                      cannot ask for one digit
    text              the endpoint returns no log-probabilities: what the reply says, or the mean of
                      several replies
    """

    def __init__(self, config: OpenAIConfig, endpoint: Endpoint, sleep: Sleep) -> None:
        """`sleep` waits between the retries of a question."""
        self._config = config
        self._endpoint = endpoint
        self._sleep = sleep
        self._capabilities = EndpointCapabilities(logprobs=config.logprobs != "never")
        if config.thinking_room:
            room = config.thinking_room
            self._capabilities = replace(self._capabilities, thinks=True, thinking_room=room)
        self.notes: list[str] = []
        """What was learned about the endpoint, in words."""
        self._refusal: JudgeError | None = None
        self._failures_in_a_row = 0

    async def ask(self, client: Client, question: Question) -> tuple[Score, Usage]:
        """Return the score of a question, and what it cost.

        A score read from text is one draw of several, so it is asked for as often as configured.
        """
        score, usage = await self._ask_once(client, question, 0)
        if self._config.samples == 1 or self._query_mode(question).method != "text":
            return score, usage

        further = range(1, self._config.samples)
        more = await asyncio.gather(
            *(self._ask_once(client, question, sample) for sample in further)
        )
        scores = [score, *(other for other, _ in more)]
        values = [each.value for each in scores if each.value is not None]
        if values:
            score = Score(sum(values) / len(values), method=f"text, mean of {len(values)}")
        return score, sum((other for _, other in more), usage)

    async def _ask_once(
        self, client: Client, question: Question, sample: int
    ) -> tuple[Score, Usage]:
        retries = RetryBudget(self._sleep)
        mode = self._query_mode(question)
        try:
            while True:
                outcome = await self._exchange(client, question, mode, sample, retries)
                if isinstance(outcome, Score):
                    self._failures_in_a_row = 0
                    return outcome, retries.usage
                mode = outcome
        except BudgetSpentError as end:
            end.usage = retries.usage
            raise
        except GaveUpError as end:
            self._failures_in_a_row += 1
            self._check_endpoint_is_alive(client, end)
            return Score(None, str(end)), retries.usage

    async def _exchange(
        self, client: Client, question: Question, mode: QueryMode, sample: int, retries: RetryBudget
    ) -> Score | QueryMode:
        """Get one reply. Return the score that it gives, or the mode in which to ask again."""
        # A question of another trait may have been refused for good.
        if self._refusal:
            raise self._refusal
        capabilities = self._capabilities
        request = Request(self._body(question, mode, capabilities), sample)
        try:
            reply = await client.ask(request, retries)
        except APIStatusError as error:
            return self._on_refusal(error, capabilities, question, mode)
        if reply.finish == "content_filter":
            return Score(None, "the judge's reply was filtered")
        if mode.method == "logprobs":
            return self._read_alternatives(question, mode, reply)
        return self._read_text(question, mode, reply)

    def _query_mode(self, question: Question) -> QueryMode:
        """Return the best mode to ask a question in."""
        mode = self._capabilities.query_mode(question.scale)
        if question.can_ask_on(mode.scale):
            return mode
        # The judge prompt cannot ask for one digit, so the reply's whole number is read.
        return QueryMode("number", question.scale)

    def _body(
        self, question: Question, mode: QueryMode, capabilities: EndpointCapabilities
    ) -> dict[str, Any]:
        # The reply cache hashes this body: another value means that users pay again.
        body: dict[str, Any] = {
            "model": self._config.model,
            "messages": [{"role": "user", "content": question.prompt(mode.scale)}],
            capabilities.limit_parameter: capabilities.max_tokens(mode),
        }
        if capabilities.temperature:
            is_sampled = mode.method == "text" and self._config.samples > 1
            body["temperature"] = 1 if is_sampled else 0
        if mode.method == "logprobs":
            body |= {"logprobs": True, "top_logprobs": capabilities.alternatives}
        return body

    def _on_refusal(
        self,
        error: APIStatusError,
        asked_with: EndpointCapabilities,
        question: Question,
        mode: QueryMode,
    ) -> Score | QueryMode:
        """Learn from a refusal. Return the mode in which to ask again, or a missing score.

        Raises JudgeError if no other parameters can help. `asked_with` are the capabilities that
        the request was made with.
        """
        quote = failures.quote(error, self._endpoint.key)
        if failures.is_about_one_answer(error):
            return Score(None, f"the judge does not read this answer: {quote}")
        complaint = failures.complaint(error)
        learned = asked_with.adapt(complaint, mode.method)
        if not failures.is_about_parameters(error) or learned is None:
            self._refusal = failures.final_refusal(
                error, model=self._config.model, host=self._endpoint.host, secret=self._endpoint.key
            )
            raise self._refusal

        # Another question may have learned the same, or something else, in the meantime.
        self._learn(self._capabilities.adapt(complaint, mode.method) or self._capabilities)
        if mode.method != "logprobs":
            return mode
        next_mode = self._query_mode(question)
        if next_mode.method != "logprobs":
            self._check_logprobs_optional(quote)
        return next_mode

    def _read_alternatives(
        self, question: Question, mode: QueryMode, reply: Reply
    ) -> Score | QueryMode:
        if not reply.alternatives:
            if not reply.text and reply.finish != "length":
                return Score(None, "the judge's reply is empty")
            self._check_logprobs_optional("the reply holds none")
            self._learn(replace(self._capabilities, logprobs=False))
            return QueryMode("text", mode.scale)

        reading = read_probabilities(mode.scale, reply.alternatives)
        has_value = reading.value is not None
        # One digit may be the score or the first digit of it. The whole number tells which.
        if has_value and mode.scale == "0_100" and is_digit_by_digit(reply.alternatives):
            return QueryMode("number", mode.scale)
        is_too_early = not reply.text or opens_with_preamble(reply.alternatives)
        if not has_value and self._config.logprobs == "auto":
            if is_too_early:
                return QueryMode("text", mode.scale)
            # Not one number among them: a refusal, or thoughts without their mark. Once, a long
            # reply tells which.
            if self._may_be_thoughts and opens_with_word(reply.alternatives):
                return QueryMode("text", mode.scale, roomy=True)
        return _to_score(question, mode, reading)

    @property
    def _may_be_thoughts(self) -> bool:
        return not (self._capabilities.thinks or self._capabilities.writes_prose)

    def _learn(self, capabilities: EndpointCapabilities) -> None:
        """Keep what an endpoint has shown, and note it once."""
        note = capabilities.describe_change(self._capabilities)
        self._capabilities = capabilities
        if note:
            self.notes.append(f"the judge at {self._endpoint.host}: {note}")

    def _look_for_thoughts(
        self, mode: QueryMode, reply: Reply, text: str
    ) -> Score | QueryMode | None:
        """Learn whether the model thinks first. Return the mode in which to ask with more room.

        `text` is the reply without its thoughts. None if it can be read as it is.
        """
        is_cut, thinks = reply.finish == "length", self._capabilities.thinks
        if not text and is_cut and not thinks:
            self._learn(replace(self._capabilities, thinks=True))
            return QueryMode("text", mode.scale)
        if mode.roomy:
            # Thoughts have a mark, or take all the room there is.
            thinks = is_cut or text != reply.text.strip()
            found = replace(self._capabilities, thinks=thinks, writes_prose=not thinks)
            self._learn(found)
        if not is_cut or text[-1:].isdigit():
            return None
        if thinks:
            room = self._capabilities.thinking_room
            more = self._capabilities.with_more_room()
            if more is None:
                return Score(None, f"the judge was still thinking after {room} tokens")
            self._learn(more)
            return QueryMode("text", mode.scale)
        has_number = read_text(mode.scale, text).value is not None
        if has_number or not self._may_be_thoughts or mode.scale == "binary_text":
            return None
        return QueryMode("text", mode.scale, roomy=True)

    def _read_text(self, question: Question, mode: QueryMode, reply: Reply) -> Score | QueryMode:
        text = prompts.strip_thoughts(reply.text).strip()
        again = self._look_for_thoughts(mode, reply, text)
        if again is not None:
            return again
        # Cut after '8', the number may have been 85.
        if reply.finish == "length" and text[-1:].isdigit():
            return Score(None, "the judge's reply was cut off within a number")

        reading = read_text(mode.scale, text)
        if mode.method == "number" and reading.value is not None and reading.value >= 10:
            # The first token was one digit and the whole number has more: no doubt is left.
            self._learn(replace(self._capabilities, digit_by_digit=True))
            better = self._query_mode(question)
            if better.method == "logprobs":
                return better
        return _to_score(question, mode, reading)

    def _check_logprobs_optional(self, cause: str) -> None:
        """Raise JudgeError if the config requires log-probabilities."""
        if self._config.logprobs == "required":
            raise JudgeError(
                f"the judge at {self._endpoint.host} gives no log-probabilities to score by",
                cause=cause,
                fix="set judge.openai.logprobs to auto, or choose another model",
            )

    def _check_endpoint_is_alive(self, client: Client, end: GaveUpError) -> None:
        """Raise JudgeError if the endpoint was never reached, or too many questions failed."""
        host, cause = self._endpoint.host, str(end)
        if not client.reached:
            raise JudgeError(
                f"cannot reach the judge at {host}",
                cause=cause,
                fix="start the server, or correct judge.openai.base_url",
            )
        if self._failures_in_a_row >= _FAILURES_UNTIL_GONE and end.answered:
            raise JudgeError(
                f"the judge at {host} answers, but its replies cannot be read",
                cause=f"{_FAILURES_UNTIL_GONE} questions in a row: {cause}",
                fix="correct judge.openai.base_url (which usually ends in /v1), or use another "
                "endpoint: it must reply with chat completions",
            )
        if self._failures_in_a_row >= _FAILURES_UNTIL_GONE:
            raise JudgeError(
                f"the judge at {host} has stopped answering",
                cause=f"{_FAILURES_UNTIL_GONE} questions in a row: {cause}",
                fix="run the same command again when it is back: finished judgements are kept",
            )


def _to_score(question: Question, mode: QueryMode, reading: Reading) -> Score:
    if reading.value is None:
        return Score(None, reading.reason)
    is_asked_scale = mode.scale == question.scale
    method = mode.method if is_asked_scale else f"{mode.method} on {mode.scale}"
    return Score(to_percent(mode.scale, reading.value), method=method)
