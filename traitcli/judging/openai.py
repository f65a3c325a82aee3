"""Judge with a model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal

from httpx2 import ConnectError
from openai import APIConnectionError, APIStatusError, APITimeoutError, AsyncOpenAI, omit

from traitcli.config import OpenAIConfig
from traitcli.errors import JudgeError
from traitcli.judging import failures, prompts
from traitcli.judging.backend import Answer
from traitcli.judging.dialect import Dialect, Method
from traitcli.judging.endpoint import check_key, find_endpoint, identify
from traitcli.judging.replies import Reply, UnreadableReplyError, read_reply
from traitcli.judging.retry import Allowance, GaveUpError, Sleep, read_retry_after
from traitcli.judging.scales import (
    Reading,
    Scale,
    is_digitwise,
    opens_with_preamble,
    read_probabilities,
    read_text,
    to_percent,
)
from traitcli.records import Judgement, Score, Trait


@dataclass(frozen=True, slots=True)
class Question:
    """One thing asked about one answer; `place` is the answer's index."""

    place: int
    about: Literal["trait", "coherence"]
    scale: Scale
    prompt: str


class OpenAIJudge:
    """Asks for a number and takes its expected value over the first token's probabilities.

    The trait is scored on the configured scale and coherence on 0–100; whatever the scale, a `Score`
    is 0–100 (see `scales`). What an endpoint cannot do is learned from its first replies and kept for
    the judge's lifetime, so the very first question is asked alone. `Score.method` says how a value
    was had:

    logprobs  expected value over the first token's alternatives
    digits    the model writes numbers digit by digit, so the first token is a tenth of the score:
              the whole number it writes at temperature 0, no expectation
    text      the endpoint gives no log-probabilities: the number in the reply
    """

    prompted = True
    overlaps = True

    def __init__(self, config: OpenAIConfig, *, sleep: Sleep = asyncio.sleep) -> None:
        """Raises ConfigError when the address is none."""
        self._config = config
        self._sleep = sleep
        self._endpoint = find_endpoint(config)
        self._dialect = Dialect(logprobs=config.logprobs != "never")
        self._reached = False
        self.identity = identify(config, self._endpoint)

    def check(self) -> None:
        """Raise ConfigError when the key is missing or none."""
        check_key(self._endpoint)

    def score(self, trait: Trait, answers: Sequence[Answer], on_judged: Callable[[Judgement], None]) -> None:
        """Judge every answer, with at most `max_concurrency` requests at a time.

        A question whose five requests all failed, and an answer that the endpoint will not read, give a
        score of none with a reason. Raises JudgeError, having dropped what was under way, when the
        endpoint refuses for good or was never reached, and ConfigError like `check`.
        """
        self.check()
        desk = _Desk(answers, self.identity, self._config.coherence, on_judged)
        readable = [place for place, answer in enumerate(answers) if prompts.clean_answer(answer.response)]
        for place in sorted(set(range(len(answers))) - set(readable)):
            desk.skip(place, "empty answer")
        if readable:
            asyncio.run(self._ask_all(self._questions(trait, answers, readable), desk.receive))

    def _questions(self, trait: Trait, answers: Sequence[Answer], places: Iterable[int]) -> Iterator[Question]:
        template = prompts.on_scale(trait.judge_prompt, self._config.scale)
        for place in places:
            about = answers[place].question, prompts.clean_answer(answers[place].response)
            yield Question(place, "trait", self._config.scale, prompts.write_prompt(template, *about))
            if self._config.coherence:
                yield Question(place, "coherence", "0_100", prompts.write_prompt(prompts.COHERENCE, *about))

    async def _ask_all(self, questions: Iterator[Question], receive: Callable[[Question, Score], None]) -> None:
        async def work(share: Iterator[Question]) -> None:
            for question in share:
                receive(question, await self._ask(client, question))

        # A client belongs to one event loop; the SDK's own retries would multiply with ours.
        async with AsyncOpenAI(
            api_key=self._endpoint.key or "not-needed",
            base_url=self._endpoint.url,
            max_retries=0,
            timeout=self._config.timeout,
        ) as client:
            if not self._reached:
                await work(islice(questions, 1))
            await _all_or_none(work(questions) for _ in range(self._config.max_concurrency))

    async def _ask(self, client: AsyncOpenAI, question: Question) -> Score:
        """Ask until there is a score, or a reason why there is none."""
        allowance = Allowance(self._sleep)
        method = self._dialect.method(question.scale)
        try:
            while True:
                allowance.spend()
                outcome = await self._exchange(client, question, method, allowance)
                if isinstance(outcome, Score):
                    return outcome
                method = outcome
        except GaveUpError as end:
            if not self._reached:
                raise self._unreachable(str(end)) from None
            return Score(None, str(end))

    async def _exchange(
        self, client: AsyncOpenAI, question: Question, method: Method, allowance: Allowance
    ) -> Score | Method:
        """Make one request: a score comes of it, or the method to ask again by."""
        dialect = self._dialect
        try:
            async with asyncio.timeout(self._config.timeout):
                reply = await self._request(client, question, method)
        except APIStatusError as error:
            self._reached = True
            if failures.is_passing(error):
                await allowance.wait(
                    failures.quote(error, self._endpoint.key), read_retry_after(error.response.headers, time.time())
                )
                return method
            return self._learn(error, dialect, question.scale, method)
        except (APITimeoutError, TimeoutError):
            self._reached = True
            await allowance.wait(f"no reply within {self._config.timeout:g} s")
            return method
        except APIConnectionError as error:
            self._reached |= not isinstance(error.__cause__, ConnectError)
            await allowance.wait(failures.redact(f"connection lost: {error.__cause__ or error}", self._endpoint.key))
            return method
        except UnreadableReplyError as error:
            self._reached = True
            await allowance.wait(str(error))
            return method
        self._reached = True
        return self._read(question.scale, method, reply)

    async def _request(self, client: AsyncOpenAI, question: Question, method: Method) -> Reply:
        dialect = self._dialect
        room = dialect.room(question.scale, method)
        wants_logprobs = method == "logprobs"
        response = await client.chat.completions.with_raw_response.create(
            model=self._config.model,
            messages=[{"role": "user", "content": question.prompt}],
            max_tokens=room if dialect.limit == "max_tokens" else omit,
            max_completion_tokens=room if dialect.limit == "max_completion_tokens" else omit,
            temperature=0 if dialect.temperature else omit,
            logprobs=True if wants_logprobs else omit,
            top_logprobs=20 if wants_logprobs else omit,
        )
        return read_reply(response.http_response.content)

    def _learn(self, error: APIStatusError, dialect: Dialect, scale: Scale, method: Method) -> Score | Method:
        """Make what can be made of a refusal; `dialect` is the one that was refused."""
        if failures.is_about_one_answer(error):
            return Score(None, f"the judge does not read this answer: {failures.quote(error, self._endpoint.key)}")
        said = failures.complaint(error)
        if error.status_code not in {400, 422} or dialect.after(said, method) is None:
            raise failures.final_refusal(
                error, model=self._config.model, host=self._endpoint.host, secret=self._endpoint.key
            )
        # Another question may have taught the same meanwhile.
        self._dialect = self._dialect.after(said, method) or self._dialect
        if method != "logprobs":
            return method
        if self._dialect.method(scale) != "logprobs":
            self._insist_on_logprobs(failures.quote(error, self._endpoint.key))
        return self._dialect.method(scale)

    def _read(self, scale: Scale, method: Method, reply: Reply) -> Score | Method:
        if reply.finish == "content_filter":
            return Score(None, "the judge's reply was filtered")
        if method == "logprobs":
            return self._read_alternatives(scale, reply)
        return self._read_text(scale, method, reply)

    def _read_alternatives(self, scale: Scale, reply: Reply) -> Score | Method:
        if not reply.alternatives:
            if not reply.text and reply.finish != "length":
                return Score(None, "the judge's reply is empty")
            self._insist_on_logprobs("the reply holds none")
            self._dialect = replace(self._dialect, logprobs=False)
            return "text"
        reading = read_probabilities(scale, reply.alternatives)
        if reading.value is not None and scale == "0_100" and is_digitwise(reply.alternatives):
            return "digits"
        too_early = not reply.text or opens_with_preamble(reply.alternatives)
        if reading.value is None and too_early and self._config.logprobs == "auto":
            return "text"
        return _as_score(scale, reading, "logprobs")

    def _read_text(self, scale: Scale, method: Method, reply: Reply) -> Score | Method:
        text = prompts.strip_thoughts(reply.text).strip()
        if not text and reply.finish == "length" and not self._dialect.thinks:
            self._dialect = replace(self._dialect, thinks=True)
            return "text"
        if reply.filled(self._dialect.room(scale, method)) and text[-1:].isdigit():
            return Score(None, "the judge's reply was cut off within a number")
        reading = read_text(scale, text)
        if method == "digits" and reading.value is not None and reading.value >= 10:
            # First token one digit, whole number more: now it is certain.
            self._insist_on_logprobs("the model writes numbers digit by digit, so its first token is not the score")
            self._dialect = replace(self._dialect, digitwise=True)
        return _as_score(scale, reading, method)

    def _insist_on_logprobs(self, cause: str) -> None:
        if self._config.logprobs == "required":
            raise JudgeError(
                f"the judge at {self._endpoint.host} gives no log-probabilities to score by",
                cause=cause,
                fix="set judge.openai.logprobs to auto, or choose another model",
            )

    def _unreachable(self, cause: str) -> JudgeError:
        return JudgeError(
            f"cannot reach the judge at {self._endpoint.host}",
            cause=cause,
            fix="start the server, or correct judge.openai.base_url",
        )


