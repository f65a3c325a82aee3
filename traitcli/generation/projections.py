"""A reader that projects every token's hidden state on trait vectors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch

from traitcli.errors import VectorError
from traitcli.models.finite import check_layers
from traitcli.models.loaded import LoadedModel
from traitcli.models.massive import is_massive
from traitcli.models.reader import PassTokens, Phase, ReaderState
from traitcli.records import Position, TraitVector
from traitcli.vectors.methods import calibrate

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Probe:
    """A vector as the monitor reads it: the direction of one position at one layer."""

    vector: TraitVector
    position: Position
    layer: int

    def unit(self, device: torch.device) -> Tensor:
        """The direction, float32 [H] of length 1 (a zero direction stays zero)."""
        direction = torch.from_numpy(self.vector.directions[self.position][self.layer])
        return torch.nn.functional.normalize(direction, dim=0).to(device)

    @property
    def is_calibrated(self) -> bool:
        """Whether the vector has the class means that calibrated scores need."""
        return self.position in self.vector.stats

    def calibrate(self, raw: Floats) -> Floats:
        """Calibrated scores of projections; the vector must have class means."""
        # The class means were measured at this position and layer: those of others do not fit.
        return np.asarray(calibrate(raw, self.vector.stats[self.position], self.layer))

    @property
    def at_every_layer(self) -> list[Probe]:
        """The same vector at layers 0 to L."""
        layers = range(self.vector.layer_count)
        return [Probe(self.vector, self.position, layer) for layer in layers]


def check_fit(vector: TraitVector, loaded: LoadedModel, position: Position) -> None:
    """Raise VectorError if a vector does not have the model's shape, or not this position."""
    shape = [vector.layer_count, vector.hidden_size]
    wanted = [loaded.layer_count, loaded.hidden_size]
    if shape != wanted:
        raise VectorError(
            f"the vector of {vector.trait} does not fit {loaded.name}",
            cause=f"its shape is {shape}; the model needs {wanted}",
            fix="use vectors built from this model",
        )

    if position not in vector.directions:
        raise VectorError(
            f"the vector of {vector.trait} has no {position}",
            cause=f"it has {', '.join(vector.directions)}",
            fix=f"rebuild it: traitcli build-vector {vector.trait}",
        )


def make_probes(
    vectors: Iterable[TraitVector],
    loaded: LoadedModel,
    position: Position,
    layer: int | None = None,
) -> dict[str, Probe]:
    """Make one probe for each vector, keyed by trait.

    Args:
        vectors: vectors of this model, shape [L+1, H].
        position: which of their directions to use.
        layer: 0 to L; without it, each vector's own layer.

    Raises:
        VectorError: a vector does not fit the model, or there is no such layer.
    """
    probes = {}
    for vector in vectors:
        chosen = vector.layer if layer is None else layer
        check_fit(vector, loaded, position)
        if not 0 <= chosen < vector.layer_count:
            raise VectorError(
                f"no layer {chosen}",
                cause=f"{loaded.name} has layers 0 to {loaded.layer_count - 1}",
                fix="choose one of them",
            )
        provided = vector.quality.layers_provided
        if provided is not None and chosen not in provided:
            raise VectorError(
                f"the vector of {vector.trait} has no layer {chosen}",
                cause=f"its file has layers {', '.join(map(str, provided))}",
                fix=f"layer {provided[len(provided) // 2]}, or another of these",
            )
        probes[vector.trait] = Probe(vector, position, chosen)
    return probes


class Marks(Protocol):
    """Further columns of passes over generated tokens: something is true of a token, or not."""

    @property
    def width(self) -> int:
        """The number of columns."""
        ...

    def held(self, tokens: int) -> list[Tensor | None]:
        """Each column of the last pass, bool [tokens] on any device; none: true of no token."""
        ...


class TextProjections(NamedTuple):
    """Projections of one text, float32 [tokens, P] each; a prompt that was not scored has none.

    With marks, they are [tokens, 2P]; with further columns M, [tokens, 2P + M].
    """

    prompt: Floats
    response: Floats


class ProjectionReader:
    """Projects every token on P probes: (h · v) / ‖v‖, in activation units.

    `finished` maps each request to the projections of its text. Prompts are scored only if
    `prompts`. With `marks`, P more columns follow: 1 where the token is massive at the layer of the
    probe (see `is_massive`), else 0. The columns of `more` come last, as 1 and 0; those of prompts
    are 0.
    """

    def __init__(
        self,
        probes: Sequence[Probe],
        loaded: LoadedModel,
        *,
        prompts: bool = False,
        marks: bool = False,
        more: Marks | None = None,
    ) -> None:
        self.loaded = loaded
        self.more = more if more and more.width else None
        self.layers = sorted({probe.layer for probe in probes})
        # Without probes one layer is read all the same: tokens still have rows, and brakes columns.
        self.layers = self.layers or [0]
        self.marks = marks
        self.width = 2 * len(probes) if marks else len(probes)
        self.prompts = prompts
        self.finished: dict[int, TextProjections] = {}

        # All probes of a layer are one matrix product: layer -> [H, probes at this layer].
        self.units: dict[int, Tensor] = {}
        # Column of the results -> column of the layers' products side by side, where the marks of
        # a layer follow its product.
        self.order = [0] * self.width
        found = 0
        for layer in self.layers:
            columns = [i for i, probe in enumerate(probes) if probe.layer == layer]
            units = [probes[i].unit(loaded.device) for i in columns]
            none = torch.zeros(loaded.hidden_size, 0, device=loaded.device)
            self.units[layer] = torch.stack(units, 1) if units else none
            for number, column in enumerate(columns):
                self.order[column] = found + number
                if marks:
                    self.order[len(probes) + column] = found + len(columns)
            found += len(columns) + marks
        if self.more:
            self.order += range(found, found + self.more.width)
            self.width += self.more.width

    def in_order(self, found: Tensor) -> Floats:
        """float32 [N, P] from the products of all layers side by side, which are on the CPU.

        Raises ModelError unless all numbers are finite.
        """
        widths = [self.units[layer].shape[1] + self.marks for layer in self.layers]
        # Without the further columns: those are 0 and 1.
        by_layer = torch.split(found[:, : sum(widths)], widths, 1)
        check_layers(self.loaded, zip(self.layers, by_layer, strict=True))
        return found.numpy().take(self.order, axis=1)

    def open(self, slots: int) -> _Projections:
        return _Projections(self, slots)


