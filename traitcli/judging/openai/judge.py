"""Judge with a model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from queue import Empty, SimpleQueue

from traitcli.config import OpenAIConfig
from traitcli.errors import ConfigError, JudgeError
from traitcli.judging.backend import Answer, OnJudged, judge_id
from traitcli.judging.budget import Budget, find_price
from traitcli.judging.openai.client import BudgetSpentError, Client
from traitcli.judging.openai.endpoint import check_key, find_endpoint, identify
from traitcli.judging.openai.event_loop import EventLoopThread
from traitcli.judging.openai.question_asker import QuestionAsker
from traitcli.judging.openai.retry import Sleep
from traitcli.judging.questions import Question, Questionnaire
from traitcli.records import Judgement, Score, Trait, Usage

_FIRST_ALONE = 5.0
"""The longest time in seconds that all other questions wait for the first reply."""
_CANCEL_GRACE = 5.0
"""The longest time in seconds that an interrupted `score` waits for its requests to end."""


class OpenAIJudge:
    """Asks for a number and takes its expected value over the first token's probabilities.

    The trait is scored on the configured scale and coherence on 0–100; a `Score` is always 0–100
    (see `scales`). `QuestionAsker` says how each question is asked and what `Score.method` means.
    """

    prompted = True
    overlaps = True

    def __init__(
        self, config: OpenAIConfig, budget: Budget | None = None, *, sleep: Sleep = asyncio.sleep
    ) -> None:
        """Raises ConfigError if the address is not a URL."""
        self._config = config
        self._budget = budget
        self._endpoint = find_endpoint(config)
        self._asker = QuestionAsker(config, self._endpoint, sleep)
        self._event_loop = EventLoopThread()
        self._client: Client | None = None
        self._first_answered: asyncio.Event | None = None
        self.identity = identify(config, self._endpoint)

    def check(self) -> None:
        """Raise ConfigError if the key is missing or invalid, or a budget has no price."""
        check_key(self._endpoint)
        if self._config.max_cost and find_price(self._config) is None:
            model = self._config.model
            raise ConfigError(
                f"cannot enforce --max-cost: no price is configured for {model}",
                cause="judge.openai.max_cost needs the price of a token",
                fix="set judge.openai.price_in and price_out, "
                "or add the model to a file in configs/prices/",
            )

    def take_notes(self) -> list[str]:
        taken, self._asker.notes = self._asker.notes, []
        return taken

    def score(self, trait: Trait, answers: Iterable[Answer], on_judged: OnJudged) -> None:
        """Judge every answer; see `Judge.score`.

        An answer gets no score, but a reason, if its five requests all fail or the endpoint refuses
        to read it.

        Raises JudgeError if the endpoint refuses for good, was never reached or is gone; requests
        in flight are cancelled first. Raises JudgeError if the budget is spent; requests in flight
        are finished first.
        """
        self.check()
        scale, coherence = self._config.scale, self._config.coherence
        questionnaire = Questionnaire(trait, judge_id(self, trait), scale, coherence)
        inbox: SimpleQueue[Judgement | None] = SimpleQueue()
        cancelled = threading.Event()
        work = self._event_loop.submit(
            self._score, questionnaire, iter(answers), inbox.put, cancelled.set
        )
        work.add_done_callback(lambda _: inbox.put(None))

        try:
            for judged in _batches(inbox):
                on_judged(judged)
            work.result()
        except BaseException:
            # Ctrl-C as well: no request may go on and be paid for.
            if work.cancel():
                cancelled.wait(_CANCEL_GRACE)
            raise

    def close(self) -> None:
        """Cancel the requests in flight and close the connections."""
        self._event_loop.close(self._disconnect)

    async def _disconnect(self) -> None:
        if self._client:
            await self._client.close()
            self._client = None

    async def _score(
        self,
        questionnaire: Questionnaire,
        answers: Iterator[Answer],
        hand_over: Callable[[Judgement], None],
        on_end: Callable[[], None],
    ) -> None:
        """Ask about answers as they arrive. The first fatal error cancels all other questions."""
        loop = asyncio.get_running_loop()
        # `next(answers)` blocks while the next answer is still being generated.
        answer_thread = ThreadPoolExecutor(1, "answers")
        budget_spent, one_ended = asyncio.Event(), asyncio.Event()
        open_questions = 0

        async def settle(question: Question) -> None:
            nonlocal open_questions
            try:
                score, usage = await self._ask(client, question)
                if judged := questionnaire.receive(question, score, usage):
                    hand_over(judged)
            except BudgetSpentError as end:
                questionnaire.add_usage(question, end.usage)
                budget_spent.set()
            finally:
                open_questions -= 1
                one_ended.set()

        try:
            client = self._client or Client(self._config, self._endpoint, self._budget)
            self._client = client
            async with asyncio.TaskGroup() as tasks:
                while not budget_spent.is_set():
                    answer = await loop.run_in_executor(answer_thread, next, answers, None)
                    if answer is None:
                        break
                    questions = questionnaire.questions(answer)
                    if not questions:
                        hand_over(questionnaire.empty_judgement(answer))
                    for question in questions:
                        open_questions += 1
                        tasks.create_task(settle(question))

                    # Answers are read only as fast as they are judged, or all would be in memory.
                    while open_questions >= client.max_in_flight:
                        one_ended.clear()
                        await one_ended.wait()
        except BaseExceptionGroup as group:
            raise _first_error(group) from None
        finally:
            for judged in questionnaire.unfinished():
                hand_over(judged)
            answer_thread.shutdown(wait=False)
            on_end()
        if budget_spent.is_set():
            raise self._budget_error()

    async def _ask(self, client: Client, question: Question) -> tuple[Score, Usage]:
        """Ask a question; the first one of all is asked alone.

        Its replies show what the endpoint supports, so all others are asked in the best mode at
        once.
        """
        answered = self._first_answered
        if answered is None:
            self._first_answered = answered = asyncio.Event()
            try:
                return await self._asker.ask(client, question)
            except BaseException:
                # After a cancellation as well, the next question becomes the first.
                self._first_answered = None
                raise
            finally:
                answered.set()

        # `asyncio.wait_for` of Python 3.11 can swallow a cancellation.
        with suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_ALONE):
                await answered.wait()
        return await self._asker.ask(client, question)

    def _budget_error(self) -> JudgeError:
        spent = self._budget.spent if self._budget else 0.0
        limit = self._config.max_cost or 0.0
        return JudgeError(
            "the budget for judging is spent",
            cause=f"${spent:.4f} of ${limit:.4f}; the next request could pass it",
            fix="raise --max-cost and run the same command again: finished judgements are kept",
        )


def _batches(inbox: SimpleQueue[Judgement | None]) -> Iterator[list[Judgement]]:
    """Yield all judgements that have arrived, again and again, until None arrives."""
    while first := inbox.get():
        # Judgements that have arrived together are stored in one write.
        batch, is_last = [first], False
        while not is_last:
            try:
                judgement = inbox.get_nowait()
            except Empty:
                break
            if judgement is None:
                is_last = True
            else:
                batch.append(judgement)
        yield batch
        if is_last:
            return


def _first_error(error: BaseException) -> BaseException:
    """Return the error that ended the judging, from inside nested exception groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
