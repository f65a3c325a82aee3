"""Scores existing texts, many at once, without generating."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from traitcli.errors import ModelError, UserError
from traitcli.events import Listener, TextsRead, Warned
from traitcli.generation.batch_size import estimate_size
from traitcli.generation.detokenize import token_texts
from traitcli.generation.projections import TextProjections
from traitcli.models.batch_size import BatchSize, memory_warning
from traitcli.models.chat_format import Message
from traitcli.models.loaded import LoadedModel
from traitcli.models.memory import memory_explained
from traitcli.models.prompts import (
    check_length,
    conversation,
    encode_response,
    render,
)
from traitcli.models.read_texts import Text, read_texts
from traitcli.models.thinking import thinking_after
from traitcli.monitoring.alarms import Alarm
from traitcli.monitoring.answer_so_far import system_message
from traitcli.monitoring.record_files import append_records
from traitcli.monitoring.transcripts import Exchange
from traitcli.monitoring.watch import Watch
from traitcli.record_json import FailedRecord
from traitcli.records import Crossing, TokenScores

_LESS_MEMORY = "set model.dtype to bfloat16, or leave the longest texts out"


@dataclass(frozen=True, slots=True)
class ReadingLimits:
    """How many texts are handled together.

    batch  texts that the model reads side by side; more are no faster
    chunk  texts whose records are in memory before they are stored
    """

    batch: int = 64
    chunk: int = 256


def score_texts(
    loaded: LoadedModel,
    watch: Watch,
    exchanges: Sequence[Exchange],
    out: Path | None = None,
    on_event: Listener = lambda event: None,
    limits: ReadingLimits = ReadingLimits(),
) -> Iterator[TokenScores | FailedRecord]:
    """Score the response of each exchange, token by token.

    The scores are those that the tokens had when the response was written, if this model wrote it
    after this prompt.

    Args:
        loaded: The model that reads the texts.
        watch: What is scored.
        exchanges: Prompts with their responses.
        out: A .jsonl file to which every record is appended.
        on_event: Receives the progress.
        limits: How many texts are handled together.

    Yields:
        The record of each exchange, in order, after it is stored in `out`; a failure for one that
        cannot be read.
    """
    done = tokens = skipped = 0
    total, most = len(exchanges), limits.batch

    def on_change(old: int, new: int) -> None:
        nonlocal most
        most = new  # for the next chunks too
        on_event(Warned("", memory_warning(old, new, "texts")))

    on_event(TextsRead(0, total, 0))
    # In chunks: a kill loses one of them at most, and a long file does not fill the memory.
    for start in range(0, total, limits.chunk):
        chunk = exchanges[start : start + limits.chunk]
        # Texts are read in another order, each next to those with a similar prompt.
        found: dict[int, TokenScores | FailedRecord] = {}
        for index, record, token_count in _score(loaded, watch, chunk, most, on_change):
            found[index] = record
            done, tokens = done + 1, tokens + token_count
            skipped += isinstance(record, FailedRecord)
            on_event(TextsRead(done, total, tokens, skipped))
        records = [found[index] for index in range(len(chunk))]
        if out:
            append_records(out, records)
        yield from records


def _score(
    loaded: LoadedModel,
    watch: Watch,
    exchanges: Sequence[Exchange],
    most: int,
    on_change: Callable[[int, int], None],
) -> Iterator[tuple[int, TokenScores | FailedRecord, int]]:
    """Index, record and number of tokens of each exchange, as soon as it is read."""
    indices: list[int] = []
    texts: list[Text] = []
    for index, exchange in enumerate(exchanges):
        try:
            texts.append(_prepare(loaded, watch, exchange))
            indices.append(index)
        except _UnreadableError as error:
            yield index, FailedRecord(exchange.prompt, str(error), exchange.about), 0
    if not texts:
        return

    reader = watch.reader(loaded)
    # The longest text decides how many fit: memory is taken for its length.
    longest = max(len(text.prompt) + len(text.response) for text in texts)
    fitting = min(most, estimate_size(loaded, longest))
    size = BatchSize(fitting, fitting, on_change)
    with memory_explained(loaded.device, _LESS_MEMORY):
        for number in read_texts(loaded, texts, size, reader):
            index, text = indices[number], texts[number]
            # Popped, so that the projections of a chunk are not all in memory at the end.
            projections = reader.finished.pop(number)
            record = _record(loaded, watch, exchanges[index], text, projections)
            yield index, record, len(text.prompt) + len(text.response)


def _prepare(loaded: LoadedModel, watch: Watch, exchange: Exchange) -> Text:
    """The token ids of an exchange; raises _UnreadableError when there is nothing to read."""
    if exchange.problem:
        raise _UnreadableError(exchange.problem)
    system, messages = _split_history(watch, exchange)
    # A response may follow that of a tool. Then there is no prompt, unless nothing else is there.
    if exchange.prompt or not messages:
        messages.append({"role": "user", "content": exchange.prompt})
    # One text that the model cannot read must not stop thousands of others.
    try:
        chat, _ = conversation(loaded, system, messages)
        rendered = render(loaded.tokenizer, chat, loaded.chat)
        # Special tokens in the text stay text: a response must not end its own turn.
        response = tuple(encode_response(loaded.tokenizer, exchange.response))
        check_length(loaded, rendered, len(response))
    except ModelError as error:
        problem = f"the chat template of {loaded.name} refuses it: {error.cause}"
        raise _UnreadableError(problem) from None
    except UserError as error:
        raise _UnreadableError(f"{error.problem}: {error.cause}") from None
    if not response:
        raise _UnreadableError("the response is empty")
    if not rendered.ids:
        raise _UnreadableError("the prompt is empty")
    return Text(rendered.ids, response)


def _split_history(watch: Watch, exchange: Exchange) -> tuple[str | None, list[Message]]:
    """The system message, and the other messages before the prompt.

    The exchange's own system message takes the place of the configured one.
    """
    messages = list(exchange.history)
    system = None
    if messages and messages[0]["role"] == "system":
        system = messages.pop(0)["content"]
    return system or watch.config.system, messages


def _record(
    loaded: LoadedModel,
    watch: Watch,
    exchange: Exchange,
    text: Text,
    projections: TextProjections,
) -> TokenScores:
    tokens = token_texts(loaded.tokenizer, text.response)
    scores, layer_scores = watch.tabulate(tokens, projections.response)
    prompt_scores = None
    if watch.prompts:
        # With special tokens: a user wants to see the template that the model read.
        prompt_tokens = token_texts(loaded.tokenizer, text.prompt, specials=True)
        prompt_scores, _ = watch.tabulate(prompt_tokens, projections.prompt)

    system, history = _split_history(watch, exchange)
    record = TokenScores(
        tokens=scores.tokens,
        raw=scores.raw,
        calibrated=scores.calibrated,
        massive=scores.massive,
        prompt=exchange.prompt,
        response="".join(tokens),
        layers=watch.layers,
        model=loaded.name,
        seed=watch.config.seed,
        prompt_tokens=len(text.prompt),
        finish_reason="provided",
        history=(*system_message(system), *history),
        prompt_scores=prompt_scores,
        layer_scores=layer_scores,
        about=exchange.about,
        thinking=thinking_after(loaded.tokenizer, text.prompt, tokens),
        skips_thinking=watch.config.skip_thinking,
    )
    return replace(record, crossings=_crossings(watch, record))


def _crossings(watch: Watch, record: TokenScores) -> tuple[Crossing, ...]:
    found: list[Crossing] = []
    for rule in watch.rules:
        scores = (record.raw if watch.raw else record.calibrated)[rule.trait]
        massive = record.massive.get(rule.trait, ())
        indices = [index for index in record.counted(rule.trait) if index not in massive]
        alarm = Alarm(rule, len(indices))
        raised = [*(alarm.add(scores[index]) for index in indices), alarm.end()]
        # An alarm counts the scores that it got; a record counts all tokens.
        found += [replace(one, token=indices[one.token]) for one in raised if one]
    return tuple(found)


class _UnreadableError(Exception):
    """An exchange cannot be read."""
