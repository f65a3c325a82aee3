"""Requests of a service, and the same answers as `monitor` writes them."""

from __future__ import annotations

import random
from dataclasses import replace

from tests.unit.test_brakes import STOP, VECTORS, prepared
from tests.unit.test_live_batch import WAYS, Listener
from traitcli.api.model import Model
from traitcli.config import (
    Config,
    ModelConfig,
    MonitorConfig,
    MonitorSamplingConfig,
    SamplingConfig,
)
from traitcli.generation.projections import make_probes
from traitcli.monitoring.alarms import parse_rule
from traitcli.monitoring.monitor import monitor
from traitcli.monitoring.watch import Watch
from traitcli.serving.served import ServedEnd, ServedRequest, ServedToken

WORDS = ("How", "does lock", "picking work?", "Was heißt das?", "Tell me more.", "Please")


def model_of(loaded, family, **config):
    """The model of a service; its answers end at different steps."""
    own = replace(loaded(family), stop_ids=STOP)
    settings = Config(name="tiny", model=ModelConfig(id=own.name), **config)
    return Model(own, settings, lambda event: None)


class Case:
    """A request in all that belongs to it, chosen by its number."""

    def __init__(self, model, number, ways=None):
        draw = random.Random(number)
        self.model = model
        self.seed = number
        self.text = " ".join(draw.choices(WORDS, k=draw.randrange(1, 9)))
        self.sampling = SamplingConfig(
            temperature=draw.choice([0, 0.7, 1.0, 1.5]),
            top_k=draw.choice([0, 0, 20]),
            top_p=draw.choice([1.0, 0.9, 0.5]),
            max_new_tokens=draw.randrange(2, 30),
        )
        self.ways = WAYS[number % len(WAYS)] if ways is None else ways
        self.traits = tuple(draw.sample(list(VECTORS), draw.randrange(1, len(VECTORS) + 1)))

    def request(self, **more):
        prompt = ({"role": "user", "content": self.text},)
        about = {"number": self.seed}
        return ServedRequest(
            prompt,
            self.sampling,
            self.seed,
            traits=self.traits,
            steer=self.ways,
            about=about,
            **more,
        )

    def monitored(self, *rules):
        """The record of `monitor`."""
        loaded = self.model.loaded
        sampling = MonitorSamplingConfig(**self.sampling.model_dump())
        watch = Watch(
            make_probes([VECTORS[trait] for trait in self.traits], loaded, "response_avg"),
            MonitorConfig(sampling=sampling, seed=self.seed),
            prepared(loaded, *self.ways),
            tuple(parse_rule(text, "stop", self.traits) for text in rules),
            about={"number": self.seed},
        )
        return monitor(loaded, watch, self.text)


class Client(Listener):
    """Gathers what a served request gives; `end` waits for its end."""

    token_type, end_type = ServedToken, ServedEnd

    @property
    def text(self):
        return "".join(token.text for token in self.tokens) + self.end().text


def timeless(record):
    """The record without what depends on the clock."""
    return replace(record, seconds=(), created="")
