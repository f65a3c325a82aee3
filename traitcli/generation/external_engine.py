"""Lets another engine write the answers, then reads their hidden states in a second pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from traitcli.config import SamplingConfig
from traitcli.generation.decode import Generation
from traitcli.generation.mean_activations import MeanReader
from traitcli.generation.request import FinishReason, Release, Request, release_none
from traitcli.models.batch_size import BatchSize, shrinking
from traitcli.models.loaded import LoadedModel
from traitcli.models.read_texts import Text, read_texts

ANSWERS_PER_ROUND = 512
"""Answers that are written before they are read. A killed run loses at most these."""
READ_BATCH_SIZE = 64
"""Texts that are read together; fewer if memory runs out."""

Answer = tuple[tuple[int, ...], FinishReason]


Refine = Callable[
    [LoadedModel, Sequence[Request], Sequence[tuple[int, Generation]], BatchSize],
    Iterator[tuple[int, Generation]],
]


@dataclass(frozen=True, slots=True)
class Callbacks:
    """What is called while answers are written and read.

    on_step  gets the number of tokens that were written
    release  gets the number of unstarted requests; returns how many to give up
    warn     gets a sentence for the user
    """

    on_step: Callable[[int], None] = lambda tokens: None
    release: Release = release_none
    warn: Callable[[str], None] = lambda message: None


class Writer(Protocol):
    """An engine that continues prompts and gives no hidden states."""

    def write(self, requests: Sequence[Request], sampling: SamplingConfig) -> list[Answer]:
        """Each answer's tokens, without the one that ended it, and why it ended."""
        ...


def write_then_read(
    loaded: LoadedModel,
    writer: Writer,
    requests: Sequence[Request],
    sampling: SamplingConfig,
    callbacks: Callbacks = Callbacks(),
    refine: Refine = lambda loaded, requests, made, size: iter(made),
) -> Iterator[tuple[int, Generation | None]]:
    """Yield what `generate` yields, index and generation, for a writer's text.

    `refine` gets the requests and the generations of each round, and how many texts to read
    together; it returns the generations.
    """
    size = shrinking(READ_BATCH_SIZE, "texts", callbacks.warn)
    start, end = 0, len(requests)
    while start < end:
        # The last ones are released, as in the decode loop: nobody has started them.
        kept = end - callbacks.release(end - start)
        for index in range(kept, end):
            yield index, None
        end = kept

        chosen = requests[start : min(start + ANSWERS_PER_ROUND, end)]
        if not chosen:
            return
        answers = writer.write(chosen, sampling)
        # Only after a whole round, because the other engine reports no single steps.
        callbacks.on_step(sum(len(ids) for ids, _ in answers))
        read = list(_read_answers(loaded, chosen, answers, size))
        for index, generation in refine(loaded, chosen, read, size):
            yield start + index, generation
        start += len(chosen)


def _read_answers(
    loaded: LoadedModel, requests: Sequence[Request], answers: Sequence[Answer], size: BatchSize
) -> Iterator[tuple[int, Generation]]:
    """Index and generation of each request, the empty answers first."""
    texts, indices = [], []
    for index, (ids, reason) in enumerate(answers):
        # An empty answer has no token whose state could be read.
        if ids:
            texts.append(Text(requests[index].ids, ids))
            indices.append(index)
        else:
            yield index, Generation((), reason, None)

    reader = MeanReader(loaded)
    for read in read_texts(loaded, texts, size, reader):
        index = indices[read]
        ids, reason = answers[index]
        yield index, Generation(ids, reason, reader.finished.pop(read))
