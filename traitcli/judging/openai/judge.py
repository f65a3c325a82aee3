"""Judge with a model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any

from openai import APIStatusError

from traitcli.config import OpenAIConfig
from traitcli.errors import ConfigError, JudgeError
from traitcli.judging import prompts
from traitcli.judging.backend import Answer, OnJudged, judge_id
from traitcli.judging.budget import Budget, find_price
from traitcli.judging.openai import failures
from traitcli.judging.openai.capabilities import EndpointCapabilities, QueryMode
from traitcli.judging.openai.client import BudgetSpentError, Client, Request
from traitcli.judging.openai.endpoint import check_key, find_endpoint, identify
from traitcli.judging.openai.event_loop import LoopThread
from traitcli.judging.openai.replies import Reply
from traitcli.judging.openai.retry import GaveUpError, RetryBudget, Sleep
from traitcli.judging.questions import Question, Questionnaire
from traitcli.judging.scales import (
    Reading,
    is_digitwise,
    opens_with_preamble,
    read_probabilities,
    read_text,
    to_percent,
)
from traitcli.records import Judgement, Score, Trait, Usage

_ALONE = 5.0
"""Seconds that the first question is asked alone, at most."""
_GRACE = 5.0
"""Seconds for what was under way to be dropped in order."""
_LOST_FOR_GOOD = 10
"""So many questions in a row that spent all their requests mean that the endpoint is gone."""


class OpenAIJudge:
    """Asks for a number and takes its expected value over the first token's probabilities.

    The trait is scored on the configured scale and coherence on 0–100; whatever the scale, a `Score`
    is 0–100 (see `scales`). What an endpoint cannot do is learned from its first replies and kept for
    the judge's lifetime, so the very first question is asked alone. `Score.method` says how a value
    was had:

    logprobs          expected value over the first token's alternatives
    logprobs on 0_10  the model writes numbers digit by digit, so the first token of a score would be a
                      tenth of it: one digit was asked for instead, and its expected value taken
    number            such a model may be at work, and the whole number it wrote has one digit only
    text              the endpoint gives no log-probabilities: what the reply says, or the mean of several
    """

    prompted = True
    overlaps = True

    def __init__(
        self, config: OpenAIConfig, budget: Budget | None = None, *, sleep: Sleep = asyncio.sleep
    ) -> None:
        """Raises ConfigError when the address is none."""
        self._config = config
        self._budget = budget
        self._sleep = sleep
        self._endpoint = find_endpoint(config)
        self._dialect = EndpointCapabilities(logprobs=config.logprobs != "never")
        self._threads = LoopThread()
        self._client: Client | None = None
        self._opening: asyncio.Event | None = None
        self._refusal: JudgeError | None = None
        self._lost_in_a_row = 0
        self.identity = identify(config, self._endpoint)

    def check(self) -> None:
        """Raise ConfigError when the key is missing or none, or a budget is set and the price not known."""
        check_key(self._endpoint)
        if self._config.max_cost and find_price(self._config) is None:
            raise ConfigError(
                f"there is a budget, and no price of {self._config.model} is known",
                cause="judge.openai.max_cost cannot be kept without one",
                fix="set judge.openai.price_in and price_out, or add the model to a file in configs/prices/",
            )

    def score(self, trait: Trait, answers: Iterable[Answer], on_judged: OnJudged) -> None:
        """Judge every answer; see `Judge.score`.

        A question whose five requests all failed, and an answer that the endpoint will not read, give a
        score of none with a reason. Raises JudgeError when the endpoint refuses for good, was never
        reached or is gone, having dropped what was under way, and when the budget does not allow
        another request, having waited for it.
        """
        self.check()
        sheet = Questionnaire(
            trait, judge_id(self, trait), self._config.scale, self._config.coherence
        )
        inbox: SimpleQueue[Judgement | None] = SimpleQueue()
        dropped = threading.Event()
        work = self._threads.submit(self._score(sheet, iter(answers), inbox.put, dropped))
        work.add_done_callback(lambda _: inbox.put(None))
        try:
            for judged in _drain(inbox):
                on_judged(judged)
            work.result()
        except BaseException:  # Ctrl-C too: nothing may go on being asked and paid for
            if work.cancel():
                dropped.wait(_GRACE)
            raise

    def close(self) -> None:
        """Drop what is under way."""
        self._threads.close(self._disconnect())

    async def _disconnect(self) -> None:
        if self._client:
            await self._client.close()
            self._client = None

    async def _score(
        self,
        sheet: Questionnaire,
        answers: Iterator[Answer],
        hand_over: Callable[[Judgement], None],
        dropped: threading.Event,
    ) -> None:
        """Ask about answers as they come; the first error that ends the judging drops the rest."""
        loop, feeder = asyncio.get_running_loop(), ThreadPoolExecutor(1, "answers")
        too_dear, ended = asyncio.Event(), asyncio.Event()
        open_questions = 0

        async def settle(question: Question) -> None:
            nonlocal open_questions
            try:
                judged = sheet.receive(question, *await self._ask(question))
                hand_over(judged) if judged else None
            except BudgetSpentError as end:
                sheet.note(question, end.usage)
                too_dear.set()
            finally:
                open_questions -= 1
                ended.set()

        try:
            self._client = client = self._client or Client(
                self._config, self._endpoint, self._budget
            )
            async with asyncio.TaskGroup() as tasks:
                # `next` may wait for an answer that is still being made.
                while not too_dear.is_set() and (
                    answer := await loop.run_in_executor(feeder, next, answers, None)
                ):
                    questions = sheet.questions(answer)
                    if not questions:
                        hand_over(sheet.blank(answer))
                    for question in questions:
                        open_questions += 1
                        tasks.create_task(settle(question))
                    while open_questions >= client.appetite:
                        ended.clear()
                        await ended.wait()
        except BaseExceptionGroup as group:
            raise _first(group) from None
        finally:
            for judged in sheet.unfinished():
                hand_over(judged)
            feeder.shutdown(wait=False)
            dropped.set()
        if too_dear.is_set():
            raise self._too_dear()

    async def _ask(self, question: Question) -> tuple[Score, Usage]:
        """Ask until there is a score, or a reason why there is none; the first question of all is asked alone."""
        opening = self._opening
        if opening is None:
            self._opening = opening = asyncio.Event()
            try:
                return await self._ask_enough(question)
            except BaseException:  # a cancellation too: whoever asks next is the first
                self._opening = None
                raise
            finally:
                opening.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(
                _ALONE
            ):  # wait_for of Python 3.11 may swallow a cancellation
                await opening.wait()
        return await self._ask_enough(question)

    async def _ask_enough(self, question: Question) -> tuple[Score, Usage]:
        """Once, or as often as configured where a reply is but one draw."""
        score, usage = await self._ask_once(question, 0)
        if self._config.samples == 1 or self._way(question).method != "text":
            return score, usage
        more = await asyncio.gather(
            *(self._ask_once(question, draw) for draw in range(1, self._config.samples))
        )
        drawn = [score, *(other for other, _ in more)]
        values = [each.value for each in drawn if each.value is not None]
        if values:
            score = Score(sum(values) / len(values), method=f"text, mean of {len(values)}")
        return score, sum((other for _, other in more), usage)

    async def _ask_once(self, question: Question, draw: int) -> tuple[Score, Usage]:
        allowance = RetryBudget(self._sleep)
        way = self._way(question)
        try:
            while True:
                outcome = await self._exchange(question, way, draw, allowance)
                if isinstance(outcome, Score):
                    self._lost_in_a_row = 0
                    return outcome, allowance.usage
                way = outcome
        except BudgetSpentError as end:
            end.usage = allowance.usage
            raise
        except GaveUpError as end:
            self._lost_in_a_row += 1
            self._check_alive(str(end))
            return Score(None, str(end)), allowance.usage

    async def _exchange(
        self, question: Question, way: QueryMode, draw: int, allowance: RetryBudget
    ) -> Score | QueryMode:
        """Get one reply: a score comes of it, or the way to ask again."""
        assert self._client  # noqa: S101 - made by `_score`
        if self._refusal:  # another trait's question met it
            raise self._refusal
        dialect = self._dialect
        try:
            reply = await self._client.ask(
                Request(self._body(question, way, dialect), draw), allowance
            )
        except APIStatusError as error:
            return self._learn(error, dialect, question, way)
        if reply.finish == "content_filter":
            return Score(None, "the judge's reply was filtered")
        if way.method == "logprobs":
            return self._read_alternatives(question, way, reply)
        return self._read_text(question, way, reply)

    def _way(self, question: Question) -> QueryMode:
        """The best way to ask; a judge prompt that cannot ask for one digit is answered with the whole number."""
        way = self._dialect.way(question.scale)
        return way if question.can_ask_on(way.scale) else QueryMode("number", question.scale)

    def _body(
        self, question: Question, way: QueryMode, dialect: EndpointCapabilities
    ) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._config.model,
            "messages": [{"role": "user", "content": question.prompt(way.scale)}],
            dialect.limit: dialect.room(way),
        }
        if dialect.temperature:
            body["temperature"] = 1 if way.method == "text" and self._config.samples > 1 else 0
        if way.method == "logprobs":
            body |= {"logprobs": True, "top_logprobs": dialect.alternatives}
        return body

    def _learn(
        self,
        error: APIStatusError,
        dialect: EndpointCapabilities,
        question: Question,
        way: QueryMode,
    ) -> Score | QueryMode:
        """Make what can be made of a refusal; `dialect` is the one that was refused."""
        if failures.is_about_one_answer(error):
            return Score(
                None,
                f"the judge does not read this answer: {failures.quote(error, self._endpoint.key)}",
            )
        said = failures.complaint(error)
        if not failures.is_about_parameters(error) or dialect.after(said, way.method) is None:
            self._refusal = failures.final_refusal(
                error, model=self._config.model, host=self._endpoint.host, secret=self._endpoint.key
            )
            raise self._refusal
        # Another question may have taught the same meanwhile.
        self._dialect = self._dialect.after(said, way.method) or self._dialect
        if way.method != "logprobs":
            return way
        learned = self._way(question)
        if learned.method != "logprobs":
            self._insist_on_logprobs(failures.quote(error, self._endpoint.key))
        return learned

    def _read_alternatives(
        self, question: Question, way: QueryMode, reply: Reply
    ) -> Score | QueryMode:
        if not reply.alternatives:
            if not reply.text and reply.finish != "length":
                return Score(None, "the judge's reply is empty")
            self._insist_on_logprobs("the reply holds none")
            self._dialect = replace(self._dialect, logprobs=False)
            return QueryMode("text", way.scale)
        reading = read_probabilities(way.scale, reply.alternatives)
        if reading.value is not None and way.scale == "0_100" and is_digitwise(reply.alternatives):
            return QueryMode("number", way.scale)
        too_early = not reply.text or opens_with_preamble(reply.alternatives)
        if reading.value is None and too_early and self._config.logprobs == "auto":
            return QueryMode("text", way.scale)
        return _as_score(question, way, reading)

    def _read_text(self, question: Question, way: QueryMode, reply: Reply) -> Score | QueryMode:
        text = prompts.strip_thoughts(reply.text).strip()
        if not text and reply.finish == "length" and not self._dialect.thinks:
            self._dialect = replace(self._dialect, thinks=True)
            return QueryMode("text", way.scale)
        if reply.finish == "length" and text[-1:].isdigit():
            return Score(None, "the judge's reply was cut off within a number")
        reading = read_text(way.scale, text)
        if way.method == "number" and reading.value is not None and reading.value >= 10:
            # First token one digit, whole number more: now it is certain.
            self._dialect = replace(self._dialect, digitwise=True)
            better = self._way(question)
            return better if better.method == "logprobs" else _as_score(question, way, reading)
        return _as_score(question, way, reading)

    def _insist_on_logprobs(self, cause: str) -> None:
        if self._config.logprobs == "required":
            raise JudgeError(
                f"the judge at {self._endpoint.host} gives no log-probabilities to score by",
                cause=cause,
                fix="set judge.openai.logprobs to auto, or choose another model",
            )

    def _check_alive(self, cause: str) -> None:
        assert self._client  # noqa: S101 - made by `_score`
        fix = "start the server, or correct judge.openai.base_url"
        if not self._client.reached:
            raise JudgeError(
                f"cannot reach the judge at {self._endpoint.host}", cause=cause, fix=fix
            )
        if self._lost_in_a_row >= _LOST_FOR_GOOD:
            problem = f"the judge at {self._endpoint.host} has stopped answering"
            fix = "run the same command again when it is back: what is judged is kept"
            raise JudgeError(
                problem, cause=f"{_LOST_FOR_GOOD} questions in a row: {cause}", fix=fix
            )

    def _too_dear(self) -> JudgeError:
        spent = self._budget.spent if self._budget else 0.0
        return JudgeError(
            "the budget for judging is spent",
            cause=f"${spent:.4f} of ${self._config.max_cost or 0:.4f}; the next request could pass it",
            fix="raise --max-cost and run the same command again: what is judged is kept",
        )


def _drain(inbox: SimpleQueue[Judgement | None]) -> Iterator[list[Judgement]]:
    """What has come in, as much as there is at a time, until None comes."""
    while first := inbox.get():
        batch, end = [first], False
        while not end:
            try:
                more = inbox.get_nowait()
            except Empty:
                break
            end = more is None
            batch += [more] if more else []
        yield batch
        if end:
            return


def _as_score(question: Question, way: QueryMode, reading: Reading) -> Score:
    if reading.value is None:
        return Score(None, reading.reason)
    method = way.method if way.scale == question.scale else f"{way.method} on {way.scale}"
    return Score(to_percent(way.scale, reading.value), method=method)


def _first(error: BaseException) -> BaseException:
    """The error that began it all."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
