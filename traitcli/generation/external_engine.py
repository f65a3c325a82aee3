"""Lets another engine write the answers, then reads their hidden states in a second pass."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from traitcli.config import SamplingConfig
from traitcli.generation.decode import Generation
from traitcli.generation.mean_activations import MeanReader
from traitcli.generation.request import Release, Request, release_none
from traitcli.generation.writer import Answer, Writer
from traitcli.generation.writer_thread import WriterThread
from traitcli.models.batch_size import BatchSize
from traitcli.models.loaded import LoadedModel
from traitcli.models.read_texts import Text, read_texts

ANSWERS_PER_ROUND = 512
"""Answers that are written before they are read. A killed run loses at most two rounds."""

Refine = Callable[
    [LoadedModel, Sequence[Request], Iterable[tuple[int, Generation]], BatchSize],
    Iterator[tuple[int, Generation]],
]


@dataclass(frozen=True, slots=True)
class Callbacks:
    """What is called while answers are written and read.

    read_size  gives how many texts to read together. It is called once, when the writer has taken
               its memory
    on_step    gets the number of tokens that were written since its last call, also 0
    release    gets the number of unstarted requests; returns how many to give up
    """

    read_size: Callable[[], BatchSize]
    on_step: Callable[[int], None] = lambda tokens: None
    release: Release = release_none


def write_then_read(
    loaded: LoadedModel,
    writer: Writer,
    requests: Sequence[Request],
    sampling: SamplingConfig,
    callbacks: Callbacks,
    refine: Refine = lambda loaded, requests, made, size: iter(made),
) -> Iterator[tuple[int, Generation | None]]:
    """Yield what `generate` yields, index and generation, for a writer's text.

    A writer that can, writes the next round while one is read; not more than one is ahead. `refine`
    gets the requests and the generations of each round, and how many texts to read together; it
    returns the generations.
    """
    if not requests:
        return
    writer.start()
    size = callbacks.read_size()
    make_rounds = WriterThread if writer.beside else _InTurn
    with make_rounds(writer, sampling) as rounds:
        unstarted = _Unstarted(requests, callbacks.release, rounds.begin)
        chosen = yield from unstarted.begin_round()
        while chosen:
            answers = rounds.wait(callbacks.on_step)
            ahead = (yield from unstarted.begin_round()) if writer.beside else None

            own = [requests[index] for index in chosen]
            read = _read_answers(loaded, own, answers, size)
            for index, generation in refine(loaded, own, read, size):
                yield chosen[index], generation
                rounds.report(callbacks.on_step)

            chosen = (yield from unstarted.begin_round()) if ahead is None else ahead


class _Unstarted:
    """The requests that nobody has begun to write."""

    def __init__(
        self,
        requests: Sequence[Request],
        release: Release,
        begin: Callable[[Sequence[Request]], None],
    ) -> None:
        self._requests = requests
        self._release = release
        self._begin = begin
        self._start, self._end = 0, len(requests)

    def begin_round(self) -> Generator[tuple[int, None], None, range]:
        """Yield the requests to give up now, and begin the next round; returns its indices."""
        # The last ones are released, as in the decode loop: nobody has started them. Also asked
        # when none are left, because whoever wants some waits for an answer.
        kept = self._end - self._release(self._end - self._start)
        for index in range(kept, self._end):
            yield index, None
        self._end = kept

        chosen = range(self._start, min(self._start + ANSWERS_PER_ROUND, self._end))
        if chosen:
            self._begin(self._requests[chosen.start : chosen.stop])
        self._start = chosen.stop
        return chosen


class _InTurn(AbstractContextManager["_InTurn"]):
    """What `WriterThread` is for a writer that needs the model: nothing is read meanwhile."""

    def __init__(self, writer: Writer, sampling: SamplingConfig) -> None:
        self._writer = writer
        self._sampling = sampling
        self._requests: Sequence[Request] = ()

    def __exit__(self, *error: object) -> None:
        """Do nothing: nothing goes on."""

    def begin(self, requests: Sequence[Request]) -> None:
        """Note what to write."""
        self._requests = requests

    def report(self, on_step: Callable[[int], None]) -> None:
        """Call `on_step`: nothing is written meanwhile, but a heartbeat may be due."""
        on_step(0)

    def wait(self, on_step: Callable[[int], None]) -> list[Answer]:
        """Write the answers."""
        return self._writer.write(self._requests, self._sampling, on_step)


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
