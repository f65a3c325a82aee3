"""Follows the running score of each sequence while a model writes, without waiting for the device.

    pass over the tokens t of several sequences

    model begins     is_open  [n]: is the mean score of the tokens before t beyond the bound?
    block of a push  adds where is_open
    layer that is    the scores of the tokens t are remembered, for the next pass
    read

The layer that is read may come after the layer that is pushed. So that this makes no difference,
the token itself never decides about itself.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import torch

from traitcli.errors import UserError
from traitcli.models.block_edit import unit_vector
from traitcli.models.hooks import tap
from traitcli.models.massive import lengths
from traitcli.models.packed_attention import PackedInput
from traitcli.models.sequence_memory import Memories, memories_of

if TYPE_CHECKING:
    from torch import Tensor

    from traitcli.models.block_edit import Vector

WINDOW = 8
"""Tokens whose mean is the running score. With fewer, there is none, as for alarms."""


@dataclass(frozen=True, slots=True)
class ScoreScale:
    """How a projection becomes a calibrated score: (projection − midpoint) / half.

    midpoint       between the class means of the projections, in activation units
    half           half of their distance; not 0
    massive_above  longer states are massive: their scores mean nothing, and are not counted
    """

    midpoint: float
    half: float
    massive_above: float = math.inf

    def projection_at(self, score: float) -> float:
        """The projection, in activation units, of a calibrated score."""
        return self.midpoint + self.half * score


class ScoreGate:
    """Tells which sequences have a running score beyond a bound, inside `with`.

    The running score is the mean calibrated score of the last `WINDOW` tokens of the answer that
    are not massive; a sequence with fewer has none, and its gate is closed. Prompts are not
    counted. The tokens of an answer are those that are fed one at a time after a prompt, in our
    engine and in `generate` of transformers; beams of a beam search are not followed.

    Args:
        model: a causal language model of transformers.
        vector: float [H], the direction whose projection is the score.
        layer: the layer that is read, 0 to L.
        scale: how its projection becomes a calibrated score.
        bound: the calibrated score.
        above: whether the gate is open above the bound, or below it.
    """

    def __init__(
        self,
        model: Any,
        vector: Vector,
        layer: int,
        scale: ScoreScale,
        bound: float,
        above: bool,
    ) -> None:
        self._model = model
        self._unit = unit_vector(model, vector)
        self.layer = layer
        self._scale = scale
        self._bound = bound
        self._above = above
        self._hooks: ExitStack | None = None
        self._pass = _Pass({}, None, 0, is_step=False)
        self.is_open: Tensor | None = None
        """bool [n] for the n sequences of the present pass; none: all are closed."""

    def __enter__(self) -> Self:
        with ExitStack() as hooks:
            # On the model itself: it alone gets the cache, whatever its blocks are given.
            hook = self._model.register_forward_pre_hook(self._begin, with_kwargs=True)
            hooks.callback(hook.remove)
            hooks.enter_context(tap(self._model, [self.layer], self.read))
            self._hooks = hooks.pop_all()
        return self

    def __exit__(self, *raised: object) -> None:
        if self._hooks is not None:
            self._hooks.close()
            self._hooks = None
        self.is_open = None

    def _begin(self, model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        packed = kwargs.get("packed_input")
        if isinstance(packed, PackedInput):
            self._begin_pass(_packed_pass(packed))
        else:
            self._begin_pass(_padded_pass(args, kwargs))

    def begin_step(self, memories: Memories) -> None:
        """Announce one answer token of one sequence, without `with`; `read` follows.

        `memories` are the sequence's own; empty before its first step.
        """
        self._begin_pass(_Pass(memories, None, 1, is_step=True))

    def _begin_pass(self, current: _Pass) -> None:
        self._pass = current
        self.is_open = None
        memory = self._pass.memories.get(self)
        if memory is None:
            return
        # Rows that somebody else has dropped from a cache cannot be followed: all begin again.
        is_known = len(memory) == self._pass.size
        if self._pass.is_step and is_known:
            self.is_open = self._is_beyond(self._pass.rows_of(memory))
        elif self._pass.rows is None:
            del self._pass.memories[self]
        else:
            # Another sequence was in the slot.
            memory.index_fill_(0, self._pass.rows.to(memory.device), 0)

    def _is_beyond(self, memory: Tensor) -> Tensor:
        """bool [n] from what is remembered of n sequences."""
        running = memory[:, :WINDOW].mean(1)
        beyond = running > self._bound if self._above else running < self._bound
        return beyond & (memory[:, WINDOW] >= WINDOW)

    def read(self, layer: int, hidden: Tensor) -> None:
        """Remember the scores of the tokens of this pass, from their states [B, T, H]."""
        current = self._pass
        if not current.is_step:
            return
        # With a device map, only the first pass shows which device the layer is on.
        self._unit = self._unit.to(hidden.device)
        states = hidden.flatten(0, 1).float()
        score = (states @ self._unit - self._scale.midpoint) / self._scale.half

        memory = current.memories.get(self)
        if memory is None:
            memory = score.new_zeros(current.size, WINDOW + 1)
        known = current.rows_of(memory)
        # The last column counts the scores; they take turns in the others.
        count = known[:, WINDOW:]
        later = known.scatter(1, count.remainder(WINDOW).long(), score[:, None])
        later[:, WINDOW:] = count + 1
        if self._scale.massive_above < math.inf:
            is_massive = lengths(states) > self._scale.massive_above
            later = torch.where(is_massive[:, None], known, later)
        current.remember(self, memory, later)


@dataclass(frozen=True, slots=True, eq=False)
class _Pass:
    """A forward pass, as far as a gate must know it.

    memories  where its sequences are remembered, `size` of them
    rows      int64 [n], the row of each of its tokens there; none: its sequences are all of them
    is_step   whether it is over one answer token of each sequence
    """

    memories: Memories
    rows: Tensor | None
    size: int
    is_step: bool

    def rows_of(self, memory: Tensor) -> Tensor:
        """[n, …]: what is remembered of the sequences of the pass."""
        if self.rows is None:
            return memory
        return memory.index_select(0, self.rows.to(memory.device))

    def remember(self, gate: ScoreGate, memory: Tensor, later: Tensor) -> None:
        """Replace what is remembered of the sequences of the pass."""
        if self.rows is None:
            self.memories[gate] = later
        else:
            self.memories[gate] = memory.index_copy_(0, self.rows.to(memory.device), later)


def _packed_pass(packed: PackedInput) -> _Pass:
    is_answer = packed.content == "responses"
    if is_answer and not packed.is_step:
        raise UserError(
            "a gate cannot follow existing texts",
            cause="several tokens of a sequence are read in one pass, and each decides about the "
            "next",
            fix="generate the text, or steer without a gate",
        )
    store = packed.store
    return _Pass(store.memories, packed.slots, store.slots, is_step=is_answer)


def _padded_pass(args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Pass:
    inputs = args[0] if args else kwargs.get("input_ids")
    if inputs is None:
        inputs = kwargs["inputs_embeds"]
    cache = kwargs.get("past_key_values")
    if cache is None:
        # Without a past, it is a prompt.
        return _Pass({}, None, inputs.shape[0], is_step=False)
    is_step = inputs.shape[1] == 1 and _has_tokens(cache)
    return _Pass(memories_of(cache), None, inputs.shape[0], is_step=is_step)


def _has_tokens(cache: Any) -> bool:
    try:
        return bool(cache.get_seq_length())
    except ValueError:
        # A cache of recurrent layers alone does not count; only its first pass is over a prompt.
        return any(getattr(layer, "is_initialized", True) for layer in cache.layers)
