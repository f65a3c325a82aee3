"""Views for pipes and CI: whole lines, without color and cursor movement."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TextIO

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
    Stage,
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
from traitcli.views.closable import ClosableView
from traitcli.views.formatting import clock_time
from traitcli.views.printable import one_line, printable
from traitcli.views.progress.rates import Rate, Rates
from traitcli.views.progress.worker_rows import WorkerRows, judge_text

_EVERY = 5.0
"""Seconds between two progress lines of one stage."""


class _Plain(ClosableView):
    """Writes lines for people to a stream; escapes what its encoding does not have."""

    def __init__(self, notes: TextIO) -> None:
        self._notes = notes

    def close(self) -> None:
        """Do nothing: each line is written at once."""

    def _note(self, line: str) -> None:
        # A log in ASCII must not end the command at its first "×".
        encoding = self._notes.encoding or "utf-8"
        text = line.encode(encoding, "backslashreplace").decode(encoding)
        print(text, file=self._notes, flush=True)


class PlainView(_Plain):
    """Shows a run line by line; each line begins with the time since the run began."""

    def __init__(
        self, notes: TextIO, clock: Callable[[], float] = time.monotonic, every: float = _EVERY
    ) -> None:
        """`every`: seconds between two progress lines of one stage."""
        super().__init__(notes)
        self._clock = clock
        self._every = every
        self._began = clock()
        self._rates = Rates()
        self._workers = WorkerRows()
        self._vectors = 0
        self._todo: Mapping[Stage, int] = {}
        self._shown_at: dict[tuple[str, str], float] = {}
        self._totals_shown_at = self._began

    def show(self, event: Event) -> None:
        """Show one event; ignores the events of a monitored answer."""
        match event:
            case StageStarted() | Progressed() | StageFinished():
                self._show_stage(event)
            case WorkerSeen():
                self._workers.update(event, self._clock())
            case RunStarted():
                self._todo = event.todo
                self._line(words.run_text(event))
                for note in event.notes:
                    self._line(f"note: {printable(note)}")
            case ModelLoading():
                self._line(words.loading_text(event))
            case ModelLoaded():
                self._line(words.loaded_text(event))
            case VectorBuilt():
                self._vectors += 1
                self._line(words.built_text(event))
            case Warned():
                self._line(f"warning: {words.warning_text(event)}")
            case TraitFailed():
                self._show_failure(event)
            case RunFinished():
                self._show_end(event)
            case _:
                pass

    def _show_stage(self, event: StageStarted | Progressed | StageFinished) -> None:
        now = self._clock()
        rate = self._rates.update(event, now)
        if isinstance(event, Progressed) and self._workers.has_several:
            self._show_totals(now)
            return
        if rate is None:
            return

        key = (event.trait, event.stage)
        last = self._shown_at.get(key)
        # The start and the end of a stage are always shown. A line for every step would fill a log.
        if isinstance(event, Progressed) and last is not None and now - last < self._every:
            return
        self._shown_at[key] = now
        self._line(_rate_text(rate, now))

    def _show_totals(self, now: float) -> None:
        """One line for all workers: a line for each would fill a log with a hundred workers."""
        if now - self._totals_shown_at < self._every:
            return
        self._totals_shown_at = now

        workers = self._workers.by_worker.values()
        at_work = sum(worker.is_at_work for worker in workers)
        speed, left = self._rates.tokens_per_second, self._rates.left(self._todo, now)
        parts = [
            f"{at_work} of {len(workers)} workers at work",
            f"{self._rates.done('rollouts'):,} rollouts",
            f"{speed:,.0f} tokens/s" if speed else "",
            judge_text(self._rates).replace(" · ", ", "),
            f"{clock_time(left)} left" if left else "",
        ]
        self._line(", ".join(filter(None, parts)))

    def _show_failure(self, event: TraitFailed) -> None:
        self._line(words.failure_text(event))
        for label, text in (("cause", event.cause), ("fix", event.fix)):
            if text:
                self._line(f"  {label}: {printable(text)}")

    def _show_end(self, event: RunFinished) -> None:
        if used := words.usage_text(event.used):
            self._line(f"judge: {used}")
        has_worked = self._rates.worked or self._vectors > 0
        self._line(words.finished_text(event, self._vectors, worked=has_worked))

    def _line(self, text: str) -> None:
        self._note(f"[{clock_time(self._clock() - self._began)}] {text}")


class PlainMonitorView(_Plain):
    r"""Writes one line per token for programs, and lines for people to another stream.

    The fields of a token line are separated by tabs: the token's index, the token as a JSON string
    in ASCII, and `trait=score` for each trait, with calibrated scores. A trait whose vector has no
    class means has a raw projection instead, as `raw:trait=projection`:

        0	"I"	refusal=0.8125	evil=-0.1021
        1	" cannot"	refusal=1.9310	evil=-0.2210

    A score that means nothing, because the token's hidden state is massive, is named
    `massive:trait=score`. `brake:trait=2` says that two caps or gates of a trait held at the token.
    """

    def __init__(
        self,
        data: TextIO,
        notes: TextIO,
        *,
        raw: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`raw`: write raw projections for all traits."""
        super().__init__(notes)
        # MonitorView has both, and a chat sets them; they have no effect here.
        self.color_by: str | None = None
        self.echo = True
        self._data = data
        self._raw = raw
        self._clock = clock
        self._noted_raw: set[str] = set()
        self._noted_massive = False
        self._reading_since = self._shown_at = clock()

    def show(self, event: Event) -> None:
        """Show one event; ignores the events of an extraction."""
        match event:
            case TokenScored():
                self._write(event)
                self._note_massive(event)
            case ModelLoading():
                self._note(words.loading_text(event))
            case MonitorStarted():
                self._note(f"prompt: {one_line(event.prompt)}")
                self._note(f"model: {one_line(event.model)}, {words.layers_text(event.layers)}")
                for text in (words.about_text(event.about), words.steering_text(event.steering)):
                    if text:
                        self._note(text)
                for note in event.notes:
                    self._note(f"note: {printable(note)}")
            case Warned():
                self._note(f"warning: {words.warning_text(event)}")
            case AlarmRaised():
                self._note(words.alarm_text(event))
            case TextsRead():
                self._show_reading(event)
            case MonitorFinished():
                self._note(words.generation_text(event))
                if event.path:
                    self._note(f"record: {one_line(event.path)}")
            case _:
                pass

    def _write(self, event: TokenScored) -> None:
        # JSON in ASCII: a token may hold a tab, a newline or a terminal's escape sequence.
        fields = [str(event.index), json.dumps(event.text)]
        for trait, raw in event.raw.items():
            if trait in event.massive:
                # Named otherwise, so that no program counts it.
                score = raw if self._raw else event.calibrated.get(trait, raw)
                fields.append(f"massive:{_name(trait)}={score:.4f}")
                continue
            if trait in event.calibrated and not self._raw:
                fields.append(f"{_name(trait)}={event.calibrated[trait]:.4f}")
                continue
            # Named raw, so that no program takes it for a calibrated score.
            fields.append(f"raw:{_name(trait)}={raw:.4f}")
            if trait not in self._noted_raw and not self._raw:
                self._noted_raw.add(trait)
                self._note(f"warning: {words.warning_text(words.raw_note(trait))}")
        # By the trait that is capped or pushed, which its text begins with.
        braked = Counter(re.split("[<>=]", brake)[0] for brake in event.braked)
        fields += [f"brake:{_name(trait)}={count}" for trait, count in braked.items()]
        # Flushed at once: a program that reads the pipe must not wait for a full buffer.
        print("\t".join(fields), file=self._data, flush=True)

    def _note_massive(self, event: TokenScored) -> None:
        if event.massive and not self._noted_massive:
            self._noted_massive = True
            self._note(f"note: {words.MASSIVE_NOTE}")

    def _show_reading(self, event: TextsRead) -> None:
        """Write a line every few seconds, and one at the end."""
        now = self._clock()
        # The first event comes before any text is read, so that its time counts.
        if not event.done:
            self._reading_since = self._shown_at = now
        elif event.done == event.total or now - self._shown_at >= _EVERY:
            self._shown_at = now
            self._note(words.reading_text(event, now - self._reading_since))


