"""Runs a model over many sequences at once, and reads what their prompts share only once.

The prompts of a trait begin alike. `prefix_tree` finds the shared beginnings. The engine reads
each of them once, copies the result to every slot that needs it, and reads only the rest there:

    prefix tree                  batch of prefixes            batch of sequences
                                 (a slot for each)            (a slot for each prompt)

    system text ─┬─ persona A    slot 0: system + A ──copy──> slot 0: system + A | question 1
                 │                                  └─copy──> slot 1: system + A | question 2
                 └─ persona B    slot 1: system + B ──copy──> slot 2: system + B | question 1
                                                                                 └ read here

A slot is one index into two things: the KV store (keys and values) and the reader state (what was
computed from hidden states). Both are always copied together. One forward pass gets the new
tokens of all sequences one after another, without padding (see packed_attention.py):

    new tokens   a a a | b | c c ──> model [1, N] ──> hook at layer k: hidden [N, H] ──> state
    their slots  0 0 0 | 1 | 2 2         └──────────> logits [3, V] after each sequence's last token
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

import torch

from traitcli.models.hooks import tap
from traitcli.models.kv_store import KVStore
from traitcli.models.loaded import LoadedModel
from traitcli.models.packed_attention import (
    Content,
    NewTokens,
    PackedInput,
    run_packed,
    use_packed_attention,
)
from traitcli.models.prefix_tree import Ids, SharedPrefix
from traitcli.models.reader import PassTokens, Phase, Reader, ReaderState
from traitcli.models.step_kernels import wants_tokens_together

if TYPE_CHECKING:
    from torch import Tensor

TOKENS_PER_PASS = 4096
"""Tokens read in one pass, padding of the attention included; one longer text is read alone."""


@dataclass(slots=True, eq=False)
class SequenceBatch:
    """Sequences side by side, a slot each: their keys and values, and what was read of them.

    holds_prefixes  whether they are shared prefixes, which other batches continue
    """

    store: KVStore
    state: ReaderState
    holds_prefixes: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _ReadPrompt:
    """Where a prompt was read, and the logits [V] after it."""

    batch: SequenceBatch
    slot: int
    logits: Tensor


class Engine:
    """One model, and one reader that sees the hidden states of every token once."""

    def __init__(self, loaded: LoadedModel, reader: Reader, pass_share: float = 1.0) -> None:
        """`pass_share` scales the tokens of one pass."""
        self._tokens_per_pass = max(1, int(TOKENS_PER_PASS * pass_share))
        self._loaded = loaded
        self._reader = reader
        # The state of the batch that is being read: hooks know the layer, not the batch.
        self._state: ReaderState

    @contextmanager
    def running(self) -> Iterator[None]:
        """Prepare the model for `read`; inside, it cannot be used for anything else."""

        def read_layer(layer: int, hidden: Tensor) -> None:
            self._state.read_layer(layer, hidden[0])

        layers = self._reader.layers
        with use_packed_attention(self._loaded), tap(self._loaded.model, layers, read_layer):
            yield

    def open(self, slots: int, capacity: int, *, holds_prefixes: bool = False) -> SequenceBatch:
        """A batch of empty slots for `capacity` tokens each."""
        test = self._loaded.self_test
        store = KVStore(slots, capacity, test.groups if test else ())
        return SequenceBatch(store, self._reader.open(slots), holds_prefixes)

    def open_fixed(self, slots: int, capacity: int) -> SequenceBatch:
        """The same for a `FixedInput`.

        The reader has one slot more, for what is read in free slots and not wanted.
        """
        test = self._loaded.self_test
        groups = test.groups if test else ()
        # A free slot is written to as well, one token beyond the answer that was there.
        together = wants_tokens_together(self._loaded.device)
        store = KVStore(slots, capacity + 1, groups, token_by_token=together)
        return SequenceBatch(store, self._reader.open(slots + 1))

    def read(
        self,
        batch: SequenceBatch,
        phase: Phase,
        slots: Sequence[int],
        known: Sequence[int],
        new: Sequence[Ids],
        logits_at: Sequence[int] | None = None,
    ) -> Tensor:
        """Read more tokens of sequences in one forward pass.

        Args:
            batch: where the sequences are.
            phase: whether the tokens belong to prompts or to responses.
            slots: slot of each sequence, rising; neighboring slots cost the least.
            known: tokens that each sequence has already.
            new: tokens to read, at least one for each sequence.
            logits_at: K indices into all new tokens; default: each sequence's last one.

        Returns:
            Logits [K, V] after these tokens.
        """
        content: Content = "prefixes" if batch.holds_prefixes else "prompts"
        if phase == "response":
            content = "responses"
        sequences = NewTokens(known, new, slots, logits_at)
        packed = PackedInput(batch.store, sequences, self._loaded.device, content)

        counts = [(slot, len(ids)) for slot, ids in zip(slots, new, strict=True)]
        return self.run(batch, phase, packed, PassTokens(packed.slots, packed.ends, counts))

    def run(
        self, batch: SequenceBatch, phase: Phase, packed: PackedInput, tokens: PassTokens
    ) -> Tensor:
        """One forward pass; the reader is told that it gets `tokens`. Logits [K, V]."""
        self._state = batch.state
        self._state.begin(phase, tokens)
        return run_packed(self._loaded, packed, packed.logits_at)

    def read_prompts(
        self,
        batch: SequenceBatch,
        slots: Sequence[int],
        prompts: Sequence[Ids],
        prefixes: Sequence[SharedPrefix | None],
    ) -> Tensor:
        """Read prompts into slots, and their shared prefixes if necessary.

        Equal prompts are read once, in the slot of one of them, and copied to the others.

        Args:
            batch: where the prompts go.
            slots: slot of each prompt, rising.
            prompts: their tokens.
            prefixes: for each prompt, what `find_shared_prefixes` found for it.

        Returns:
            Logits [R, V] after each prompt.
        """
        prefix_of = dict(zip(prompts, prefixes, strict=True))
        sources: dict[Ids, _ReadPrompt] = {}
        for ids, prefix in prefix_of.items():
            # An equal prompt was read earlier, and kept for this one.
            if prefix and prefix.logits is not None:
                source, slot = prefix.location
                sources[ids] = _ReadPrompt(source, slot, prefix.logits)

        unread = [ids for ids in prefix_of if ids not in sources]
        parents = [_prefix_before(ids, prefix_of[ids]) for ids in unread]
        own_slots = slots[: len(unread)]
        new_logits = self._read_after_prefixes(batch, own_slots, unread, parents)
        for slot, ids, logits in zip(own_slots, unread, new_logits, strict=True):
            sources[ids] = _ReadPrompt(batch, slot, logits)

        # Distinct prompts were read into the first slots. A prompt's final slots
        # never come before the slot where it was read. So, from the last slot to the first, no copy
        # overwrites a prompt that is still needed.
        for ids, targets in reversed(_equal_neighbors(prompts, slots)):
            self._place_prompt(batch, targets, ids, sources[ids], prefix_of[ids])

        if len(unread) == len(prompts):
            return new_logits
        return torch.stack([sources[ids].logits for ids in prompts])

    def _place_prompt(
        self,
        batch: SequenceBatch,
        slots: Sequence[int],
        ids: Ids,
        source: _ReadPrompt,
        prefix: SharedPrefix | None,
    ) -> None:
        """Copy a prompt to its slots, and keep it if equal prompts will come later."""
        is_in_place = source.batch is batch and source.slot == slots[0]
        targets = slots[1:] if is_in_place else slots
        self._copy_prefix(batch, targets, source.batch, source.slot, len(ids))

        if prefix and prefix.ids == ids:
            prefix.release(len(slots))
            if prefix.users and prefix.logits is None:
                # Cloned, because a view would keep the logits of all prompts in memory.
                kept = self._copy_to_own_batch(source.batch, source.slot, len(ids))
                prefix.location, prefix.logits = (kept, 0), source.logits.clone()

    def _read_after_prefixes(
        self,
        batch: SequenceBatch,
        slots: Sequence[int],
        prompts: Sequence[Ids],
        prefixes: Sequence[SharedPrefix | None],
    ) -> Tensor:
        """Copy each prompt's prefix to its slot and read the rest; logits [R, V]."""
        self._read_prefixes(prefixes)

        for prefix, group in groupby(zip(prefixes, slots, strict=True), key=itemgetter(0)):
            if prefix:
                targets = [slot for _, slot in group]
                source, source_slot = prefix.location
                self._copy_prefix(batch, targets, source, source_slot, len(prefix.ids))

                prefix.release(len(targets))
                if prefix.users and source.store.slots > 1:
                    # A batch of its own: the other prefixes of the old one can then be freed.
                    own = self._copy_to_own_batch(source, source_slot, len(prefix.ids))
                    prefix.location = own, 0

        known = [len(prefix.ids) if prefix else 0 for prefix in prefixes]
        new = [ids[count:] for ids, count in zip(prompts, known, strict=True)]
        logits = []
        # Several passes, because the memory of one grows with its tokens.
        for part in split_passes([len(ids) for ids in new], self._tokens_per_pass):
            logits.append(self.read(batch, "prompt", slots[part], known[part], new[part]))
        return logits[0] if len(logits) == 1 else torch.cat(logits or [torch.tensor([])])

    def _read_prefixes(self, prefixes: Sequence[SharedPrefix | None]) -> None:
        """Read prefixes and their ancestors that are not read yet; one pass for each depth."""
        missing: dict[SharedPrefix, None] = {}
        for prefix in prefixes:
            if prefix:
                missing |= dict.fromkeys(prefix.unread)

        while missing:
            # Prefixes whose parents are read do not depend on each other: one pass reads them all.
            level = [prefix for prefix in missing if prefix.parent not in missing]
            longest = max(len(prefix.ids) for prefix in level)
            batch = self.open(len(level), longest, holds_prefixes=True)
            ids = [prefix.ids for prefix in level]
            parents = [prefix.parent for prefix in level]
            self._read_after_prefixes(batch, range(len(level)), ids, parents)
            for slot, prefix in enumerate(level):
                prefix.location = batch, slot
                del missing[prefix]

    def _copy_prefix(
        self,
        batch: SequenceBatch,
        slots: Sequence[int],
        source: SequenceBatch,
        source_slot: int,
        tokens: int,
    ) -> None:
        """Copy the first tokens of a sequence to slots of this or another batch."""
        # All neighbors at once: single copies take three times as long.
        for neighbors in neighboring(slots):
            batch.store.copy_prefix(source.store, source_slot, neighbors, tokens)
            batch.state.copy_prefix(neighbors, source.state, source_slot)

    def _copy_to_own_batch(self, source: SequenceBatch, slot: int, tokens: int) -> SequenceBatch:
        """Copy a sequence to a batch of one slot, so that the rest of its batch can be freed."""
        own = self.open(1, tokens)
        self._copy_prefix(own, range(1), source, slot, tokens)
        return own


