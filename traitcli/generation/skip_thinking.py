"""Leaves the thinking part of an answer out of its mean activation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from traitcli.config import SamplingConfig
from traitcli.generation.decode import Generation, generate
from traitcli.generation.detokenize import token_texts
from traitcli.generation.mean_activations import MeanReader
from traitcli.generation.request import Request
from traitcli.generation.writer import Answer
from traitcli.models.batch_size import BatchSize
from traitcli.models.loaded import LoadedModel
from traitcli.models.read_texts import Text, read_texts
from traitcli.models.thinking import thinking_after


@dataclass(frozen=True, slots=True)
class OwnWriter:
    """Our own decode loop as a writer whose answers are read afterwards."""

    loaded: LoadedModel
    size: BatchSize
    beside: ClassVar[bool] = False

    def start(self) -> None:
        """Do nothing: the model is loaded."""

    def write(
        self, requests: Sequence[Request], sampling: SamplingConfig, on_step: Callable[[int], None]
    ) -> list[Answer]:
        """See `Writer.write`."""
        answers: list[Answer] = [((), "stop")] * len(requests)
        for index, made in generate(self.loaded, requests, sampling, self.size, on_step):
            if made:
                answers[index] = (made.ids, made.finish_reason)
        return answers


def count_thinking(loaded: LoadedModel, request: Request, ids: Sequence[int]) -> int:
    """How many of an answer's first tokens are thinking."""
    texts = token_texts(loaded.tokenizer, ids)
    return thinking_after(loaded.tokenizer, request.ids, texts)


def skip_thinking(
    loaded: LoadedModel,
    requests: Sequence[Request],
    made: Iterable[tuple[int, Generation]],
    size: int | BatchSize,
) -> Iterator[tuple[int, Generation]]:
    """Yield generations whose `response_avg` is the mean over the tokens after the thinking part.

    An answer that is nothing else has no activations. The other answers are unchanged.
    """
    texts: list[Text] = []
    waiting: list[tuple[int, Generation, int]] = []
    for index, one in made:
        ids = requests[index].ids
        thinking = count_thinking(loaded, requests[index], one.ids)
        if not thinking:
            yield index, one
        elif thinking == len(one.ids):
            yield index, Generation(one.ids, one.finish_reason, None, thinking)
        else:
            # The thinking part is read as if it were prompt: the answer still sees it.
            texts.append(Text((*ids, *one.ids[:thinking]), one.ids[thinking:]))
            waiting.append((index, one, thinking))

    reader = MeanReader(loaded)
    for number in read_texts(loaded, texts, size, reader):
        index, one, thinking = waiting[number]
        rest = reader.finished.pop(number)
        activations = one.activations
        if rest and activations:
            activations = {**activations, "response_avg": rest["response_avg"]}
        yield index, Generation(one.ids, one.finish_reason, activations, thinking)