class _Desk:
    """Brings the scores of an answer together, and hands its judgement over when the last one is in."""

    def __init__(
        self, answers: Sequence[Answer], judge: str, coherence: bool, on_judged: Callable[[Judgement], None]
    ) -> None:
        self._answers = answers
        self._judge = judge
        self._coherence = coherence
        self._on_judged = on_judged
        self._waiting: dict[int, dict[str, Score]] = {}

    def receive(self, question: Question, score: Score) -> None:
        scores = self._waiting.setdefault(question.place, self._blank())
        scores[question.about] = score
        if len(scores) == 2:
            del self._waiting[question.place]
            rollout = self._answers[question.place].rollout
            self._on_judged(Judgement(rollout, self._judge, scores["trait"], scores["coherence"]))

    def skip(self, place: int, reason: str) -> None:
        none = Score(None, reason, final=True)
        coherence = self._blank().get("coherence", none)
        self._on_judged(Judgement(self._answers[place].rollout, self._judge, none, coherence))

    def _blank(self) -> dict[str, Score]:
        return {} if self._coherence else {"coherence": Score(None, "not asked", final=True)}


async def _all_or_none(work: Iterable[Coroutine[None, None, None]]) -> None:
    """Run everything at once; the first error cancels the rest and is raised as it is."""
    tasks = [asyncio.create_task(part) for part in work]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _as_score(scale: Scale, reading: Reading, method: Method) -> Score:
    if reading.value is None:
        return Score(None, reading.reason)
    return Score(to_percent(scale, reading.value), method=method)
