"""Reads the labelled responses of a trait on a worker's device: they become its rollouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from traitcli.config import Config
from traitcli.errors import DefinitionError
from traitcli.events import Warned
from traitcli.generation.batch_size import choose_read_size
from traitcli.generation.detokenize import token_texts
from traitcli.generation.mean_activations import MeanReader
from traitcli.generation.request import Release, release_none
from traitcli.models.batch_size import BatchSize
from traitcli.models.memory import memory_explained
from traitcli.models.prompts import encode_response, raw_prompt, render
from traitcli.models.read_texts import Text, read_texts
from traitcli.pipeline.flush import FinishedRollout, send_in_batches
from traitcli.pipeline.messages import GenerateTask, RolloutsReleased, Send, TaskStarted
from traitcli.pipeline.worker_context import Worker
from traitcli.records import LabelledResponse, Rollout, RolloutKey, Trait
from traitcli.runs.states import digest_prompt

if TYPE_CHECKING:
    from traitcli.models.loaded import LoadedModel

_TEXTS_BETWEEN_RELEASES = 256
"""After this many texts the worker checks whether it should release some."""
_LISTED_FAULTS = 10
"""More faults than this are only counted."""


@dataclass(frozen=True, slots=True)
class PlannedReading:
    """A response to read: its rollout, or the one that it becomes, and its tokens."""

    rollout: Rollout
    text: Text


def read_labelled_responses(
    task: GenerateTask,
    config: Config,
    worker: Worker,
    send: Send,
    count_tokens: Callable[[int], None] = lambda tokens: None,
    release: Release = release_none,
) -> None:
    """Read responses and send them like generated ones: the same code averages hidden states.

    Raises DefinitionError, before any response is read, if some do not fit the model.
    """
    loaded = worker.model()
    planned = plan_readings(task.trait, task.keys, loaded)
    send(TaskStarted())
    size = choose_size(loaded, planned, config, task.trait.name, send)
    finished = read_planned(loaded, planned, size, count_tokens, release)
    send_in_batches(finished, send, worker.packer(task.trait.name).rollouts_made)


def read_planned(
    loaded: LoadedModel,
    planned: Sequence[PlannedReading],
    size: BatchSize,
    count_tokens: Callable[[int], None],
    release: Release,
) -> Iterator[FinishedRollout | RolloutsReleased]:
    """Yield each rollout with the means of its states, or that it was released."""
    start, end = 0, len(planned)
    fix = "lower extract.batch_size, or remove the longest texts; finished rollouts are kept"
    while start < end:
        # Released from the end, because reading goes on at the start.
        kept = end - release(end - start)
        for released in planned[kept:end]:
            yield RolloutsReleased((released.rollout.id,))
        end = kept

        some = planned[start : min(start + _TEXTS_BETWEEN_RELEASES, end)]
        empty = [one for one in some if not one.text.response]
        full = [one for one in some if one.text.response]
        # Stored all the same: a response without a rollout would be read again by the next command.
        for one in empty:
            yield FinishedRollout(one.rollout, None, "")

        reader = MeanReader(loaded)
        with memory_explained(loaded.device, fix):
            for index in read_texts(loaded, [one.text for one in full], size, reader):
                # Popped, or the states of all texts so far would stay in memory.
                states = reader.finished.pop(index) or {}
                activations = {position: mean.numpy() for position, mean in states.items()}
                one = full[index]
                yield FinishedRollout(one.rollout, activations, digest_prompt(one.text.prompt))
                count_tokens(0)  # no token is generated, but a heartbeat may be due
        start += len(some)


def choose_size(
    loaded: LoadedModel,
    planned: Sequence[PlannedReading],
    config: Config,
    trait: str,
    send: Send,
) -> BatchSize:
    """The configured batch size, which stays; for auto an estimate, halved if memory runs out."""

    def warn(message: str) -> None:
        send(Warned(trait, message))

    longest = max((len(one.text.prompt) + len(one.text.response) for one in planned), default=1)
    return choose_read_size(loaded, longest, config.extract.batch_size, warn)


def _line(response: LabelledResponse) -> str:
    return f"{response.file} line {response.line}: it"


def _length(text: Text) -> int:
    return len(text.prompt) + len(text.response)


def plan_readings(
    trait: Trait,
    keys: Sequence[RolloutKey],
    loaded: LoadedModel,
    place: Callable[[LabelledResponse], str] = _line,
) -> list[PlannedReading]:
    """Tokenize labelled responses; raises DefinitionError, which lists those that do not fit.

    `place` gives the subject of the sentence about one.
    """
    responses = trait.by_rollout()
    planned, faults, is_long = [], [], False
    for key in keys:
        response = responses[key]
        one = _plan(loaded, key, response)
        if fault := _fault(loaded, one.text, response):
            faults.append(f"{place(response)} {fault}")
            is_long |= _length(one.text) > loaded.context
        planned.append(one)

    if faults:
        listed, more = faults[:_LISTED_FAULTS], len(faults) - _LISTED_FAULTS
        if more > 0:
            listed.append(f"and {more} more")
        raise DefinitionError(
            f"{trait.name}: some labelled responses do not fit {loaded.name}",
            cause="\n".join(listed),
            fix=f"{'shorten' if is_long else 'lengthen'} or remove them",
        )
    return planned


def _fault(loaded: LoadedModel, text: Text, response: LabelledResponse) -> str:
    """Why a response cannot be read, or ""."""
    length = _length(text)
    if length > loaded.context:
        return f"has {length} tokens; the model reads at most {loaded.context}"
    if not text.prompt:
        return "has no prompt, and the model has no token that starts a text"
    if not text.response and response.form == "text":
        if length == 1:
            return "is one token, and the first token of a text is not read"
        return "has no text after its last special token"
    return ""


def _plan(loaded: LoadedModel, key: RolloutKey, response: LabelledResponse) -> PlannedReading:
    """The rollout that a response becomes. Text that spells a special token stays text."""
    tokenizer = loaded.tokenizer
    before, after = response.before, response.text
    if response.form == "text":
        before, after, text = _cut(tokenizer, response)
    else:
        if response.form == "answer":
            prompt = render(tokenizer, [{"role": "user", "content": before}], loaded.chat)
        else:
            prompt = raw_prompt(tokenizer, before)
        before = prompt.text
        text = Text(prompt.ids, tuple(encode_response(tokenizer, after)))

    rollout = Rollout(
        id=key.id,
        **asdict(key),
        seed=0,  # nothing is sampled
        prompt=before,
        response=after,
        prompt_tokens=len(text.prompt),
        response_tokens=len(text.response),
        finish_reason="provided",
    )
    return PlannedReading(rollout, text)


def _cut(tokenizer: Any, response: LabelledResponse) -> tuple[str, str, Text]:
    """Divide one text into prompt and response.

    The definition cuts where the positive and the negative text of a pair begin to differ. The cut
    moves after the last special token: what precedes it is chat template, not response.
    """
    whole = raw_prompt(tokenizer, response.before + response.text)
    before = raw_prompt(tokenizer, response.before).ids if response.before else ()
    same = (own == other for own, other in zip(before, whole.ids, strict=False))
    cut = sum(takewhile(bool, same))

    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    # An unknown token stands for text that the vocabulary lacks, not for chat template.
    special.discard(tokenizer.unk_token_id)
    after_special = [index + 1 for index, token in enumerate(whole.ids) if token in special]

    # Without a token that starts every text, the first one is read without any context: it is left
    # out of the mean like a prompt.
    start = max([cut, *after_special]) or 1
    text = Text(whole.ids[:start], whole.ids[start:])
    if start == cut:
        return response.before, response.text, text
    after = "".join(token_texts(tokenizer, text.response))
    return whole.text.removesuffix(after), after, text