class JsonMonitorView(PlainMonitorView):
    """Writes one JSON object per token, with the same scores as the record."""

    def _write(self, event: TokenScored) -> None:
        kinds = {"trait_scores": event.raw, "calibrated_scores": event.calibrated}
        line: dict[str, Any] = {"index": event.index, "token": event.text}
        for kind, scores in kinds.items():
            # As many decimals as a record has.
            line[kind] = {trait: round(score, 5) for trait, score in scores.items()}
        if event.massive:
            line["massive"] = sorted(event.massive)
        if event.braked:
            line["braked"] = list(event.braked)
        print(json.dumps(line), file=self._data, flush=True)


def _name(trait: str) -> str:
    # A tab or a line break in a name would end its field.
    return trait if trait.isascii() and trait.isprintable() else json.dumps(trait)


def _rate_text(rate: Rate, now: float) -> str:
    """`evil rollouts 50/200, 500 tokens/s, 0:30 left`, or `evil rollouts finished in 0:50`."""
    name = f"{one_line(rate.trait)} {rate.stage}"
    if rate.is_active:
        parts = [f"{name} {rate.done}/{rate.total}"]
        if rate.resumed and rate.resumed == rate.done:
            parts.append(f"{rate.resumed} done before")
    else:
        parts = [f"{name} finished in {clock_time(rate.seconds)}"]
    if rate.tokens_per_second is not None:
        parts.append(f"{rate.tokens_per_second:,.0f} tokens/s")
    if rate.left(now) is not None:
        parts.append(f"{clock_time(rate.left(now))} left")
    if rate.missing:
        parts.append(f"{rate.missing} without a score")
    return ", ".join(parts)
