"""The protocol between a forward pass and what computes something from its hidden states.

A `Reader` names the layers it needs; its `ReaderState` sees the hidden states of exactly these
layers, once for every token, and keeps only what it computes from them. For each forward pass:

    state.begin(phase, slots, ends)      which sequence each of the N tokens belongs to
    state.read_layer(layer, hidden)      hidden states [N, H], once for each layer of the reader

The other methods follow a sequence through its batch: a shared prefix is copied to it, it moves
to another slot, it is finished. Everything else (packing, padding, keys and values, sampling)
stays inside the engine.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    Floats = NDArray[np.float32]

Phase = Literal["prompt", "response"]


class ReaderState(Protocol):
    """What a reader has computed for the sequences of one batch, one slot each."""

    def begin(self, phase: Phase, slots: Tensor, ends: Tensor) -> None:
        """Announce a forward pass over N tokens of R sequences.

        Args:
            phase: whether the tokens are part of prompts or of responses.
            slots: int64 [N], the slot of each token's sequence; tokens of a sequence are adjacent.
            ends: int64 [R], the index of each sequence's last token in this pass.
        """
        ...

    def read_layer(self, layer: int, hidden: Tensor) -> None:
        """Take the hidden states [N, H] of one layer, in the model's dtype."""
        ...

    def copy_prefix(self, slot: int, source: Any, source_slot: int) -> None:
        """Let the prompt in `slot` begin with all that `source`, another state, has in its slot."""
        ...

    def finish(self, slot: int, request: int) -> None:
        """File what was computed under the number of its request, and free the slot."""
        ...

    def move(self, source_slot: int, slot: int) -> None:
        """Move a sequence to a free slot, and free its own."""
        ...

    # Most readers score no tokens, so these two have a default.
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

    def begin(self, phase: Phase, slots: Tensor, ends: Tensor) -> None:
        pass

    def read_layer(self, layer: int, hidden: Tensor) -> None:
        pass

    def copy_prefix(self, slot: int, source: Any, source_slot: int) -> None:
        pass

    def finish(self, slot: int, request: int) -> None:
        pass

    def move(self, source_slot: int, slot: int) -> None:
        pass
