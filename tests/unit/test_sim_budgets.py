"""How often the engine waits for an accelerator, copies to it and launches kernels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from tests.conftest import LLAMA_TEMPLATE, make_model
from tests.sim_device import simulated
from tests.sim_log import Log
from tests.sim_models import on_sim, spread_over_two
from tests.unit import test_brakes as brakes
from traitcli.config import ModelConfig, SamplingConfig
from traitcli.generation.decode import decode
from traitcli.generation.mean_activations import MeanReader
from traitcli.generation.projections import Probe, ProjectionReader
from traitcli.generation.request import Request, Step
from traitcli.generation.sampling import pick, pick_tokens, uniforms
from traitcli.models.load import load_model
from traitcli.records import TraitVector
from traitcli.steering.interventions import steered

FAMILIES = ("llama", "gemma2")
PLACES = {"one device": on_sim, "two devices": spread_over_two}
SAMPLING = {
    "greedy": SamplingConfig(temperature=0, max_new_tokens=4),
    "sampled": SamplingConfig(max_new_tokens=4),
    "likeliest only": SamplingConfig(max_new_tokens=4, temperature=0.7, top_k=40, top_p=0.9),
    "nucleus": SamplingConfig(max_new_tokens=4, temperature=0.7, top_p=0.9),
}
START = tuple(range(20, 34))

CASES = [
    *(
        (family, place, count, "sampled")
        for family, place, count in product(FAMILIES, PLACES, (1, 12))
    ),
    *(("llama", "one device", 12, sampling) for sampling in SAMPLING if sampling != "sampled"),
    ("gemma2", "two devices", 12, "nucleus"),
]
"""Every kind of sampling once or twice: tokens are picked alike whatever comes before."""

each_case = pytest.mark.parametrize(("family", "place", "count", "sampling"), CASES)
each_place = pytest.mark.parametrize("place", PLACES)
each_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture
def log():
    with simulated() as log:
        yield log


@pytest.fixture(scope="session")
def deeper_model(tmp_path_factory):
    """A tiny Llama with two more layers than the others."""
    folder = tmp_path_factory.mktemp("deeper") / "tiny-llama"
    make_model(folder, "llama", LLAMA_TEMPLATE, True, more={"num_hidden_layers": 6})
    return load_model(ModelConfig(id=str(folder), device="cpu"))


def requests(count: int) -> list[Request]:
    """Prompts that begin alike and have different lengths."""
    return [
        Request((*START, *range(40 + 3 * number, 41 + 3 * number + number % 3)), number)
        for number in range(count)
    ]


def logged_steps(
    log: Log, loaded, asked: Sequence[Request], sampling: SamplingConfig, reader=None
) -> Iterator[tuple[Step, Log]]:
    """Each step with what happened on the device for it."""
    log.take()
    for step in decode(loaded, asked, sampling, 64, reader or MeanReader(loaded)):
        yield step, log.take()


def unending(loaded):
    return replace(loaded, stop_ids=frozenset())


@each_case
def test_a_step_waits_once_and_copies_to_the_device_twice(
    log, loaded, family, place, count, sampling
):
    model = unending(PLACES[place](loaded(family)))

    _, *middle, _ = logged_steps(log, model, requests(count), SAMPLING[sampling])

    assert len(middle) == 2
    for step, done in middle:
        assert len(step.written) == count
        assert done.waits <= 1, done.table("download", "wait")
        assert done.count("upload") <= 2, done.table("upload")


@each_case
def test_a_step_of_fixed_slots_waits_once_and_copies_nothing_to_the_device(
    log, loaded, family, place, count, sampling
):
    model = replace(unending(PLACES[place](loaded(family))), decode_loop="fixed")

    # The first one comes after two steps, because steps are read late.
    _, *middle, _ = logged_steps(log, model, requests(count), SAMPLING[sampling])

    assert len(middle) == 2
    for step, done in middle:
        assert len(step.written) == count
        assert done.waits <= 1, done.table("download", "wait")
        # Between two devices, accelerate copies what is not on the second one.
        assert done.count("upload") == 0, done.table("upload")


@pytest.mark.parametrize("layers", [(2,), (0, 1, 2, 3, 4)])
@pytest.mark.parametrize("count", [1, 12])
def test_tokens_and_their_scores_come_back_in_one_copy(log, loaded, layers, count):
    model = replace(unending(on_sim(loaded("llama"))), decode_loop="fixed")
    reader = ProjectionReader(make_probes(layers), model, marks=True)

    _, *middle, _ = logged_steps(log, model, requests(count), SAMPLING["sampled"], reader)

    for step, done in middle:
        assert step.scores.shape == (count, 2 * len(layers))
        assert done.waits == 1, done.table("download", "wait")
        assert done.count("upload") == 0, done.table("upload")


@pytest.mark.parametrize("count", [1, 12])
@each_place
@each_family
def test_a_padded_step_waits_once_apart_from_transformers(log, loaded, family, place, count):
    model = unending(replace(PLACES[place](loaded(family)), packs=False))

    _, *middle, _ = logged_steps(log, model, requests(count), SAMPLING["sampled"])

    for _, done in middle:
        # transformers looks whether its mask hides anything.
        own = Log([event for event in done.events if "masking_utils" not in event.code])
        assert own.waits <= 1, own.table("download", "wait")
        assert done.count("upload") <= 2, done.table("upload")


@pytest.mark.parametrize("count", [1, 12])
@each_place
def test_answers_that_end_together_cost_one_more_wait(log, loaded, place, count):
    model = unending(PLACES[place](loaded("llama")))

    *_, (step, done) = logged_steps(log, model, requests(count), SAMPLING["sampled"])

    assert len(step.ended) == count
    # Their last tokens are not followed by others, so none are picked.
    assert done.waits == 1, done.table("download", "wait")


@pytest.mark.parametrize(
    ("family", "place", "layers"),
    [
        *((family, place, (4, 1, 4, 0)) for family, place in product(FAMILIES, PLACES)),
        *(("llama", "one device", layers) for layers in [(2,), (2, 2, 2)]),
        *(("llama", place, (0, 1, 2, 3, 4)) for place in PLACES),
    ],
)
def test_the_scores_of_a_monitored_token_are_copied_back_together(
    log, loaded, family, place, layers
):
    model = unending(PLACES[place](loaded(family)))
    reader = ProjectionReader(make_probes(layers), model, marks=True)

    _, *middle, _ = logged_steps(log, model, requests(1), SAMPLING["sampled"], reader)

    for step, done in middle:
        assert step.scores.shape == (1, 2 * len(layers))
        of_scores = [event for event in done.events if "projections.py" in event.line]
        assert Log(of_scores).waits == 1, done.table("download", "wait")
        # The other one brings the token.
        assert done.waits <= 2, done.table("download", "wait")
        assert done.count("upload") <= 2, done.table("upload")


@pytest.mark.parametrize("packs", [True, False])
@each_place
def test_brakes_wait_for_nothing_and_copy_nothing(log, loaded, place, packs):
    plain = unending(replace(PLACES[place](loaded("llama")), packs=packs))
    # Long enough for gates, which follow the scores of eight tokens.
    sampling = SamplingConfig(max_new_tokens=11)

    def counts(more=None):
        reader = ProjectionReader(make_probes((2, 3)), plain, marks=True, more=more)
        _, _, *middle, _ = logged_steps(log, plain, requests(4), sampling, reader)
        return [(done.waits, done.count("upload")) for _, done in middle]

    expected = counts()

    assert len(expected) == 8
    for texts in (("evil<=-0.3",), ("evil=ablate@all",), ("refusal=6 if evil>-0.6", "evil<=0")):
        with steered(plain, brakes.prepared(plain, *texts)) as steering:
            assert counts(steering) == expected, texts


def make_probes(layers: Sequence[int]) -> list[Probe]:
    random = np.random.default_rng(0)
    probes = []
    for number, layer in enumerate(layers):
        directions = {"response_avg": random.normal(size=(5, 32)).astype(np.float32)}
        vector = TraitVector(f"t{number}", "tiny", "mean_difference", 2, directions, {})
        probes.append(Probe(vector, "response_avg", layer))
    return probes


PROMPTS = {
    "the same prompt": lambda number: START,
    "one beginning": lambda number: (*START, 40 + number),
    "several beginnings": lambda number: (
        *range(20 * (number // 2), 20 * (number // 2) + 14),
        400 + number,
    ),
}


@pytest.mark.parametrize("prompts", PROMPTS)
def test_more_answers_that_begin_cost_the_same_with_more_layers(log, loaded, deeper_model, prompts):
    def launches(model, count):
        asked = [Request(PROMPTS[prompts](number), number) for number in range(count)]
        (_, first), *_ = logged_steps(log, unending(model), asked, SAMPLING["sampled"])
        return first.count("launch")

    shallow, deep = on_sim(loaded("llama")), on_sim(deeper_model)

    more = [launches(model, 12) - launches(model, 6) for model in (shallow, deep)]

    assert more[0] == more[1]


@pytest.mark.parametrize("way", ["at the limit", "before others"])
def test_more_answers_that_end_cost_the_same_with_more_layers(log, loaded, deeper_model, way):
    def launches(model, count):
        ending, going = Request(START, 1), Request((*START, 40), 2)
        asked = [ending] * count + [going] * (0 if way == "at the limit" else count)
        model = unending(model)
        steps = list(logged_steps(log, model, asked, SAMPLING["sampled"]))
        if way == "before others":
            # Stopped by the third token: the last answers move to the slots that become free.
            third = steps[2][0].written[0][1]
            model = replace(model, stop_ids=frozenset([third]))
            steps = list(logged_steps(log, model, asked, SAMPLING["sampled"]))
        [of_end] = [done for step, done in steps if len(step.ended) == count][:1]
        return of_end.count("launch")

    shallow, deep = on_sim(loaded("llama")), on_sim(deeper_model)

    more = [launches(model, 8) - launches(model, 4) for model in (shallow, deep)]

    assert more[0] == more[1] > 0


@pytest.mark.parametrize("shape", ["peaked", "flat"])
@pytest.mark.parametrize("top_k", [0, 40])
@pytest.mark.parametrize("count", [1, 12])
def test_a_nucleus_is_found_with_one_wait_however_large_it_is(log, loaded, count, top_k, shape):
    random = torch.Generator().manual_seed(3)
    logits = torch.randn(count, 5000, generator=random) * {"peaked": 9, "flat": 1 / 9}[shape]
    draws = uniforms(range(count), 1)[:, 0]
    sampling = SamplingConfig(temperature=0.9, top_k=top_k, top_p=0.95)
    log.take()

    found = pick_tokens(loaded("llama"), logits.to("sim:0"), draws, sampling)

    done = log.take()
    assert found == pick(logits, draws, sampling).tolist()
    assert done.waits == 1, done.table("download", "wait")
    # The logits themselves are copied there, and the draws.
    assert done.count("upload") == 2, done.table("upload")


@pytest.mark.parametrize("sampling", SAMPLING)
def test_what_picks_tokens_does_not_depend_on_the_logits(log, sampling):
    draws = uniforms(range(3), 1)[:, 0].to("sim:0")

    def operators(logits):
        logits = logits.to("sim:0")
        log.take()
        pick(logits, draws, SAMPLING[sampling])
        return [(event.kind, event.operator) for event in log.take().events]

    peaked, flat = torch.arange(5000.0).expand(3, -1).contiguous(), torch.zeros(3, 5000)

    assert operators(peaked) == operators(flat) != []
    assert {kind for kind, _ in operators(flat)} == {"launch"}
