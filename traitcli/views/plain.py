"""Views for pipes and CI: whole lines, no colour, no cursor."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from traitcli.events import (
    AlarmRaised,
    Event,
    ModelLoaded,
    ModelLoading,
    MonitorFinished,
    MonitorStarted,
    Progressed,
    RunFinished,
    RunStarted,
    StageFinished,
    StageStarted,
    TextsRead,
    TokenScored,
    TraitFailed,
    VectorBuilt,
    Warned,
    WorkerSeen,
)
from traitcli.views import words
from traitcli.views.formatting import clock_time
from traitcli.views.printable import one_line, printable
from traitcli.views.progress.rates import Rate, Rates
from traitcli.views.progress.worker_rows import WorkerRows, judge_text

_EVERY = 5.0
"""Seconds between two lines on the same stage of a trait."""


class _Plain:
    """Writes lines for people to a stream; what is not ASCII survives any encoding."""

    def __init__(self, notes: TextIO) -> None:
        self._notes = notes

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def close(self) -> None:
        """Nothing is held back."""

    def _note(self, line: str) -> None:
        encoding = self._notes.encoding or "utf-8"
        print(
            line.encode(encoding, "backslashreplace").decode(encoding), file=self._notes, flush=True
        )


class PlainView(_Plain):
    """Follows a run, one line at a time, each behind the time since the run began."""

    def __init__(
        self, notes: TextIO, clock: Callable[[], float] = time.monotonic, every: float = _EVERY
    ) -> None:
        super().__init__(notes)
        self._clock = clock
        self._every = every
        self._began = clock()
        self._rates = Rates()
        self._told_at: dict[tuple[str, str], float] = {}
        self._vectors = 0
        self._workers = WorkerRows()
        self._todo = 0
        self._told_all = self._began

    def show(self, event: Event) -> None:
        """Take one event; those of a monitored generation are none of this view's business."""
        match event:
            case StageStarted() | Progressed() | StageFinished():
                self._follow(event)
            case WorkerSeen():
                self._workers.update(event, self._clock())
            case RunStarted():
                self._todo = event.todo
                self._tell(words.run_text(event))
                for note in event.notes:
                    self._tell(f"note: {printable(note)}")
            case ModelLoading():
                self._tell(words.loading_text(event))
            case ModelLoaded():
                self._tell(words.loaded_text(event))
            case VectorBuilt():
                self._vectors += 1
                self._tell(words.built_text(event))
            case Warned():
                self._tell(f"warning: {words.warning_text(event)}")
            case TraitFailed():
                self._fail(event)
            case RunFinished():
                if used := words.usage_text(event.used):
                    self._tell(f"judge: {used}")
                self._tell(
                    words.finished_text(
                        event, self._vectors, worked=self._rates.worked or self._vectors > 0
                    )
                )
            case _:
                pass

    def _follow(self, event: StageStarted | Progressed | StageFinished) -> None:
        now = self._clock()
        rate = self._rates.update(event, now)
        if rate is None:
            return
        key = (event.trait, event.stage)
        if isinstance(event, Progressed) and self._workers.has_several:
            self._tell_all(now)
            return
        if (
            isinstance(event, Progressed)
            and now - self._told_at.get(key, now - self._every) < self._every
        ):
            return
        self._told_at[key] = now
        self._tell(_rate_text(rate, now))

    def _tell_all(self, now: float) -> None:
        """One line for all workers."""
        if now - self._told_all < self._every:
            return
        self._told_all = now
        at_work = sum(worker.is_at_work for worker in self._workers.by_worker.values())
        parts = [
            f"{at_work} of {len(self._workers.by_worker)} workers at work",
            f"{self._rates.done('rollouts'):,} rollouts",
            f"{self._rates.tokens_per_second:,.0f} tokens/s"
            if self._rates.tokens_per_second
            else "",
            judge_text(self._rates).replace(" · ", ", "),
            f"{clock_time(left)} left" if (left := self._rates.left(self._todo, now)) else "",
        ]
        self._tell(", ".join(part for part in parts if part))

    def _fail(self, event: TraitFailed) -> None:
        self._tell(words.failure_text(event))
        for label, text in (("cause", event.cause), ("fix", event.fix)):
            if text:
                self._tell(f"  {label}: {printable(text)}")

    def _tell(self, text: str) -> None:
        self._note(f"[{clock_time(self._clock() - self._began)}] {text}")


