"""The steps of a live batch: answers join it, get a token each in every step, and leave it.

    join     prompts are read into the next free slots, several in one pass; see `live_prompts`
    step     one token of every answer is fed, scored and given out; the next one is picked
    leave    the last answers move to the slots that got free, so that no gap is left

Keys and values take as many slots, of as many tokens, as what runs needs: powers of two of both.

A pass that fails is repeated for each of its answers alone, and only those that fail again end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from traitcli.errors import TraitError
from traitcli.generation.live_answer import LiveAnswer
from traitcli.generation.live_picks import Picked, pick_each
from traitcli.generation.live_prompts import find_source, split_leaders
from traitcli.generation.live_reader import LiveReader
from traitcli.models.engine import TOKENS_PER_PASS, Engine, split_passes
from traitcli.models.loaded import LoadedModel
from traitcli.models.memory import ran_out_of_memory
from traitcli.models.sequence_edits import SequenceEdits

if TYPE_CHECKING:
    from torch import Tensor


_MIN_CAPACITY = 256
"""Tokens of a slot at least: smaller ones would soon be copied to larger ones."""


class LiveSteps:
    """Answer i of `answers` is in slot i, so slots in use have no gaps."""

    def __init__(self, loaded: LoadedModel, slots: int, capacity: int) -> None:
        self.answers: list[LiveAnswer] = []
        self.slots = slots
        self.count = 0
        """Passes over tokens of answers so far."""
        self._loaded = loaded
        self._edits = SequenceEdits(loaded)
        self._reader = LiveReader(loaded, self._edits)
        self._engine = Engine(loaded, self._reader)
        self._capacity = capacity
        self._batch = self._engine.open(1, min(_MIN_CAPACITY, capacity))
        self._hooks = ExitStack()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Prepare the model; inside, it cannot be used for anything else."""
        self._hook_model()
        try:
            yield
        finally:
            self._hooks.close()

    @property
    def free(self) -> int:
        """Slots that no answer is in."""
        return self.slots - len(self.answers)

    def join(self, answers: Sequence[LiveAnswer]) -> None:
        """Read the prompts of at most `free` answers and pick the first token of each."""
        self._prepare(answers)
        # Those that failed have no keys, and need no slot.
        ready = [answer for answer in answers if not answer.has_ended]
        for together in split_leaders(ready, self.answers[:]):
            start = len(self.answers)
            self.answers += together
            lengths = [len(answer.request.ids) for answer in together]
            for part in split_passes(lengths, TOKENS_PER_PASS):
                self._try(self._read_prompts, range(start + part.start, start + part.stop))
            self.leave()

    def step(self) -> None:
        """Feed the next token of every answer, give it out, and pick the one after it."""
        if self.answers:
            self.count += 1
            self._try(self._feed, range(len(self.answers)))
            self.leave()

    def leave(self) -> None:
        """Free the slots of answers that have ended, and move the last answers there."""
        before = list(self.answers)
        store = self._batch.store
        for slot, answer in enumerate(before):
            if answer.has_failed:
                store.clear(slot)
            if answer.has_ended:
                self.answers[self.answers.index(answer)] = self.answers[-1]
                self.answers.pop()
        # Neighbors are read without a copy of their keys.
        for slot, answer in enumerate(self.answers):
            if before[slot] is not answer:
                source = before.index(answer)
                store.copy_prefix(store, source, range(slot, slot + 1), answer.length)
        if not self.answers:
            # Nothing of a request stays behind.
            self._edits.clear()
            self._reader.clear()

    def _hook_model(self) -> None:
        self._hooks.enter_context(self._edits.running())
        self._hooks.enter_context(self._engine.running())

    def _prepare(self, answers: Sequence[LiveAnswer]) -> None:
        """Let requests use the model without the hooks of the batch."""
        asking = [(one, one.request.prepare) for one in answers if one.request.prepare]
        if not asking:
            return
        self._hooks.close()
        try:
            for answer, prepare in asking:
                try:
                    prepare()
                # It may be anything that a model or a driver raises.
                except Exception as error:  # noqa: BLE001
                    answer.end("error", _explain(error))
        finally:
            self._hook_model()

    def _try(self, act: Callable[[range], None], slots: range) -> None:
        """Act on the answers in slots together; if that fails, on each alone."""
        answers = self.answers[slots.start : slots.stop]
        memories = [dict(answer.steering.memories) for answer in answers]
        try:
            act(slots)
        # It may be anything that a model, a kernel or a driver raises; each answer gets its own.
        except Exception as error:  # noqa: BLE001
            problem = _explain(error)
        else:
            return
        for slot, answer, memory in zip(slots, answers, memories, strict=True):
            answer.steering.memories = memory
            if len(slots) == 1:
                answer.end("error", problem)
            else:
                self._try(act, range(slot, slot + 1))

    def _read_prompts(self, slots: range) -> None:
        self._make_room(slots)
        answers, earlier = self.answers[slots.start : slots.stop], self.answers[: slots.start]
        known, new = [], []
        store = self._batch.store
        for slot, answer in zip(slots, answers, strict=True):
            source, tokens = find_source(answer, earlier)
            if tokens:
                store.copy_prefix(store, source, range(slot, slot + 1), tokens)
            known.append(tokens)
            new.append(answer.request.ids[tokens:])
        self._edits.begin("prompt", [one.steering for one in answers], list(map(len, new)))
        logits = self._engine.read(self._batch, "prompt", slots, known, new)
        picked = self._pick(answers, logits, 0)

        # Nothing is given out before the whole pass has succeeded.
        for answer, one in zip(answers, picked, strict=True):
            answer.choose(one)

    def _make_room(self, slots: range) -> None:
        """Move what runs to larger slots, or to more, if answers up to the last of `slots` need it.

        While nothing else runs, slots of more tokens than necessary are given back.
        """
        old = self._batch.store
        needed = max(answer.request.most_tokens for answer in self.answers[: slots.stop])
        count = max(old.slots, min(self.slots, _power_of_two(slots.stop)))
        capacity = min(self._capacity, max(_MIN_CAPACITY, _power_of_two(needed)))
        if slots.start:
            capacity = max(old.capacity, capacity)
        if (count, capacity) == (old.slots, old.capacity):
            return
        batch = self._engine.open(count, capacity)
        for slot, answer in enumerate(self.answers[: slots.start]):
            batch.store.copy_prefix(old, slot, range(slot, slot + 1), answer.length)
        self._batch = batch

    def _feed(self, slots: range) -> None:
        answers = self.answers[slots.start : slots.stop]
        probes = [answer.request.probes for answer in answers]
        # The last token of a full answer is fed for its scores; its logits are not needed.
        going = [row for row, answer in enumerate(answers) if not answer.is_last]
        logits_at = going if len(going) < len(answers) else None
        known = [answer.length for answer in answers]
        new = [(answer.next.token,) for answer in answers]

        self._edits.begin("response", [one.steering for one in answers], [1] * len(slots))
        self._reader.watch(probes)
        logits = self._engine.read(self._batch, "response", slots, known, new, logits_at)
        found = self._reader.take(probes)
        picked = dict(
            zip(going, self._pick([answers[row] for row in going], logits, 1), strict=True)
        )

        # Nothing is given out before the whole pass has succeeded.
        for row, (answer, result) in enumerate(zip(answers, found, strict=True)):
            if isinstance(result, TraitError):
                answer.end("error", result)
                continue
            answer.add(result)
            if row in picked:
                answer.choose(picked[row])
            else:
                answer.end("length")

    def _pick(self, answers: Sequence[LiveAnswer], logits: Tensor, ahead: int) -> list[Picked]:
        """Pick the token of each answer that is `ahead` of the tokens given out."""
        if not answers:
            return []
        draws = [answer.draws(answer.written + ahead) for answer in answers]
        return pick_each([answer.request for answer in answers], logits, draws)


def _power_of_two(number: int) -> int:
    """The smallest power of two that is not less than a positive number."""
    return 1 << (number - 1).bit_length()


def _explain(error: Exception) -> TraitError:
    """The error for a request; it holds no frames, and so no tensors of the pass."""
    if isinstance(error, TraitError):
        return error.with_traceback(None)
    cause, *_ = str(error).splitlines() or [""]
    if ran_out_of_memory(error):
        fix = "lower max_new_tokens, or use a model with fewer slots"
        return TraitError("out of memory", cause=cause, fix=fix)
    fix = "send the request again; if it fails again, open an issue"
    return TraitError("the model failed", cause=f"{type(error).__name__}: {cause}", fix=fix)
