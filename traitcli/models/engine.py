"""Runs a model over packed sequences, those that begin alike behind what was read of their beginning, for a reader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import torch

from traitcli.models.hooks import tap
from traitcli.models.loaded import LoadedModel
from traitcli.models.packed_attention import KVStore, PackedInput, Reads, packed, read
from traitcli.models.prefix_tree import Ids, SharedPrefix
from traitcli.models.reader import Phase, Reader, ReaderState

if TYPE_CHECKING:
    from torch import Tensor

TOKENS = 4096
"""Tokens of sequences that are read in one pass, padding included, unless a single one is longer."""


@dataclass(slots=True, eq=False)
class SequenceBatch:
    """Sequences side by side, a place each: their keys and values, and what was read of them.

    of_stems  whether they are beginnings of prompts that will not be continued here
    """

    store: KVStore
    account: ReaderState
    of_stems: bool = False


class Engine:
    """One model, and one reader who sees every hidden state once."""

    def __init__(self, loaded: LoadedModel, reader: Reader) -> None:
        self._loaded = loaded
        self._reader = reader
        self._account: ReaderState

    @contextmanager
    def running(self) -> Iterator[None]:
        """What is read, is read inside; the model can be used for nothing else meanwhile."""
        see = lambda row, hidden: self._account(row, hidden[0])  # noqa: E731
        with packed(self._loaded), tap(self._loaded.model, self._reader.layers, see):
            yield

    def open(self, places: int, capacity: int, *, of_stems: bool = False) -> SequenceBatch:
        """A bench of so many places for `capacity` tokens each."""
        return SequenceBatch(KVStore(places, capacity), self._reader.open(places), of_stems)

    def read(
        self,
        bench: SequenceBatch,
        phase: Phase,
        known: Sequence[int],
        new: Sequence[Ids],
        first: int = 0,
        keep: Tensor | None = None,
    ) -> Tensor:
        """Read `new` tokens of the sequences at the places from `first` on, which hold `known[i]` tokens already.

        Returns logits [K, V] after the tokens at `keep` int64 [K]; without it, after each sequence's last.
        """
        reads: Reads = "texts" if phase == "response" else "stems" if bench.of_stems else "prompts"
        feed = PackedInput(bench.store, first, known, new, self._loaded.device, reads)
        self._account = bench.account
        self._account.begin(phase, feed.owners + first, feed.ends)
        return read(self._loaded, feed, feed.ends if keep is None else keep)

    def read_prompts(
        self,
        bench: SequenceBatch,
        first: int,
        prompts: Sequence[Ids],
        stems: Sequence[SharedPrefix | None],
    ) -> Tensor:
        """Logits [R, V] after prompts, which go to the places from `first` on; their stems are read if they must.

        Prompts that are the whole of their stem are read once, in the place of one of them.
        """
        asked = dict(zip(prompts, stems, strict=True))
        found = {
            ids: (*stem.held, stem.logits) for ids, stem in asked.items() if stem and stem.is_read
        }
        unread = [ids for ids in asked if ids not in found]
        read = self._read_behind(bench, first, unread, [_above(ids, asked[ids]) for ids in unread])
        found |= {ids: (bench, first + row, read[row]) for row, ids in enumerate(unread)}
        logits: list[Tensor] = []
        # From behind: what was read never lies behind where it belongs.
        for ids, run in reversed(
            [(ids, list(run)) for ids, run in groupby(range(len(prompts)), prompts.__getitem__)]
        ):
            (source, there, after), stem, places = (
                found[ids],
                asked[ids],
                range(first + run[0], first + run[-1] + 1),
            )
            self._take(
                bench, places[source is bench and there == places[0] :], source, there, len(ids)
            )
            if stem and stem.ids == ids:
                stem.leave(len(run))
                if stem.users and not stem.is_read:
                    stem.held, stem.logits = (self._lift(source, there, len(ids)), 0), after.clone()
            logits[:0] = [after] * len(run)
        return read if len(unread) == len(prompts) else torch.stack(logits)

    def _read_behind(
        self,
        bench: SequenceBatch,
        first: int,
        prompts: Sequence[Ids],
        stems: Sequence[SharedPrefix | None],
    ) -> Tensor:
        """Logits [R, V] after prompts, each behind its stem."""
        self._read_stems(stems)
        for stem, group in groupby(enumerate(stems, start=first), key=lambda placed: placed[1]):
            if stem:
                places = [place for place, _ in group]
                held, there = stem.held
                self._take(bench, range(places[0], places[-1] + 1), held, there, len(stem.ids))
                stem.leave(len(places))
                if (
                    stem.users and held.store.places > 1
                ):  # those read beside it need not stay as long
                    stem.held = self._lift(held, there, len(stem.ids)), 0
        known = [len(stem.ids) if stem else 0 for stem in stems]
        new = [ids[count:] for ids, count in zip(prompts, known, strict=True)]
        parts = [
            self.read(bench, "prompt", known[some], new[some], first + some.start)
            for some in passes([len(ids) for ids in new], TOKENS)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts or [torch.tensor([])])

    def _read_stems(self, needed: Sequence[SharedPrefix | None]) -> None:
        """Read the stems that were not read yet, those of one depth together."""
        missing = dict.fromkeys(stem for leaf in needed if leaf for stem in leaf.unread)
        while missing:
            ready = [stem for stem in missing if stem.parent not in missing]
            bench = self.open(len(ready), max(len(stem.ids) for stem in ready), of_stems=True)
            self._read_behind(
                bench, 0, [stem.ids for stem in ready], [stem.parent for stem in ready]
            )
            for place, stem in enumerate(ready):
                stem.held = bench, place
                del missing[stem]

    def _take(
        self, bench: SequenceBatch, places: range, source: SequenceBatch, there: int, tokens: int
    ) -> None:
        """The first tokens of a sequence, all that was read of it, go to places of another bench or its own."""
        if places:
            bench.store.copy(source.store, there, slice(places.start, places.stop), tokens)
        for place in places:
            bench.account.inherit(place, source.account, there)

    def _lift(self, bench: SequenceBatch, place: int, tokens: int) -> SequenceBatch:
        """The same on a bench of its own."""
        own = self.open(1, tokens)
        self._take(own, range(1), bench, place, tokens)
        return own


def _above(ids: Ids, stem: SharedPrefix | None) -> SharedPrefix | None:
    """What a prompt is read behind: its stem, or that stem's parent where it is the whole prompt."""
    return stem.parent if stem and stem.ids == ids else stem


def passes(lengths: Sequence[int], tokens: int) -> Iterator[slice]:
    """Neighbours to be read together, of so many tokens at most with padding: masks and scores grow with them."""
    start, longest = 0, 0
    for end, length in enumerate(lengths):
        longest = max(longest, length)
        if end > start and longest * (end + 1 - start) > tokens:
            yield slice(start, end)
            start, longest = end, length
    if lengths:
        yield slice(start, len(lengths))