class PlainMonitorView(_Plain):
    r"""Writes one line per token for programs to read, and what people want to know to another stream.

    A line holds fields parted by tabs: the token's index, the token as a JSON string in ASCII (so the line is safe on
    a terminal, and `json.loads` gives the token back), then `trait=score` for each trait, calibrated; a trait whose
    vector has no class means stands as `raw:trait=projection`:

        0	"I"	refusal=0.8125	evil=-0.1021
        1	" cannot"	refusal=1.9310	evil=-0.2210
    """

    def __init__(
        self,
        data: TextIO,
        notes: TextIO,
        *,
        raw: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`raw`: raw projections for all traits."""
        super().__init__(notes)
        self.color_by: str | None = (
            None  # as MonitorView has them; there is no colour here, and no echo
        )
        self.echo = True
        self._data = data
        self._raw = raw
        self._clock = clock
        self._told_raw: set[str] = set()
        self._reading_since = self._told_at = clock()

    def show(self, event: Event) -> None:
        """Take one event; those of an extraction are none of this view's business."""
        match event:
            case TokenScored():
                self._write(event)
            case ModelLoading():
                self._note(words.loading_text(event))
            case MonitorStarted():
                self._note(f"prompt: {one_line(event.prompt)}")
                self._note(f"model: {one_line(event.model)}, {words.layers_text(event.layers)}")
                for told in (words.about_text(event.about), words.steering_text(event.steering)):
                    if told:
                        self._note(told)
                for note in event.notes:
                    self._note(f"note: {printable(note)}")
            case Warned():
                self._note(f"warning: {words.warning_text(event)}")
            case AlarmRaised():
                self._note(words.alarm_text(event))
            case TextsRead():
                self._follow(event)
            case MonitorFinished():
                self._note(words.generation_text(event))
                if event.path:
                    self._note(f"record: {one_line(event.path)}")
            case _:
                pass

    def _write(self, event: TokenScored) -> None:
        fields = [str(event.index), json.dumps(event.text)]
        for trait, raw in event.raw.items():
            if trait in event.calibrated and not self._raw:
                fields.append(f"{_name(trait)}={event.calibrated[trait]:.4f}")
                continue
            fields.append(f"raw:{_name(trait)}={raw:.4f}")
            if trait not in self._told_raw and not self._raw:
                self._told_raw.add(trait)
                self._note(f"warning: {words.warning_text(words.raw_note(trait))}")
        print("\t".join(fields), file=self._data, flush=True)

    def _follow(self, event: TextsRead) -> None:
        """A line every few seconds."""
        now = self._clock()
        if not event.done:
            self._reading_since = self._told_at = now
        elif event.done == event.total or now - self._told_at >= _EVERY:
            self._told_at = now
            self._note(words.reading_text(event, now - self._reading_since))


class JsonMonitorView(PlainMonitorView):
    """Writes one JSON object per token, with the scores that the record holds."""

    def _write(self, event: TokenScored) -> None:
        kinds = {"trait_scores": event.raw, "calibrated_scores": event.calibrated}
        scores = {
            kind: {trait: round(one, 5) for trait, one in row.items()}
            for kind, row in kinds.items()
        }
        print(
            json.dumps({"index": event.index, "token": event.text, **scores}),
            file=self._data,
            flush=True,
        )


def _name(trait: str) -> str:
    return trait if trait.isascii() and trait.isprintable() else json.dumps(trait)


def _rate_text(rate: Rate, now: float) -> str:
    what = f"{one_line(rate.trait)} {rate.stage}"
    parts = [
        f"{what} {rate.done}/{rate.total}"
        if rate.is_active
        else f"{what} finished in {clock_time(rate.seconds)}"
    ]
    if rate.is_active and rate.resumed and rate.resumed == rate.done:
        parts.append(f"{rate.resumed} done before")
    if rate.tokens_per_second is not None:
        parts.append(f"{rate.tokens_per_second:,.0f} tokens/s")
    if rate.left(now) is not None:
        parts.append(f"{clock_time(rate.left(now))} left")
    if rate.missing:
        parts.append(f"{rate.missing} without a score")
    return ", ".join(parts)
