"""Lets another engine write the answers, and the model read them afterwards: the same rollouts in two passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from traitcli.config import SamplingConfig
from traitcli.generation.decode import Generation
from traitcli.generation.mean_activations import MeanReader
from traitcli.generation.request import FinishReason, Request, Withdraw, keep_all
from traitcli.models.loaded import LoadedModel
from traitcli.models.read_texts import Text, read_texts

_TOGETHER = 512
"""Answers written before they are read, and lost with a kill, at most."""
_READ = 64
"""Texts read side by side."""

Answer = tuple[tuple[int, ...], FinishReason]


class Writer(Protocol):
    """Continues prompts, and knows nothing of hidden states."""

    def write(self, requests: Sequence[Request], sampling: SamplingConfig) -> list[Answer]:
        """The tokens of each answer, without the one that ended it, and why it ended."""
        ...


def write_then_read(
    loaded: LoadedModel,
    writer: Writer,
    requests: Sequence[Request],
    sampling: SamplingConfig,
    on_step: Callable[[int], None] = lambda tokens: None,
    withdraw: Withdraw = keep_all,
) -> Iterator[tuple[int, Generation | None]]:
    """What `generate` gives, index and generation, from a writer's text read in packed passes."""
    start, end = 0, len(requests)
    while start < end:
        kept = end - withdraw(end - start)
        yield from ((index, None) for index in range(kept, end))
        end = kept
        some = requests[start : min(start + _TOGETHER, end)]
        if not some:
            return
        answers = writer.write(some, sampling)
        on_step(sum(len(ids) for ids, _ in answers))
        yield from (
            (start + place, Generation((), why, None))
            for place, (ids, why) in enumerate(answers)
            if not ids
        )
        full = [place for place, (ids, _) in enumerate(answers) if ids]
        reader = MeanReader(loaded)
        for read in read_texts(
            loaded, [Text(some[i].ids, answers[i][0]) for i in full], _READ, reader
        ):
            place = full[read]
            ids, why = answers[place]
            yield start + place, Generation(ids, why, reader.finished.pop(read))
        start += len(some)
