"""Watches a generation: projects every token's hidden state on the trait vectors as it is written."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from traitcli.config import MonitorConfig
from traitcli.events import (
    AlarmRaised,
    Listener,
    MonitorFinished,
    MonitorStarted,
    PromptScored,
    TokenScored,
    Warned,
)
from traitcli.generation.decode import decode
from traitcli.generation.detokenize import Detokenizer, token_texts
from traitcli.generation.projections import Probe, ProjectionReader
from traitcli.generation.request import Request
from traitcli.models.loaded import LoadedModel
from traitcli.models.memory import memory_explained
from traitcli.models.prompts import Message, Prompt, check_length, conversation, render
from traitcli.monitoring.alarms import Alarm, Rule
from traitcli.monitoring.record_files import keep_record
from traitcli.records import Crossing, Intervention, LayerScores, Scores, TokenScores
from traitcli.steering.interventions import PreparedIntervention, dose_notes, measure_doses, steered

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

_LESS_MEMORY = "set model.dtype to bfloat16, or monitor.sampling.max_new_tokens lower"


@dataclass(frozen=True, slots=True)
class Watch:
    """What is watched of an answer, and under which conditions it is written.

    probes   trait -> probe
    config   sampling, seed and system message
    rules    alarms, on raw projections if `raw`, else on calibrated scores
    prompts  whether the prompt's tokens are scored too
    by_row   trait that is scored at every row, or none
    history  messages before the prompt, without the system message
    about    goes into the record as it is (JSON-able)
    """

    probes: Mapping[str, Probe]
    config: MonitorConfig = field(default_factory=MonitorConfig)
    steering: tuple[PreparedIntervention, ...] = ()
    rules: tuple[Rule, ...] = ()
    raw: bool = False
    prompts: bool = False
    by_row: str | None = None
    history: tuple[Message, ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    def reader(self, loaded: LoadedModel) -> ProjectionReader:
        """Reads a column for each trait, then, if one trait is scored at every row, one for each row."""
        return ProjectionReader(
            [*self.probes.values(), *self._rows], loaded.device, prompts=self.prompts
        )

    def tabulate(self, tokens: Sequence[str], found: Floats) -> tuple[Scores, LayerScores | None]:
        """The scores in `found` [n, P], by trait; and by row, if one trait is scored at every row."""
        columns = list(found.T)
        raw = {trait: _numbers(column) for trait, column in zip(self.probes, columns, strict=False)}
        calibrated = {
            trait: _numbers(probe.calibrate(column))
            for (trait, probe), column in zip(self.probes.items(), columns, strict=False)
            if probe.is_calibrated
        }
        scores = Scores(tuple(tokens), raw, calibrated)
        if not self.by_row:
            return scores, None
        by_row = list(zip(self._rows, columns[len(self.probes) :], strict=True))
        scaled = [
            _numbers(probe.calibrate(column)) for probe, column in by_row if probe.is_calibrated
        ]
        return scores, LayerScores(
            self.by_row, tuple(_numbers(column) for _, column in by_row), tuple(scaled)
        )

    @property
    def layers(self) -> dict[str, int]:
        return {trait: probe.layer for trait, probe in self.probes.items()}

    @property
    def _rows(self) -> list[Probe]:
        return self.probes[self.by_row].at_every_layer if self.by_row else []


def monitor(
    loaded: LoadedModel,
    watch: Watch,
    prompt: str,
    out: Path | None = None,
    on_event: Listener = lambda event: None,
) -> TokenScores:
    """Generate an answer, score every token as it is written, and keep the record in `out`.

    A file named *.jsonl gets one line more; any other is replaced. Ctrl-C keeps what was written so far
    (finish_reason "interrupted") and raises again. Raises UserError when the prompt does not fit the model.
    """
    messages, notes = conversation(
        loaded, watch.config.system, [*watch.history, {"role": "user", "content": prompt}]
    )
    rendered = render(loaded.tokenizer, messages)
    check_length(loaded, rendered, watch.config.sampling.max_new_tokens)
    steering = measure_doses(loaded, watch.steering, rendered.ids)
    pushes = tuple(one.intervention for one in steering)
    told = (*notes, *_notes(watch, loaded))
    on_event(
        MonitorStarted(
            prompt, loaded.name, tuple(watch.probes), watch.layers, told, pushes, watch.about
        )
    )
    for note in dose_notes(steering, loaded):
        on_event(Warned("", note))
    writing, start = _Writing(loaded, watch, rendered, on_event), time.monotonic()
    reason = "failed"
    try:
        with steered(loaded, steering):
            reason = writing.write()
    except (KeyboardInterrupt, SystemExit):
        reason = "interrupted"
        raise
    finally:
        record = writing.record(prompt, pushes, reason)
        if out:
            keep_record(out, record)
        on_event(
            MonitorFinished(
                str(out or ""), len(record.tokens), time.monotonic() - start, reason, record
            )
        )
    return record


class _Writing:
    """One answer while it is written."""

    def __init__(
        self, loaded: LoadedModel, watch: Watch, rendered: Prompt, on_event: Listener
    ) -> None:
        self._loaded = loaded
        self._watch = watch
        self._rendered = rendered
        self._on_event = on_event
        self._reader = watch.reader(loaded)
        self._alarms = [Alarm(rule) for rule in watch.rules]
        self._crossings: list[Crossing] = []
        self._tokens: list[str] = []
        self._found: list[Floats] = []
        self._seconds: list[float] = []
        self._prompt: Scores | None = None

    def write(self) -> str:
        """Write to the end; returns why it ended."""
        detokenizer = Detokenizer(self._loaded.tokenizer)
        start = time.monotonic()
        try:
            with memory_explained(self._loaded.device, _LESS_MEMORY):
                for token, found in self._decoded():
                    self._add(detokenizer.feed(token), found, time.monotonic() - start)
                    if any(crossing.action == "stop" for crossing in self._crossings):
                        return "alarm"
        finally:
            if self._tokens:
                self._tokens[-1] += detokenizer.flush()
            self._raise(self._keep([alarm.end() for alarm in self._alarms]))
        return (
            "length" if len(self._tokens) == self._watch.config.sampling.max_new_tokens else "stop"
        )

    def record(self, prompt: str, pushes: tuple[Intervention, ...], reason: str) -> TokenScores:
        """What was written and scored so far."""
        found = np.array(self._found, dtype=np.float32).reshape(
            len(self._tokens), self._reader.probe_count
        )
        scores, by_row = self._watch.tabulate(self._tokens, found)
        system = self._watch.config.system
        return TokenScores(
            tokens=scores.tokens,
            raw=scores.raw,
            calibrated=scores.calibrated,
            prompt=prompt,
            response="".join(self._tokens),
            layers=self._watch.layers,
            model=self._loaded.name,
            seed=self._watch.config.seed,
            prompt_tokens=len(self._rendered.ids),
            finish_reason=reason,
            history=(
                *([{"role": "system", "content": system}] if system else []),
                *self._watch.history,
            ),
            seconds=tuple(self._seconds),
            steering=pushes,
            crossings=tuple(self._crossings),
            prompt_scores=self._prompt,
            layer_scores=by_row,
            about=self._watch.about,
        )

    def _decoded(self) -> Iterator[tuple[int, Floats]]:
        """The tokens, each with its projections float32 [P]."""
        request, config = Request(self._rendered.ids, self._watch.config.seed), self._watch.config
        with closing(decode(self._loaded, [request], config.sampling, 1, self._reader)) as steps:
            for step in steps:
                for _, scores in step.prompt_scores:
                    self._tell_prompt(scores)
                if step.scores is None:  # nothing was written
                    continue
                for (_, token), found in zip(step.written, step.scores, strict=True):
                    yield token, found

    def _tell_prompt(self, found: Floats) -> None:
        texts = token_texts(self._loaded.tokenizer, self._rendered.ids, specials=True)
        self._prompt, _ = self._watch.tabulate(texts, found)
        self._on_event(PromptScored(self._prompt.tokens, self._prompt.raw, self._prompt.calibrated))

    def _add(self, text: str, found: Floats, seconds: float) -> None:
        scores, by_row = self._watch.tabulate([text], found[None])
        raw, calibrated = (
            {trait: row[0] for trait, row in kind.items()}
            for kind in (scores.raw, scores.calibrated)
        )
        self._tokens.append(text)
        self._found.append(found)
        self._seconds.append(seconds)
        watched = raw if self._watch.raw else calibrated
        crossings = self._keep([alarm.take(watched[alarm.rule.trait]) for alarm in self._alarms])
        rows = tuple(row[0] for row in _shown(by_row))
        self._on_event(TokenScored(len(self._tokens) - 1, text, raw, calibrated, rows))
        self._raise(crossings)

    def _keep(self, crossings: Sequence[Crossing | None]) -> list[Crossing]:
        """Those there are, which are in the record from now on."""
        new = [crossing for crossing in crossings if crossing]
        self._crossings += new
        return new

    def _raise(self, crossings: Sequence[Crossing]) -> None:
        for crossing in crossings:
            self._on_event(AlarmRaised(crossing))


def _numbers(column: Floats) -> tuple[float, ...]:
    return tuple(column.tolist())


def _shown(by_row: LayerScores | None) -> tuple[tuple[float, ...], ...]:
    """What a view shows of a trait at every row: calibrated where it can be."""
    return (by_row.calibrated or by_row.raw) if by_row else ()


def _notes(watch: Watch, loaded: LoadedModel) -> tuple[str, ...]:
    at_end = [name for name, probe in watch.probes.items() if probe.layer == loaded.blocks]
    if not at_end:
        return ()
    return (
        f"layer {loaded.blocks} is read after the final norm, which no block's output is: "
        f"scores of {', '.join(at_end)} do not compare with other layers",
    )