def split_passes(lengths: Sequence[int], max_tokens: int) -> Iterator[slice]:
    """Split neighboring sequences into passes of at most `max_tokens`, padding included.

    The attention pads its queries, so its masks and scores grow with the longest sequence.
    """
    start, longest = 0, 0
    for end, length in enumerate(lengths):
        longest = max(longest, length)
        if end > start and longest * (end + 1 - start) > max_tokens:
            yield slice(start, end)
            start, longest = end, length
    if lengths:
        yield slice(start, len(lengths))


def _prefix_before(ids: Ids, prefix: SharedPrefix | None) -> SharedPrefix | None:
    """The prefix a prompt is read after: the parent, if the prefix is the whole prompt."""
    return prefix.parent if prefix and prefix.ids == ids else prefix


def neighboring(slots: Sequence[int]) -> Iterator[range]:
    """Split rising slots into ranges without gaps."""
    start = 0
    for end in range(1, len(slots) + 1):
        if end == len(slots) or slots[end] != slots[end - 1] + 1:
            yield range(slots[start], slots[end - 1] + 1)
            start = end


def _equal_neighbors(prompts: Sequence[Ids], slots: Sequence[int]) -> list[tuple[Ids, list[int]]]:
    """Equal prompts that follow each other, with their slots."""
    groups = groupby(zip(prompts, slots, strict=True), key=itemgetter(0))
    return [(ids, [slot for _, slot in group]) for ids, group in groups]
