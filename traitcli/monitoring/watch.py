"""What to score in an answer, and how it is generated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from traitcli.config import MonitorConfig
from traitcli.generation.projections import Marks, Probe, ProjectionReader
from traitcli.models.chat_format import Message
from traitcli.models.loaded import LoadedModel
from traitcli.monitoring.alarms import Rule
from traitcli.records import LayerScores, Scores
from traitcli.steering.interventions import PreparedIntervention

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Watch:
    """What to score in an answer, and how the answer is generated.

    probes    trait -> probe
    config    sampling, seed and system message
    steering  interventions that apply while the model writes
    rules     alarms, on raw projections if `raw`, else on calibrated scores
    prompts   whether the tokens of the prompt are scored too
    by_layer  trait that is scored at every layer, or None
    history   messages before the prompt, without the system message
    about     copied into the record (JSON-able)
    """

    probes: Mapping[str, Probe]
    config: MonitorConfig = field(default_factory=MonitorConfig)
    steering: tuple[PreparedIntervention, ...] = ()
    rules: tuple[Rule, ...] = ()
    raw: bool = False
    prompts: bool = False
    by_layer: str | None = None
    history: tuple[Message, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    def reader(self, loaded: LoadedModel, more: Marks | None = None) -> ProjectionReader:
        """A reader with a column for each trait, and then for each layer of `by_layer`.

        `more` has further columns; `tabulate` ignores them.
        """
        probes = [*self.probes.values(), *self._layer_probes]
        return ProjectionReader(probes, loaded, prompts=self.prompts, marks=True, more=more)

    def tabulate(
        self, tokens: Sequence[str], projections: Floats
    ) -> tuple[Scores, LayerScores | None]:
        """Sort what the reader computed for n tokens, float32 [n, 2P…], by trait and by layer."""
        count = self.width // 2
        projections, marks = projections[:, :count], projections[:, count : 2 * count]
        # One iterator for both: the columns of the layers follow those of the traits.
        columns = iter(projections.T)
        raw, calibrated = {}, {}
        for (trait, probe), column in zip(self.probes.items(), columns, strict=False):
            raw[trait] = _numbers(column)
            if probe.is_calibrated:
                calibrated[trait] = _numbers(probe.calibrate(column))
        marked = zip(self.probes, marks.T, strict=False)
        massive = {trait: tuple(np.flatnonzero(m).tolist()) for trait, m in marked if m.any()}
        scores = Scores(tuple(tokens), raw, calibrated, massive=massive)
        if not self.by_layer:
            return scores, None

        raw_rows, calibrated_rows = [], []
        for probe, column in zip(self._layer_probes, columns, strict=True):
            raw_rows.append(_numbers(column))
            if probe.is_calibrated:
                calibrated_rows.append(_numbers(probe.calibrate(column)))
        return scores, LayerScores(self.by_layer, tuple(raw_rows), tuple(calibrated_rows))

    @property
    def width(self) -> int:
        """2P: the columns that `tabulate` reads."""
        return 2 * (len(self.probes) + len(self._layer_probes))

    @property
    def layers(self) -> dict[str, int]:
        return {trait: probe.layer for trait, probe in self.probes.items()}

    @property
    def marks(self) -> dict[str, float]:
        """Trait -> the calibrated score where its first alarm lies, at the length limit."""
        marks: dict[str, float] = {}
        for rule in self.rules:
            probe = self.probes[rule.trait]
            bound = rule.bound_at(self.config.sampling.max_new_tokens)
            if probe.is_calibrated:
                score = probe.calibrate(np.array([bound], np.float32))[0] if self.raw else bound
                marks.setdefault(rule.trait, float(score))
        return marks

    @property
    def _layer_probes(self) -> list[Probe]:
        return self.probes[self.by_layer].at_every_layer if self.by_layer else []


def _numbers(column: Floats) -> tuple[float, ...]:
    return tuple(column.tolist())
