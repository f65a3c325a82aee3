"""Scores the tokens of a live batch, where each sequence has probes of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from traitcli.generation.projections import Probe, ProjectionReader
from traitcli.models.finite import not_finite
from traitcli.models.loaded import LoadedModel
from traitcli.models.reader import NullReader, PassTokens, Phase
from traitcli.models.sequence_edits import SequenceEdits

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from traitcli.errors import ModelError

    Floats = NDArray[np.float32]

_Key = tuple[int, str, int]


class LiveReader(NullReader):
    """Projects tokens of answers on the probes of all running sequences.

    Every probe is computed once, for all tokens; each sequence takes its own columns. Nothing is
    kept from pass to pass, so a slot has nothing that could move or stay behind.
    """

    def __init__(self, loaded: LoadedModel, edits: SequenceEdits) -> None:
        self.layers = range(loaded.layer_count)
        self._loaded = loaded
        self._edits = edits
        self._phase: Phase = "prompt"
        # bool [N]: whether the last layer of each token is finite, in the last pass.
        self._finite = torch.zeros(0, dtype=torch.bool)
        self._choose({})

    def watch(self, probes: Sequence[Sequence[Probe]]) -> None:
        """Announce a pass over one answer token of each sequence, and what is read of each."""
        wanted = {_key(probe): probe for own in probes for probe in own}
        known = list(self._columns)
        # The order of the columns may change the last bits of a product: a request that runs alone
        # gets the product that it would get elsewhere.
        if set(wanted) != set(known) or (len(probes) == 1 and list(wanted) != known):
            self._choose(wanted)

    def begin(self, phase: Phase, tokens: PassTokens) -> None:
        """See `ReaderState`."""
        self._phase = phase
        # No counts: the state then keeps nothing for a slot.
        # What a pass has left that failed.
        self._state.take_scores()
        self._state.begin(phase, PassTokens(tokens.slots, tokens.ends, ()))

    def read_layer(self, layer: int, hidden: Tensor) -> None:
        """See `ReaderState`."""
        if self._phase == "prompt":
            return
        self._edits.read_layer(layer, hidden)
        if layer == self._loaded.blocks:
            self._finite = hidden.isfinite().all(-1)
        if layer in self._reader.units:
            self._state.read_layer(layer, hidden)

    def take(self, probes: Sequence[Sequence[Probe]]) -> list[Floats | ModelError]:
        """What the last pass gives each sequence, those of `watch`; waits once for the device.

        Returns, for each, float32 [2P + B]: the projections of its probes, then 1 where the token
        is massive at the layer of the probe, then 1 for each cap and gate that held at the token,
        else 0. A sequence whose projections are not finite has an error instead.
        """
        found = self._state.take_scores()
        brakes = [brake for one in self._edits.sequences for brake in one.brakes]
        finite, scores, held = self._fetch(found, [brake.held for brake in brakes])
        scores = scores.reshape(len(probes), -1).take(self._order, axis=1)

        results: list[Floats | ModelError] = []
        start = 0
        rows = zip(probes, self._edits.sequences, scores, finite, strict=True)
        for own, sequence, row, is_finite in rows:
            columns = [self._columns[_key(probe)] for probe in own]
            columns += [len(self._columns) + column for column in columns]
            end = start + len(sequence.brakes)
            values = np.concatenate([row[columns], held[start:end]])
            start = end
            results.append(self._broken(own, values, bool(is_finite)) or values)
        return results

    def _fetch(
        self, found: Tensor | None, held: Sequence[Tensor | None]
    ) -> tuple[Floats, Floats, Floats]:
        """Whether tokens are finite, scores, and whether each brake held: in one copy, float32."""
        nothing = torch.zeros(1, device=self._loaded.device)
        parts = [self._finite.to(nothing), nothing[:0] if found is None else found.flatten()]
        first, second = len(parts[0]), len(parts[0]) + len(parts[1])
        parts += [nothing if one is None else one.to(nothing) for one in held]
        numbers: Floats = torch.cat(parts).cpu().numpy()
        return numbers[:first], numbers[first:second], numbers[second:]

    def clear(self) -> None:
        """Forget all probes."""
        self._choose({})

    def _broken(
        self, probes: Sequence[Probe], values: Floats, is_finite: bool
    ) -> ModelError | None:
        pairs = zip(probes, np.isfinite(values[: len(probes)]), strict=True)
        layers = [probe.layer for probe, is_own_finite in pairs if not is_own_finite]
        # Also without a probe: keys that are not finite must not stay in a slot.
        layers += [] if is_finite else [self._loaded.blocks]
        return not_finite(self._loaded, min(layers)) if layers else None

    def _choose(self, wanted: dict[_Key, Probe]) -> None:
        self._reader = ProjectionReader(list(wanted.values()), self._loaded, marks=True)
        self._state = self._reader.open(0)
        self._order = np.array(self._reader.order, np.int64)
        self._columns = {key: column for column, key in enumerate(wanted)}


def _key(probe: Probe) -> _Key:
    # By identity: the reader keeps the vector, so its number stays its own.
    return id(probe.vector), probe.position, probe.layer
