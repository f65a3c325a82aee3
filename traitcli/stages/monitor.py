"""Watches a generation: projects every token's hidden state on the trait vectors as it is written."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from traitcli.config import MonitorConfig
from traitcli.errors import VectorError
from traitcli.events import Listener, MonitorFinished, MonitorStarted, TokenScored
from traitcli.files import write_atomic
from traitcli.generation.decode import decode
from traitcli.generation.detokenize import Detokenizer
from traitcli.generation.steps import Request
from traitcli.models.load import LoadedModel
from traitcli.models.memory import memory_explained
from traitcli.models.prompts import Message, Prompt, check_length, render
from traitcli.models.reader import Blind, Phase
from traitcli.records import Position, TokenScores, TraitVector
from traitcli.vectors.methods import calibrate

if TYPE_CHECKING:
    from torch import Tensor


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

    def calibrated(self, raw: float) -> float | None:
        """The calibrated score of a projection, where the vector carries class means."""
        stats = self.vector.stats.get(self.position)
        return None if stats is None else float(calibrate(raw, stats, self.layer))


class ProjectionReader(Blind):
    """Projects the token just fed, of a single request, on every probe: (h · v) / ‖v‖, in activation units."""

    def __init__(self, probes: Mapping[str, Probe], device: torch.device) -> None:
        self.rows = sorted({probe.layer for probe in probes.values()})
        self._names = {row: [name for name, p in probes.items() if p.layer == row] for row in self.rows}
        self._units = {
            row: torch.stack([probes[name].unit(device) for name in names]) for row, names in self._names.items()
        }
        self.scores: dict[str, float] = {}

    def begin(self, phase: Phase, owners: Tensor, ends: Tensor) -> None:
        self.scores = {}

    def __call__(self, row: int, hidden: Tensor) -> None:
        values = self._units[row] @ hidden[-1].float().to(self._units[row].device)
        self.scores.update(zip(self._names[row], values.tolist(), strict=True))


@dataclass(slots=True)
class _Transcript:
    """What has been written and scored so far."""

    probes: Mapping[str, Probe]
    tokens: list[str] = field(default_factory=list)
    raw: list[dict[str, float]] = field(default_factory=list)

    def add(self, text: str, raw: Mapping[str, float]) -> TokenScored:
        self.tokens.append(text)
        self.raw.append({trait: raw[trait] for trait in self.probes})
        return TokenScored(len(self.tokens) - 1, text, self.raw[-1], self._calibrated(self.raw[-1]))

    def _calibrated(self, raw: Mapping[str, float]) -> dict[str, float]:
        scores = {trait: probe.calibrated(raw[trait]) for trait, probe in self.probes.items()}
        return {trait: score for trait, score in scores.items() if score is not None}

    def record(self, prompt: str, rendered: Prompt, model: str, seed: int, finish_reason: str) -> TokenScores:
        calibrated = [self._calibrated(raw) for raw in self.raw]
        known = [trait for trait, probe in self.probes.items() if probe.calibrated(0.0) is not None]
        return TokenScores(
            prompt=prompt,
            response="".join(self.tokens),
            tokens=tuple(self.tokens),
            raw={trait: tuple(raw[trait] for raw in self.raw) for trait in self.probes},
            calibrated={trait: tuple(scores[trait] for scores in calibrated) for trait in known},
            layers={trait: probe.layer for trait, probe in self.probes.items()},
            model=model,
            seed=seed,
            prompt_tokens=len(rendered.ids),
            finish_reason=finish_reason,
        )


def make_probes(
    vectors: Iterable[TraitVector], loaded: LoadedModel, position: Position, layer: int | None = None
) -> dict[str, Probe]:
    """Trait -> probe, at `layer` or at each vector's own; raises VectorError when one does not fit."""
    probes = {}
    for vector in vectors:
        row = vector.layer if layer is None else layer
        shape, wanted = (vector.rows, vector.hidden_size), (loaded.rows, loaded.hidden_size)
        if shape != wanted:
            raise VectorError(
                f"the vector of {vector.trait} does not fit {loaded.name}",
                cause=f"it is {list(shape)}, the model needs {list(wanted)}",
                fix="use vectors made from this model",
            )
        if position not in vector.directions:
            there = ", ".join(vector.directions)
            raise VectorError(
                f"the vector of {vector.trait} has no {position}", cause=f"it has {there}", fix="build it anew"
            )
        if not 0 <= row < vector.rows:
            rows = f"{loaded.name} has rows 0 to {loaded.rows - 1}"
            raise VectorError(f"no layer {row}", cause=rows, fix="choose one of them")
        probes[vector.trait] = Probe(vector, position, row)
    return probes


