"""Reads how far hidden states point along trait vectors, token by token, while a model reads or writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from traitcli.errors import VectorError
from traitcli.models.loaded import LoadedModel
from traitcli.models.reader import Phase
from traitcli.records import Position, TraitVector
from traitcli.vectors.methods import calibrate

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Probe:
    """A vector as the monitor reads it: one position's direction at one row."""

    vector: TraitVector
    position: Position
    layer: int

    def unit(self, device: torch.device) -> Tensor:
        """float32 [H], of length 1 (a zero direction stays zero)."""
        return torch.nn.functional.normalize(
            torch.from_numpy(self.vector.directions[self.position][self.layer]), dim=0
        ).to(device)

    @property
    def is_calibrated(self) -> bool:
        """Whether the vector carries class means."""
        return self.position in self.vector.stats

    def calibrate(self, raw: Floats) -> Floats:
        """Calibrated scores of projections; the vector must carry class means."""
        return np.asarray(calibrate(raw, self.vector.stats[self.position], self.layer))

    @property
    def by_row(self) -> list[Probe]:
        """The same vector at every row."""
        return [Probe(self.vector, self.position, row) for row in range(self.vector.layer_count)]


def check_fit(vector: TraitVector, loaded: LoadedModel, position: Position) -> None:
    """Raise VectorError when a vector is of another shape than the model's, or has no such position."""
    shape, wanted = (
        (vector.layer_count, vector.hidden_size),
        (loaded.layer_count, loaded.hidden_size),
    )
    if shape != wanted:
        raise VectorError(
            f"the vector of {vector.trait} does not fit {loaded.name}",
            cause=f"it is {list(shape)}, the model needs {list(wanted)}",
            fix="use vectors made from this model",
        )
    if position not in vector.directions:
        there = ", ".join(vector.directions)
        raise VectorError(
            f"the vector of {vector.trait} has no {position}",
            cause=f"it has {there}",
            fix="build it anew",
        )


def make_probes(
    vectors: Iterable[TraitVector],
    loaded: LoadedModel,
    position: Position,
    layer: int | None = None,
) -> dict[str, Probe]:
    """Trait -> probe, at `layer` or at each vector's own; raises VectorError when one does not fit."""
    probes = {}
    for vector in vectors:
        row = vector.layer if layer is None else layer
        check_fit(vector, loaded, position)
        if not 0 <= row < vector.layer_count:
            rows = f"{loaded.name} has rows 0 to {loaded.layer_count - 1}"
            raise VectorError(f"no layer {row}", cause=rows, fix="choose one of them")
        probes[vector.trait] = Probe(vector, position, row)
    return probes


class ProjectionReader:
    """Projects every token on P probes: (h · v) / ‖v‖, in activation units.

    latest    float32 [P] of the token read last
    prompt    float32 [T, P] of the prompt read last; no rows unless `prompts` are read
    finished  request -> float32 [T, P] of its prompt, and of its response
    """

    def __init__(
        self, probes: Sequence[Probe], device: torch.device, *, prompts: bool = False
    ) -> None:
        self.layers = sorted({probe.layer for probe in probes})
        self.width = len(probes)
        self.prompts = prompts
        self.columns = {
            row: [i for i, probe in enumerate(probes) if probe.layer == row] for row in self.layers
        }
        self.units = {
            row: torch.stack([probes[i].unit(device) for i in columns], 1)
            for row, columns in self.columns.items()
        }
        self.last_pass = np.zeros((1, self.width), dtype=np.float32)
        self.prompt = self.last_pass[:0]
        self.finished: dict[int, tuple[Floats, Floats]] = {}

    @property
    def latest(self) -> Floats:
        latest: Floats = self.last_pass[-1]
        return latest

    def open(self, places: int) -> _Projections:
        return _Projections(self, places)


class _Projections:
    """The projections of sequences at some places: of each phase, one array [tokens, P] for every pass."""

    def __init__(self, reader: ProjectionReader, places: int) -> None:
        self._reader = reader
        self._held: list[dict[Phase, list[Floats]]] = [
            {"prompt": [], "response": []} for _ in range(places)
        ]
        self._phase: Phase = "prompt"
        self._owners: list[int] = []
        self._counts: list[int] = []

    def begin(self, phase: Phase, owners: Tensor, ends: Tensor) -> None:
        self._settle()
        self._phase = phase
        places, counts = torch.unique_consecutive(owners, return_counts=True)
        self._owners, self._counts = places.tolist(), counts.tolist()
        self._reader.last_pass = np.zeros((len(owners), self._reader.width), dtype=np.float32)
        self._pass = self._reader.last_pass

    def __call__(self, row: int, hidden: Tensor) -> None:
        if self._phase == "prompt" and not self._reader.prompts:
            return
        units = self._reader.units[row]
        found = hidden.to(units.device, torch.float32) @ units
        self._pass[:, self._reader.columns[row]] = found.cpu().numpy()

    def inherit(self, place: int, parent: _Projections, there: int) -> None:
        self._settle()
        parent._settle()
        self._held[place]["prompt"] = list(parent._held[there]["prompt"])

    def finish(self, place: int, request: int) -> None:
        self._settle()
        prompt, response = (self._joined(place, phase) for phase in ("prompt", "response"))
        self._reader.finished[request] = prompt, response
        self._held[place] = {"prompt": [], "response": []}

    def move(self, source: int, place: int) -> None:
        self._settle()
        self._held[place] = self._held[source]
        self._held[source] = {"prompt": [], "response": []}

    def _settle(self) -> None:
        """Give each sequence its part of the pass that is over."""
        start = 0
        for place, count in zip(self._owners, self._counts, strict=True):
            if self._phase == "response" or self._reader.prompts:
                self._held[place][self._phase].append(self._pass[start : start + count])
            start += count
        if self._owners and self._phase == "prompt":
            self._reader.prompt = self._joined(self._owners[-1], "prompt")
        self._owners, self._counts = [], []

    def _joined(self, place: int, phase: Phase) -> Floats:
        parts = self._held[place][phase]
        return (
            np.concatenate(parts) if parts else np.zeros((0, self._reader.width), dtype=np.float32)
        )
