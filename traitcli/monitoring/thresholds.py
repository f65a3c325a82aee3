"""Thresholds of an alarm for chosen false-positive rates, and the file that keeps them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from traitcli.errors import VectorError
from traitcli.files import explain_unreadable, parse_json, write_atomic
from traitcli.monitoring.summaries import SUMMARIES, Kind, Running, Summary
from traitcli.records import Position, TraitVector
from traitcli.vectors.fingerprint import fingerprint

LENGTHS = (8, 32, 128, 512, 2048)
"""Tokens at which benign texts are cut. At 8 every way to sum up has all the tokens it wants."""
LEVEL = 0.95
"""Of the interval of a threshold."""
_FORMAT = 1
_CALIBRATE = "traitcli calibrate FILE, with benign texts"


@dataclass(frozen=True, slots=True)
class Threshold:
    """The score that benign texts exceed at a false-positive rate.

    summary    how a text is summed up
    tokens     length of the texts, which were cut there
    texts      their number
    rate       the false-positive rate
    value      (h · v) / ‖v‖ in activation units, so that it holds with and without calibration
    low, high  interval of `value`, from the order of the texts alone
    """

    summary: Summary
    tokens: int
    texts: int
    rate: float
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The thresholds of one trait, and the vector that they belong to.

    fingerprint  of the vector; see `fingerprint`
    source       name of the file with the benign texts
    """

    trait: str
    fingerprint: str
    position: Position
    layer: int
    source: str
    points: tuple[Threshold, ...]

    @property
    def rates(self) -> list[float]:
        return sorted({point.rate for point in self.points})

    def check(self, vector: TraitVector, position: Position, layer: int, path: Path) -> None:
        """Raise VectorError unless the thresholds belong to this direction of the vector."""
        own, read = f"{self.position} at layer {self.layer}", f"{position} at layer {layer}"
        if own != read:
            cause = f"they are of {own}, and the monitor reads {read}"
        elif self.fingerprint != fingerprint(vector, position, layer):
            cause = "the vector was built again after they were measured"
        else:
            return
        raise VectorError(
            f"the thresholds in {path} do not fit the vector of {self.trait}",
            cause=cause,
            fix=f"measure them again: {_CALIBRATE}",
        )

    def bound(self, summary: Summary, rate: float) -> Callable[[int], float]:
        """Length of a text -> the threshold, as a projection.

        Between two lengths, the threshold follows the logarithm of the length; texts that are
        shorter or longer than all that were measured have the nearest one.

        Raises VectorError when no threshold is stored for the summary and the rate.
        """
        stored = [point for point in self.points if point.summary == summary]
        found = sorted(
            (point.tokens, point.value) for point in stored if math.isclose(point.rate, rate)
        )
        if not found:
            raise self._no_threshold(summary, rate)
        lengths, values = zip(*found, strict=True)
        logarithms = np.log(lengths)
        return lambda tokens: float(np.interp(math.log(max(tokens, 1)), logarithms, values))

    def _no_threshold(self, summary: Summary, rate: float) -> VectorError:
        ways = dict.fromkeys(point.summary for point in self.points)
        if self.points and summary not in ways:
            return VectorError(
                f"there are no thresholds of {self.trait} by {summary.text}",
                cause=f"there are some by {', '.join(way.text for way in ways)}",
                fix=f"use one of these, for example {self.trait}@fpr={rate * 100:.4g}%",
            )
        known = ", ".join(f"{one * 100:.4g}%" for one in self.rates)
        return VectorError(
            f"there is no threshold of {self.trait} at fpr={rate * 100:.4g}%",
            cause=f"stored: {known or 'none'}",
            fix=f"measure it: traitcli calibrate FILE --fpr {rate * 100:.4g}%, "
            f"with {fewest_texts(rate):,} benign texts or more",
        )


def fewest_texts(rate: float) -> int:
    """How many texts a threshold needs so that its interval has an upper end."""
    # The interval ends at the highest text; that one must lie above the threshold often enough.
    return math.ceil(math.log((1 - LEVEL) / 2) / math.log1p(-rate))


