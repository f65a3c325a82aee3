"""What the server counts, for Prometheus."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from traitcli.serving.served import ServedEnd, ServedEvent

if TYPE_CHECKING:
    from traitcli.records import TokenScores
    from traitcli.serving.service import Service

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_WINDOW_SECONDS = 10
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counts requests, tokens, scores and alarms; only the event loop calls it.

    Means and shares of scores are over all answers since the start. For those of a time, divide the
    increase of a sum by the increase of its count.

    Args:
        service: Its slots, queue and traits are shown.
        rules: The server's own alarm rules. Those of clients are counted together, because each
            label is a series of its own.
    """

    def __init__(self, service: Service, rules: Collection[str]) -> None:
        self._rules = frozenset(rules)
        self._recent: deque[float] = deque()
        self.registry = CollectorRegistry()
        self.registry.register(_ServiceCollector(service, self))

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"traitcli_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"traitcli_{name}", text, ("trait",), registry=self.registry)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(
                f"traitcli_{name}_seconds", text, registry=self.registry, buckets=_SECONDS
            )

        self._requests = counter("requests", "HTTP requests", "path", "status")
        self._answers = counter("answers", "Answers, by why they ended", "reason")
        self._prompt_tokens = counter("prompt_tokens", "Tokens of prompts")
        self._tokens = counter("tokens", "Tokens of answers")
        self._alarms = counter("alarms", "Alarms, by rule; rules of clients are `request`", "rule")
        self._scored = counter("scored_tokens", "Tokens that count in means", "trait")
        self._beyond = counter(
            "scored_tokens_beyond", "Of these, scores above 1 or below -1", "trait", "side"
        )
        self._sum = gauge("score_sum", "Sum of the scores of these tokens")
        self._mean = gauge("score_mean", "Mean score since the start")
        self._share = gauge("score_beyond_share", "Share of scores beyond ±1 since the start")
        self._first = histogram("first_token", "From the request to its first token")
        self._whole = histogram("request", "From the request to its end")
        self._totals: dict[str, tuple[int, int, float]] = {}

    def add(self, event: ServedEvent) -> None:
        """Count an event of an answer."""
        if isinstance(event, ServedEnd):
            self._answers.labels(event.reason).inc()
            self._add_record(event.record)
        else:
            self._tokens.inc()
            self._recent.append(time.monotonic())
            self._forget()

    def add_prompt(self, tokens: int) -> None:
        """Count the tokens of a request's prompts."""
        self._prompt_tokens.inc(tokens)

    def add_request(self, path: str, status: int) -> None:
        """Count an HTTP request; `path` is that of its route."""
        self._requests.labels(path, str(status)).inc()

    def add_first_token(self, seconds: float) -> None:
        """Note how long the first token of a request took."""
        self._first.observe(seconds)

    def add_whole(self, seconds: float) -> None:
        """Note how long a request took."""
        self._whole.observe(seconds)

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self.registry)

    @property
    def tokens_per_second(self) -> float:
        """Tokens of answers in a second, over the last ten seconds."""
        self._forget()
        return len(self._recent) / _WINDOW_SECONDS

    def _forget(self) -> None:
        """Drop the times of tokens that are older than the window."""
        start = time.monotonic() - _WINDOW_SECONDS
        while self._recent and self._recent[0] < start:
            self._recent.popleft()

    def _add_record(self, record: TokenScores) -> None:
        for crossing in record.crossings:
            rule = crossing.rule if crossing.rule in self._rules else "request"
            self._alarms.labels(rule).inc()
        for trait in record.raw:
            shown = record.shown(trait)
            scores = [shown[index] for index in record.counted(trait)]
            self._add_scores(
                trait,
                [score for score in scores if math.isfinite(score)],
                has_scale=trait in record.calibrated,
            )

    def _add_scores(self, trait: str, scores: list[float], *, has_scale: bool) -> None:
        above = sum(score > 1 for score in scores) if has_scale else 0
        below = sum(score < -1 for score in scores) if has_scale else 0
        count, beyond, total = self._totals.get(trait, (0, 0, 0.0))
        count, beyond, total = count + len(scores), beyond + above + below, total + sum(scores)
        self._totals[trait] = count, beyond, total
        self._scored.labels(trait).inc(len(scores))
        self._sum.labels(trait).set(total)
        if count:
            self._mean.labels(trait).set(total / count)
        if has_scale:
            self._beyond.labels(trait, "above").inc(above)
            self._beyond.labels(trait, "below").inc(below)
            if count:
                self._share.labels(trait).set(beyond / count)


class _ServiceCollector(Collector):
    """What the service is doing at the moment it is asked."""

    def __init__(self, service: Service, metrics: Metrics) -> None:
        self._service = service
        self._metrics = metrics

    def collect(self) -> Iterator[GaugeMetricFamily]:
        counts = self._service.counts
        for name, text, value in (
            ("slots", "Answers that can be written at once", counts.slots),
            ("slots_running", "Answers that are being written", counts.running),
            ("queue_waiting", "Answers that wait for a slot", counts.waiting),
            ("records_lost", "Records that --record could not write", self._service.lost_records),
            (
                "tokens_per_second",
                f"Tokens of answers in a second, over the last {_WINDOW_SECONDS} seconds",
                self._metrics.tokens_per_second,
            ),
        ):
            yield GaugeMetricFamily(f"traitcli_{name}", text, value=value)
