"""The protocol between a forward pass and what computes something from its hidden states.

A `Reader` names the layers it needs; its `ReaderState` sees the hidden states of exactly these
layers, once for every token, and keeps only what it computes from them. For each forward pass:

    state.begin(phase, tokens)           which sequence each of the N tokens belongs to
    state.read_layer(layer, hidden)      hidden states [N, H], once for each layer of the reader

The other methods follow a sequence through its batch: a shared prefix is copied to it, it moves
to another slot, it is finished. Everything else (packing, padding, keys and values, sampling)
stays inside the engine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Floats = NDArray[np.float32]

Phase = Literal["prompt", "response"]


@dataclass(frozen=True, slots=True, eq=False)
class PassTokens:
    """The N tokens of R sequences in a forward pass; tokens of a sequence are adjacent.

    slots   int64 [N], the slot of each token's sequence
    ends    int64 [R], the index of each sequence's last token
    counts  slot of each sequence, and how many of the tokens are its own: what the tensors say too,
            known without waiting for their device
    """

    slots: Tensor
    ends: Tensor
    counts: Sequence[tuple[int, int]]


class ReaderState(Protocol):
    """What a reader has computed for the sequences of one batch, one slot each."""

    def begin(self, phase: Phase, tokens: PassTokens) -> None:
        """Announce a forward pass over tokens of prompts or of responses."""
        ...

    def read_layer(self, layer: int, hidden: Tensor) -> None:
        """Take the hidden states [N, H] of one layer, in the model's dtype."""
        ...

    def copy_prefix(self, slots: range, source: Any, source_slot: int) -> None:
        """Let the prompts in `slots` begin with all that `source`, a state, has in its slot."""
        ...

    def finish(self, slots: Sequence[int], requests: Sequence[int]) -> None:
        """File what was computed under the number of each request, and free the slots."""
        ...

    def move(self, source_slot: int, slot: int) -> None:
        """Move a sequence to a free slot, and free its own."""
        ...

    # Most readers score no tokens, so these have a default.
    def take_scores(self) -> Tensor | None:
        """The scores of the last pass, float32 [N, P], before they are copied from the device.

        Whoever takes them gives those that are wanted back with `give_scores`.
        """
        return None

    def give_scores(self, slots: Sequence[int], scores: Tensor) -> Floats | None:
        """File scores [n, P] on the CPU, one token of the response in each of `slots`.

        Returns what `token_scores` would.
        """
        return None

    def token_scores(self) -> Floats | None:
        """Scores float32 [N, P] of the last pass's tokens; none if the reader scores no tokens."""
        return None

    def prompt_scores(self, slot: int) -> Floats | None:
        """Scores float32 [T, P] of a prompt's tokens; none if the reader scores no prompts."""
        return None


class Reader(Protocol):
    """Computes something from the hidden states of `layers` in every forward pass."""

    @property
    def layers(self) -> Iterable[int]: ...

    def open(self, slots: int) -> ReaderState:
        """An empty state for a batch of `slots` sequences."""
        ...


# One object for both roles: without layers there is nothing to keep for a batch.
class NullReader(ReaderState):
    """A reader of no layers, for passes of which only the logits matter; it is its own state."""

    layers: Iterable[int] = ()

    def open(self, slots: int) -> ReaderState:
        return self

    def begin(self, phase: Phase, tokens: PassTokens) -> None:
        pass

    def read_layer(self, layer: int, hidden: Tensor) -> None:
        pass

    def copy_prefix(self, slots: range, source: Any, source_slot: int) -> None:
        pass

    def finish(self, slots: Sequence[int], requests: Sequence[int]) -> None:
        pass

    def move(self, source_slot: int, slot: int) -> None:
        pass
