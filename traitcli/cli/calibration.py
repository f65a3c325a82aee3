"""Measures the thresholds of alarms: reads benign texts, stores and prints what they give."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from traitcli.api.vector_source import VectorSource
from traitcli.cli.monitor_texts import check_scored
from traitcli.cli.output import print_json
from traitcli.errors import UserError
from traitcli.output_paths import check_output_folder
from traitcli.records import TraitVector

if TYPE_CHECKING:
    from traitcli.api.model import Model
    from traitcli.monitoring.realized_rates import RealizedRate
    from traitcli.monitoring.thresholds import Thresholds
    from traitcli.monitoring.transcripts import Exchange


def parse_rates(text: str) -> list[float]:
    """The rates of `1%,5%`, ascending. Raises UserError for others than 0 to 50 %."""
    from traitcli.monitoring.alarms import RATE, is_rate, read_rate

    found: set[float] = set()
    for part in text.split(","):
        match = re.fullmatch(RATE, part.strip(), re.ASCII)
        rate = read_rate(match) if match else 0.0
        if not is_rate(rate):
            raise UserError(
                f"invalid --fpr {text}",
                cause=f"{part.strip() or 'nothing'!r} is no rate above 0% and below 50%",
                fix="--fpr 1%,5%",
            )
        found.add(rate)
    return sorted(found)


@dataclass(frozen=True, slots=True)
class Calibration:
    """One calibrate command."""

    source: VectorSource
    rates: Sequence[float]
    as_json: bool
    trust: bool

    def run(self, file: Path, check: Path | None) -> None:
        """Measure, store and print the thresholds; raises TraitError when no text can be read."""
        from traitcli.api.model import Model
        from traitcli.views import open_monitor_view

        # Before the model is loaded, which takes seconds to minutes.
        check_output_folder(self.source.folder, "--vectors FOLDER")
        texts, others = _read(file), _read(check) if check else []
        vectors = self.source.load()
        # The view of monitor --input, which shows how many texts are read.
        with open_monitor_view(as_json=self.as_json) as view:
            model = Model.open(self.source.config, view.show, self.trust)
            monitored = model.chosen(self.source.chosen(vectors).values())
            scores = self._score(model, monitored, texts)
            checked = self._score(model, monitored, others) if others else {}
        found = [self._measure(monitored[name], scores[name], file) for name in monitored]
        realized = [one for each in found for one in self._compare(each, checked)]
        self._print(found, monitored, realized)

    def _score(
        self,
        model: Model,
        vectors: Mapping[str, TraitVector],
        exchanges: Sequence[Exchange],
    ) -> dict[str, list[Sequence[float]]]:
        """Trait -> the projections of each text, without thinking if the config skips it."""
        from traitcli.record_json import FailedRecord

        watch = model.watch(vectors.values(), self.source.layer)
        scores: dict[str, list[Sequence[float]]] = {name: [] for name in vectors}
        failures: list[str] = []
        for record in model.score_each(exchanges, watch):
            if isinstance(record, FailedRecord):
                failures.append(record.error)
                continue
            for name in vectors:
                if own := [record.raw[name][index] for index in record.counted(name)]:
                    scores[name].append(own)
        check_scored(failures, len(exchanges))
        if failures:
            note = f"not read: {len(failures)} of {len(exchanges)} texts; the first: {failures[0]}"
            _say(note)
        return scores

    def _measure(
        self, vector: TraitVector, texts: Sequence[Sequence[float]], file: Path
    ) -> Thresholds:
        """The thresholds of one trait, after they are stored."""
        from traitcli.monitoring.thresholds import (
            Thresholds,
            measure,
            thresholds_path,
            write_thresholds,
        )
        from traitcli.vectors.fingerprint import fingerprint

        position, layer = self.source.config.vector.position, self.source.layer_of(vector)
        own = fingerprint(vector, position, layer)
        points = measure(texts, self.rates)
        found = Thresholds(vector.trait, own, position, layer, file.name, points)
        if points:
            write_thresholds(thresholds_path(self.source.folder, vector.trait), found)
        return found

    def _compare(
        self, thresholds: Thresholds, texts: Mapping[str, Sequence[Sequence[float]]]
    ) -> list[RealizedRate]:
        from traitcli.monitoring.realized_rates import realized_rates

        return realized_rates(thresholds, texts[thresholds.trait]) if texts else []

    def _print(
        self,
        found: Sequence[Thresholds],
        vectors: Mapping[str, TraitVector],
        realized: Sequence[RealizedRate],
    ) -> None:
        from rich.console import Console

        from traitcli.inspection.threshold_rows import realized_rows, threshold_rows
        from traitcli.views.tables.thresholds import realized_table, thresholds_table

        rows = [row for one in found for row in threshold_rows(one, vectors[one.trait])]
        checks = realized_rows(realized)
        self._say_missing(found)
        if self.as_json:
            print_json({"thresholds": rows, "checks": checks})
            return
        if rows:
            thresholds_table(Console(), rows, str(self.source.folder))
        if checks:
            realized_table(Console(), checks)

    def _say_missing(self, found: Sequence[Thresholds]) -> None:
        """Say which rates have no threshold, because there are too few texts for them."""
        from traitcli.monitoring.thresholds import fewest_texts

        for rate in self.rates:
            without = [one.trait for one in found if rate not in one.rates]
            if without:
                _say(
                    f"no threshold for a false-positive rate of {rate * 100:.4g}%: it needs "
                    f"{fewest_texts(rate):,} texts of 8 tokens or more ({', '.join(without)})"
                )


def _read(path: Path) -> Sequence[Exchange]:
    from traitcli.monitoring.transcripts import read_transcript

    transcript = read_transcript(path)
    _say(transcript.description)
    return transcript.exchanges


def _say(text: Any) -> None:
    from traitcli.views.printable import one_line

    # Names and contents come from the file.
    typer.echo(one_line(text), err=True)