class _Projections(ReaderState):
    """Projections of the sequences of one batch: for each phase, one array [n, P] per pass.

    A pass over all sequences gives one array [N, P]. It stays on the device, layer by layer, and is
    copied and divided among the sequences only when someone asks for theirs or the next pass
    begins: no call says that a pass is complete.
    """

    def __init__(self, reader: ProjectionReader, slots: int) -> None:
        self._reader = reader
        self._parts = [_no_parts() for _ in range(slots)]
        self._phase: Phase = "prompt"
        self._pass = np.zeros((0, reader.width), dtype=np.float32)
        # What the pass has given so far, one [N, …] for each layer, on their devices.
        self._found: list[Tensor] = []
        # Slots of the pass that is not divided yet, and how many of its tokens belong to each.
        self._counts: Sequence[tuple[int, int]] = ()

    def begin(self, phase: Phase, tokens: PassTokens) -> None:
        self._divide_pass()
        self._phase = phase
        self._counts = tokens.counts

    def read_layer(self, layer: int, hidden: Tensor) -> None:
        if not self._is_scored:
            return
        units = self._reader.units[layer]
        # In float32: next to the few very large dimensions, half precision would lose the others.
        hidden = hidden.to(units.device, torch.float32)
        found = hidden @ units
        if self._reader.marks:
            marks = is_massive(self._reader.loaded, layer, hidden)
            found = torch.cat([found, marks[:, None]], 1)
        self._found.append(found)

    def _fetch(self) -> None:
        """Copy the scores of a pass to the CPU, those of all layers together: a copy waits."""
        found = self.take_scores()
        if found is not None:
            self._pass = self._reader.in_order(found.cpu())

    def take_scores(self) -> Tensor | None:
        if not self._found:
            return None
        found = torch.cat([*self._found, *self._further_columns()], 1)
        self._found = []
        return found

    def give_scores(self, slots: Sequence[int], scores: Tensor) -> Floats:
        # A new array each time: parts of it are handed out.
        ordered = self._reader.in_order(scores)
        for slot, one in zip(slots, ordered, strict=True):
            self._parts[slot]["response"].append(one[None])
        return ordered

    def _further_columns(self) -> list[Tensor]:
        """float32 [N, 1] each, on the device of the scores."""
        if not self._reader.more:
            return []
        like = self._found[0][:, :1]
        if self._phase == "prompt":
            return [torch.zeros_like(like)] * self._reader.more.width
        held = self._reader.more.held(len(like))
        return [torch.zeros_like(like) if one is None else one.to(like)[:, None] for one in held]

    def copy_prefix(self, slots: range, source: _Projections, source_slot: int) -> None:
        self._divide_pass()
        # Both states may have a pass that is not divided, and what is copied must be complete.
        source._divide_pass()
        for slot in slots:
            # A new list, because each sequence appends to its own; the arrays in it never change.
            self._parts[slot]["prompt"] = list(source._parts[source_slot]["prompt"])

    def finish(self, slots: Sequence[int], requests: Sequence[int]) -> None:
        self._divide_pass()
        for slot, request in zip(slots, requests, strict=True):
            self._reader.finished[request] = TextProjections(
                self._joined(slot, "prompt"), self._joined(slot, "response")
            )
            self._parts[slot] = _no_parts()

    def move(self, source_slot: int, slot: int) -> None:
        self._divide_pass()
        self._parts[slot] = self._parts[source_slot]
        self._parts[source_slot] = _no_parts()

    def token_scores(self) -> Floats | None:
        self._fetch()
        return self._pass if self._is_scored else None

    def prompt_scores(self, slot: int) -> Floats | None:
        if not self._reader.prompts:
            return None
        self._divide_pass()
        return self._joined(slot, "prompt")

    @property
    def _is_scored(self) -> bool:
        return self._phase == "response" or self._reader.prompts

    def _divide_pass(self) -> None:
        """Give each sequence its part of the last pass."""
        self._fetch()
        start = 0
        for slot, count in self._counts:
            if self._is_scored:
                self._parts[slot][self._phase].append(self._pass[start : start + count])
            start += count
        self._counts = ()

    def _joined(self, slot: int, phase: Phase) -> Floats:
        parts = self._parts[slot][phase]
        if not parts:
            return np.zeros((0, self._reader.width), dtype=np.float32)
        return np.concatenate(parts)


def _no_parts() -> dict[Phase, list[Floats]]:
    return {"prompt": [], "response": []}