def measure(texts: Iterable[Sequence[float]], rates: Sequence[float]) -> tuple[Threshold, ...]:
    """Thresholds of each way to sum up, length and rate for which there are enough texts.

    Args:
        texts: The projections of the tokens of each benign text. They are finite.
        rates: False-positive rates, above 0 and below 1.
    """
    scores = [list(one) for one in texts]
    by_length = sorted((len(one) for one in scores), reverse=True)
    # Also at the longest that enough texts have, for most texts end between two lengths.
    needed = [count for count in map(fewest_texts, rates) if count <= len(by_length)]
    longest = by_length[max(needed) - 1] if needed else 0
    lengths = sorted({*LENGTHS, max(longest, LENGTHS[0])})
    points = []
    for summary in SUMMARIES:
        cut = [summed_at(summary, one, lengths) for one in scores]
        for tokens in lengths:
            values = np.sort([one[tokens] for one in cut if tokens in one])
            for rate in rates:
                if len(values) >= fewest_texts(rate):
                    points.append(_threshold(summary, tokens, rate, values))
    return tuple(points)


def summed_at(
    summary: Summary, scores: Sequence[float], lengths: Iterable[int]
) -> dict[int, float]:
    """The sum of a text that is cut at each of the lengths that it reaches.

    The lengths are at least that of the summary. One pass over the text gives all of them.
    """
    wanted, found = set(lengths), {}
    running = Running(summary)
    for count, score in enumerate(scores, start=1):
        running.add(score)
        if count in wanted:
            found[count] = running.result()
    return found


def _threshold(summary: Summary, tokens: int, rate: float, values: Any) -> Threshold:
    """The threshold from the sorted sums of n texts."""
    from scipy.stats import binom

    n = len(values)
    # A further text is above the k-th of n with probability 1 − k / (n + 1).
    value = np.interp((n + 1) * (1 - rate), np.arange(1, n + 1), values)
    # How many of n texts lie below the true threshold is binomial (David and Nagaraja 2003, 7.1).
    low = int(binom.ppf((1 - LEVEL) / 2, n, 1 - rate))
    high = int(binom.ppf((1 + LEVEL) / 2, n, 1 - rate)) + 1
    return Threshold(
        summary,
        tokens,
        n,
        rate,
        float(value),
        float(values[max(low, 1) - 1]),
        float(values[high - 1]),
    )


def thresholds_path(folder: Path, trait: str) -> Path:
    """Where the thresholds of a trait are, beside its vector."""
    return folder / f"{trait}.thresholds.json"


def write_thresholds(path: Path, thresholds: Thresholds) -> None:
    """Replace the file atomically; raises StorageError."""
    points = [asdict(point) for point in thresholds.points]
    data = {"format": _FORMAT, **asdict(thresholds), "points": points}
    write_atomic(path, json.dumps(data, ensure_ascii=False, indent=1) + "\n")


def read_thresholds(path: Path, trait: str) -> Thresholds:
    """Read a file of thresholds; raises VectorError when there is none, or it is damaged."""
    try:
        data = parse_json(path.read_bytes())
        if data["format"] != _FORMAT:
            raise ValueError(f"format {data['format']}, not {_FORMAT}")
        return _parse(data)
    except FileNotFoundError:
        raise VectorError(
            f"there are no thresholds of {trait}",
            cause=f"{path} does not exist",
            fix=f"measure them: {_CALIBRATE}",
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        known = error if isinstance(error, OSError | ValueError) else None
        raise VectorError(
            f"cannot read {path}",
            cause=explain_unreadable(known) if known else f"it is damaged: {error}",
            fix=f"measure the thresholds again: {_CALIBRATE}",
        ) from None


def _parse(data: Mapping[str, Any]) -> Thresholds:
    """Raises KeyError, TypeError or ValueError unless the data are those of a file."""
    points = []
    for one in data["points"]:
        numbers = [float(one[key]) for key in ("rate", "value", "low", "high")]
        if not all(map(math.isfinite, numbers)):
            raise ValueError("a threshold is not finite")
        kind: Kind = one["summary"]["kind"]
        if kind not in get_args(Kind):
            raise ValueError(f"a way to sum up is {kind!r}")
        summary = Summary(kind, int(one["summary"]["length"]))
        points.append(Threshold(summary, int(one["tokens"]), int(one["texts"]), *numbers))
    return Thresholds(
        str(data["trait"]),
        str(data["fingerprint"]),
        data["position"],
        int(data["layer"]),
        str(data["source"]),
        tuple(points),
    )
