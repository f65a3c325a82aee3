"""The model that Python users and the command line have: it writes, reads and makes vectors."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from traitcli.api.answer import Answer
from traitcli.api.exchanges import Transcripts, as_exchanges
from traitcli.api.extraction import extract
from traitcli.api.stream import Stream
from traitcli.api.vector import Vector, check_name
from traitcli.api.vector_model import VectorModel, Watched
from traitcli.config import change_config
from traitcli.errors import UserError, suggest
from traitcli.events import Event
from traitcli.files import join_surrogates
from traitcli.monitoring.log_shapes import ShapeError, read_chat
from traitcli.monitoring.monitor import monitor_steps, run_steps
from traitcli.monitoring.score_texts import score_texts
from traitcli.monitoring.watch import Watch
from traitcli.pipeline.train import Example, train_vector, trait_of

if TYPE_CHECKING:
    from traitcli.config import MonitorConfig
    from traitcli.models.chat_format import Message
    from traitcli.monitoring.transcripts import Exchange
    from traitcli.record_json import FailedRecord
    from traitcli.records import TokenScores, Trait

Prompt = str | Sequence[Mapping[str, Any]]
"""A user's message, or a chat whose last message is the user's."""


class GenerateOptions(TypedDict, total=False):
    """How an answer is generated; what is left out has the value of the model's config.

    `temperature` 0 is greedy. `top_k` 0 and `top_p` 1 sample from all tokens. The same `seed`
    samples the same answer again. `skip_thinking` leaves the thinking part out of means.
    """

    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int
    system: str
    skip_thinking: bool


_SAMPLING = {"max_new_tokens", "temperature", "top_p", "top_k"}


class Model(VectorModel):
    """A language model with its trait vectors; made by `traitcli.load` and `traitcli.wrap`.

    Layers are numbered 0 (embeddings) to L (after the final norm), everywhere.

    Example:
        >>> model.generate("Hello!", watch="evil", max_new_tokens=4, seed=1).layers
        {'evil': 15}
    """

    def generate(
        self,
        prompt: Prompt,
        watch: Watched | Watch = (),
        out: str | Path | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Answer:
        """Write an answer, and score each of its tokens.

        Args:
            prompt: The user's message, or a chat that ends with one.
            watch: Traits and vectors to score, or what `Model.watch` returned.
            out: Keep the record in this file; `traitcli report` shows what is in `runs/monitor/`.
            **options: See `GenerateOptions`; the default is the config's monitor section.

        Returns:
            The answer. Print it, or call its `to_frame`.

        Raises:
            UserError: The prompt does not fit the model, or an option is not valid.
            VectorError: A vector does not exist, or does not fit the model.

        Example:
            >>> answer = model.generate("Hello!", watch="evil", max_new_tokens=4, seed=1)
            >>> len(answer.tokens) == len(answer.calibrated["evil"])
            True
        """
        return run_steps(self._steps(prompt, watch, out, options), self._on_event)

    def stream(
        self,
        prompt: Prompt,
        watch: Watched | Watch = (),
        out: str | Path | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Stream:
        """Write an answer token by token.

        Args:
            prompt: As for `generate`.
            watch: As for `generate`.
            out: As for `generate`.
            **options: As for `generate`.

        Returns:
            The tokens with their scores, for `for` or `async for`; then its `answer` is complete.

        Raises:
            UserError: As for `generate`; also when the model is still writing another answer.
            VectorError: As for `generate`.

        Example:
            >>> [token.index for token in model.stream("Hello!", watch="evil", max_new_tokens=3)]
            [0, 1, 2]
        """
        return Stream(self._steps(prompt, watch, out, options), self._on_event)

    async def agenerate(
        self,
        prompt: Prompt,
        watch: Watched | Watch = (),
        out: str | Path | None = None,
        **options: Unpack[GenerateOptions],
    ) -> Answer:
        """The same as `generate` without blocking the event loop: answers wait for each other.

        Args:
            prompt: As for `generate`.
            watch: As for `generate`.
            out: As for `generate`.
            **options: As for `generate`.

        Returns:
            The answer.

        Raises:
            UserError: As for `generate`.
            VectorError: As for `generate`.

        Example:
            >>> asyncio.run(model.agenerate("Hello!", watch="evil", max_new_tokens=2)).layers
            {'evil': 15}
        """
        import anyio

        steps = self._steps(prompt, watch, out, options)
        return await anyio.to_thread.run_sync(run_steps, steps, self._on_event)

    def score(
        self, transcripts: Transcripts, traits: Watched | Watch, layer: int | None = None
    ) -> list[Answer]:
        """Score responses that exist already; nothing is written.

        Args:
            transcripts: A file (docs/scoring-texts.md has the formats), or a list of (prompt,
                response) pairs, of chats, or of dicts with prompt and response. Each message of the
                model in a chat is a response.
            traits: Traits and vectors to score, or what `Model.watch` returned.
            layer: The layer to read for all of them (default: each vector's own).

        Returns:
            A record for each response, in order. One that cannot be read has `error` and no tokens.

        Raises:
            UserError: There is nothing to read, or the model is being steered.
            VectorError: A vector does not exist, or does not fit the model.

        Example:
            >>> [answer] = model.score([("Hi!", "Go away.")], ["evil"])
            >>> "".join(answer.tokens)
            'Go away.'
        """
        watching = traits if isinstance(traits, Watch) else self.watch(traits, layer)
        self.check_unsteered(watching)
        found = self.score_each(as_exchanges(transcripts), watching)
        return [Answer.of(record) for record in found]

    def score_each(
        self, exchanges: Sequence[Exchange], watch: Watch, out: Path | None = None
    ) -> Iterator[TokenScores | FailedRecord]:
        """Yield the record of each exchange once it is stored in `out`; see `score_texts`."""
        with self.held():
            yield from score_texts(self.loaded, watch, exchanges, out, self._on_event)

    def train(
        self,
        name: str,
        positive: Iterable[Example],
        negative: Iterable[Example],
        method: str | None = None,
        layer: int | None = None,
    ) -> Vector:
        """Build a vector from examples, and measure it on examples that it was not built from.

        Args:
            name: The name of the trait.
            positive: Examples that show it: texts, (prompt, response) pairs, or chats that end with
                the model's message. As many texts of each side are taken for pairs in this order.
            negative: Examples of the same kind that do not.
            method: As in the config (default: mean_difference); see docs/methods.md.
            layer: The layer to read (default: chosen as docs/methods.md describes).

        Returns:
            The vector; its `quality` says how well it separates, and its `quality.verdict` on which
            texts.

        Raises:
            DefinitionError: Examples are missing, empty, of several kinds, or too long.
            RunError: A side has fewer than two examples.
            UserError: The model is being steered.

        Example:
            >>> formal = model.train(
            ...     "formal",
            ...     positive=["Good evening, madam.", "I remain yours faithfully.", "Kindly sit."],
            ...     negative=["hey what's up", "cu later!!", "grab a seat lol"],
            ... )
            >>> formal.trait, formal.layer_count
            ('formal', 31)
        """
        self.check_unsteered()
        check_name(name)
        settings = {"vector.method": method, "vector.layer": layer}
        config = change_config(
            self.config,
            {key: value for key, value in settings.items() if value is not None},
            {"vector.method": "method", "vector.layer": "layer"},
        )
        with self.held():
            trait = trait_of(self.loaded, name, positive, negative)
            return Vector.of(train_vector(self.loaded, trait, config, self._on_event))

    def extract(
        self,
        trait: str | Trait,
        questions: int | Sequence[str] | None = None,
        judge: str | None = None,
        run: str | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> Vector:
        """Build a vector from answers that the model writes itself, as `traitcli extract` does.

        The run folder is the command's: a call that was stopped goes on where it ended, also with
        the command, and nothing is generated or paid for twice. Progress is shown meanwhile.

        Args:
            trait: A trait by name or definition file, or a `Trait`.
            questions: How many of its questions to ask, or other questions (default: all).
            judge: likelihood, openai, local or fake (default: the config's).
            run: The name of the run (default: the config's name).
            settings: Other settings by key, such as `{"extract.repeats": 2}`; see docs/configs.md.

        Returns:
            The vector, which is also in the vectors folder.

        Raises:
            ConfigError: A setting is not valid.
            RunError: The run has other settings, or too few answers pass the filter.
            JudgeError: The judge fails permanently.
            UserError: The model is being steered.

        Example:
            >>> short = {"extract.evaluation_questions": 1, "extract.sampling.max_new_tokens": 2}
            >>> mine = dataclasses.replace(tc.load_trait("evil"), name="my-evil")
            >>> model.extract(mine, questions=1, judge="fake", run="try", settings=short).trait
            'my-evil'
        """
        self.check_unsteered()
        with self.held():
            return extract(self, trait, questions, (judge, run), settings or {})

    def _steps(
        self,
        prompt: Prompt,
        watch: Watched | Watch,
        out: str | Path | None,
        options: Mapping[str, Any],
    ) -> Generator[Event, None, Answer]:
        """Check everything now; the generator that is returned writes the answer."""
        watching = watch if isinstance(watch, Watch) else self.watch(watch)
        config, history, last = split_chat(prompt, self._options(watching, options))
        # Those of the watch are what the command line and the chat steer by.
        steering = (*watching.steering, *self._steering.get())
        history = (*watching.history, *history)
        watching = replace(watching, config=config, steering=steering, history=history)

        def steps() -> Generator[Event, None, Answer]:
            path = Path(out) if out is not None else None
            with self.held():
                record = yield from monitor_steps(self.loaded, watching, last, path)
            return Answer.of(record)

        return steps()

    def _options(self, watch: Watch, options: Mapping[str, Any]) -> MonitorConfig:
        """The config of a watch with other options; raises UserError for one that is not valid."""
        known = GenerateOptions.__annotations__
        for name in options:
            if name not in known:
                is_of_watch = name in signature(self.watch).parameters
                raise UserError(
                    f"unknown option {name}",
                    cause=f"options are {', '.join(known)}",
                    fix=f"watch=model.watch([…], {name}=…)"
                    if is_of_watch
                    else suggest(name, known) or "leave it out",
                )
        keys = {name: f"monitor.{'sampling.' * (name in _SAMPLING)}{name}" for name in options}
        changes = {keys[name]: value for name, value in options.items()}
        typed = {key: name for name, key in keys.items()}
        own = self.config.model_copy(update={"monitor": watch.config})
        return change_config(own, changes, typed).monitor if changes else watch.config


def split_chat(
    prompt: Prompt, config: MonitorConfig
) -> tuple[MonitorConfig, tuple[Message, ...], str]:
    """The config with the chat's system message, the messages before the last, and its text.

    Raises UserError for what is no chat, or for one whose last message is not the user's.
    """
    messages = _messages(prompt)
    if messages and messages[0]["role"] == "system":
        config = config.model_copy(update={"system": messages.pop(0)["content"]})
    if not messages or messages[-1]["role"] != "user":
        raise UserError(
            "there is no message to answer",
            cause="the chat does not end with a message of the user",
            fix='add {"role": "user", "content": "…"}',
        )
    return config, tuple(messages[:-1]), messages[-1]["content"]


def _messages(prompt: Prompt) -> list[Message]:
    if isinstance(prompt, str):
        # Half an emoji cannot be written to a file; a chat's texts are read alike.
        return [{"role": "user", "content": join_surrogates(prompt)}]
    try:
        return read_chat(prompt)
    except ShapeError as error:
        raise UserError(
            "the prompt is neither a text nor a chat",
            cause=str(error),
            fix='give a text, or [{"role": "user", "content": "…"}]; several prompts one by one',
        ) from None