def monitor(
    loaded: LoadedModel, probes: Mapping[str, Probe], prompt: str, config: MonitorConfig, out: Path, on_event: Listener
) -> TokenScores:
    """Generate an answer, score every token as it is written, and keep the record in `out`.

    Ctrl-C keeps what was written so far (finish_reason "interrupted") and raises again.
    """
    messages: list[Message] = [{"role": "system", "content": config.system}] if config.system else []
    rendered = render(loaded.tokenizer, [*messages, {"role": "user", "content": prompt}])
    check_length(loaded, rendered, config.sampling.max_new_tokens)
    layers = {trait: probe.layer for trait, probe in probes.items()}
    on_event(MonitorStarted(prompt, loaded.name, tuple(probes), layers, _notes(probes, loaded)))
    transcript, start = _Transcript(probes), time.monotonic()
    reason = "interrupted"
    try:
        reason = _write(loaded, rendered, config, transcript, on_event)
    finally:
        scores = transcript.record(prompt, rendered, loaded.name, config.seed, reason)
        write_atomic(out, json.dumps(to_json(scores), ensure_ascii=False) + "\n")
        on_event(MonitorFinished(str(out), len(scores.tokens), time.monotonic() - start, reason))
    return scores


def to_json(scores: TokenScores) -> dict[str, Any]:
    """The monitoring record: the four fixed keys, then what stands beside them."""
    return {
        "prompt": scores.prompt,
        "response": scores.response,
        "tokens": list(scores.tokens),
        "trait_scores": {trait: _rounded(values) for trait, values in scores.raw.items()},
        "calibrated_scores": {trait: _rounded(values) for trait, values in scores.calibrated.items()},
        "layers": dict(scores.layers),
        "model": scores.model,
        "seed": scores.seed,
        "prompt_tokens": scores.prompt_tokens,
        "finish_reason": scores.finish_reason,
        "created": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def record_path(runs: Path, prompt: str) -> Path:
    """`runs/monitor/<time>-<first words>.json`: sortable, and safe whatever the prompt says."""
    words = re.sub(r"[^a-z0-9]+", "-", prompt.lower())[:40].strip("-") or "prompt"
    return runs / "monitor" / f"{datetime.now().strftime('%Y%m%d-%H%M%S-%f')}-{words}.json"


def _write(
    loaded: LoadedModel, rendered: Prompt, config: MonitorConfig, transcript: _Transcript, on_event: Listener
) -> str:
    reader = ProjectionReader(transcript.probes, loaded.device)
    detokenizer = Detokenizer(loaded.tokenizer)
    try:
        with memory_explained(loaded.device, "set model.dtype to bfloat16, or monitor.sampling.max_new_tokens lower"):
            for step in decode(loaded, [Request(rendered.ids, config.seed)], config.sampling, 1, reader):
                for _, token in step.written:
                    on_event(transcript.add(detokenizer.feed(token), reader.scores))
    finally:
        if transcript.tokens:
            transcript.tokens[-1] += detokenizer.flush()
    return "length" if len(transcript.tokens) == config.sampling.max_new_tokens else "stop"


def _notes(probes: Mapping[str, Probe], loaded: LoadedModel) -> tuple[str, ...]:
    at_end = [name for name, probe in probes.items() if probe.layer == loaded.blocks]
    if not at_end:
        return ()
    return (
        f"layer {loaded.blocks} is read after the final norm, which no block's output is: "
        f"scores of {', '.join(at_end)} do not compare with other layers",
    )


def _rounded(values: Iterable[float]) -> list[float]:
    """Five decimals: about what float32 resolves in a projection of some tens."""
    return [round(value, 5) for value in values]
