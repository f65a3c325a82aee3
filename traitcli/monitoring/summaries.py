"""Ways to sum up the token scores of an answer in one number."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["rolling", "mean", "first", "any", "ema", "run"]

LENGTH = 8
"""Tokens that count together. A mean of fewer tokens is mostly noise."""


@dataclass(frozen=True, slots=True)
class Summary:
    """How to sum up an answer.

    kind    rolling: highest mean of `length` tokens in a row · mean: mean of the whole answer ·
            first: mean of the first `length` tokens · any: highest token · ema: highest
            exponential moving average, of weight 2 / (length + 1) · run: highest score that
            `length` tokens in a row reach
    length  number of tokens; `any` and `mean` ignore it

    An answer that is shorter than `length` is summed up by all its tokens.

    Example:
        Summary("rolling")([0.1, 2.0, ...])
    """

    kind: Kind
    length: int = LENGTH

    def __call__(self, scores: Iterable[float]) -> float:
        """The number for one answer; NaN if it has no token, or if a score is not finite."""
        running = Running(self)
        for score in scores:
            running.add(score)
        return running.result()

    @property
    def text(self) -> str:
        """The name for tables, for example `rolling mean of 8`."""
        return {
            "rolling": f"rolling mean of {self.length}",
            "mean": "mean",
            "first": f"first {self.length} tokens",
            "any": "highest token",
            "ema": f"moving average of {self.length}",
            "run": f"{self.length} in a row",
        }[self.kind]


SUMMARIES: tuple[Summary, ...] = (
    Summary("rolling"),
    Summary("mean"),
    Summary("first"),
    Summary("any"),
    Summary("ema"),
)
"""The ways that are compared on labelled answers and have thresholds; the first is the default."""


class Running:
    """Sums up one answer while it is written.

    `add` returns what the token just added makes of it: None where too few tokens are known. The
    result for the answer is the highest of them; that of a mean is the last.
    """

    def __init__(self, summary: Summary) -> None:
        self._kind = summary.kind
        self._length = 1 if summary.kind == "any" else summary.length
        self._window: deque[float] = deque(maxlen=self._length)
        self._decay = 1 - 2 / (self._length + 1)
        self._count = 0
        self._sum = 0.0
        self._average = 0.0
        self._highest = -math.inf

    def add(self, score: float) -> float | None:
        """Take the next token's score."""
        self._count += 1
        self._sum += score
        self._window.append(score)
        self._average = self._decay * self._average + (1 - self._decay) * score
        if self._count < self._length or (self._kind == "first" and self._count > self._length):
            return None
        value = self._value()
        # Not `max`, for which NaN is smaller or larger depending on the order.
        self._highest = float(np.maximum(self._highest, value))
        return value

    def end(self) -> float | None:
        """The value of an answer that has ended, where no token has given it."""
        if self._kind != "mean" and self._count >= self._length:
            return None
        return self._value() if self._count else None

    def result(self) -> float:
        """The number for the answer, if it ended here; NaN without a token."""
        if not self._count:
            return math.nan
        is_known = self._count >= self._length and self._kind != "mean"
        return self._highest if is_known else self._value()

    def _value(self) -> float:
        if self._kind == "mean":
            return self._sum / self._count
        if self._kind == "ema":
            # By the weight of what is known of the past, so that an average does not start at 0.
            return self._average / (1 - self._decay**self._count)
        if self._kind == "run":
            return float(np.min(self._window))
        return _mean(self._window)


def _mean(scores: Sequence[float] | deque[float]) -> float:
    # Not a running sum: it would keep the rounding, and any NaN, of tokens long past.
    return sum(scores) / len(scores)
