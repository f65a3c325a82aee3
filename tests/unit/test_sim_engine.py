"""The engine on a pretend accelerator, whole or spread over two, gives the results of the CPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.conftest import LLAMA_TEMPLATE, make_model
from tests.sim_device import simulated
from tests.sim_models import on_sim, spread_over_two
from tests.unit import test_brakes as brakes
from tests.unit import test_decode as decoding
from tests.unit import test_likelihood as likelihood
from tests.unit import test_monitor as monitoring
from tests.unit import test_projections as projections
from tests.unit.local_judge import models as judging
from tests.unit.test_read_texts import TEXTS
from traitcli.config import ModelConfig, SamplingConfig
from traitcli.generation.decode import decode
from traitcli.generation.mean_activations import MeanReader
from traitcli.generation.projections import ProjectionReader, make_probes
from traitcli.judging.local.yes_no import ask_yes_no
from traitcli.models.load import load_model
from traitcli.models.massive import measure_massive
from traitcli.models.read_texts import log_probabilities, read_texts
from traitcli.models.self_test import run_self_test
from traitcli.models.steerer import ActivationSteerer
from traitcli.monitoring.score_texts import score_texts
from traitcli.monitoring.transcripts import Exchange
from traitcli.records import POSITIONS
from traitcli.steering.interventions import steered, typical_norms

SAMPLING = {
    "greedy": SamplingConfig(temperature=0, max_new_tokens=6),
    "sampled": SamplingConfig(max_new_tokens=6),
    "likeliest only": SamplingConfig(max_new_tokens=6, temperature=0.7, top_k=40, top_p=0.9),
}
BRAKED = SamplingConfig(max_new_tokens=16)
"""Twice the tokens that a gate looks back at."""
BRAKES = (
    "evil<=-0.3",
    "refusal=ablate@2",
    "evil=4",
    "evil=-6@2 if refusal<0",
    "refusal=6@1 if refusal>-0.3",
)
"""Each kind; with two devices, scores of the second one open gates on the first."""
PLACES = {"one device": on_sim, "two devices": spread_over_two}
MODELS = ("llama", "gemma2", "lfm2")
"""Grouped heads; a soft cap and a window; recurrent layers, which are read padded."""
RECURRENT = {"layer_types": ["conv", "full_attention"] * 2}
VECTOR = np.linspace(-1, 1, 32)

WAYS = [("llama", True), ("llama", False), ("gemma2", True), ("gemma2", False), ("lfm2", False)]
"""Families, and whether they are read packed."""

each_model = pytest.mark.parametrize("family", MODELS)
each_way = pytest.mark.parametrize(("family", "packs"), WAYS)


@pytest.fixture(scope="session")
def padded_model(tmp_path_factory):
    """A model with recurrent layers, which cannot be read packed."""
    folder = tmp_path_factory.mktemp("padded") / "tiny-lfm2"
    make_model(folder, "lfm2", LLAMA_TEMPLATE, True, more=RECURRENT)
    return load_model(ModelConfig(id=str(folder), device="cpu"))


@pytest.fixture
def model(loaded, padded_model):
    """family -> its tiny model on the CPU."""
    return lambda family: padded_model if family == "lfm2" else loaded(family)


@pytest.fixture(scope="module")
def known():
    """(test, its parameters without the place) -> what the CPU gives."""
    return {}


@pytest.fixture(params=PLACES)
def both(request, known):
    """Returns what a function gives for a model on the CPU, and on pretend devices."""
    params = sorted(request.node.callspec.params.items())
    case = (request.function, *(value for name, value in params if name != "both"))

    def run(loaded, compute):
        if case not in known:
            known[case] = compute(loaded)
        with simulated(logs=False):
            found = compute(PLACES[request.param](loaded))
        return known[case], found

    return run


@each_model
def test_the_self_test_has_the_same_result(both, model, family):
    def compute(loaded):
        test = run_self_test(loaded, thorough=True)
        return [check.problem for check in test.checks], test.packs, test.pads

    expected, found = both(model(family), compute)

    assert found == expected


@each_model
def test_massive_states_have_the_same_lengths(both, model, family):
    expected, found = both(model(family), measure_massive)

    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("family", "packs", "sampling"),
    [(*way, "sampled") for way in WAYS]
    + [("llama", True, other) for other in SAMPLING if other != "sampled"],
)
def test_answers_and_their_means_are_the_same(both, model, family, packs, sampling):
    def compute(loaded):
        asked = decoding.requests(loaded) * 2
        # Few at a time: answers end and others begin, in slots that are moved.
        return decoding.answers(loaded, asked, SAMPLING[sampling], size=3)

    stopping = replace(model(family), packs=packs, stop_ids=frozenset(range(0, 900, 4)))
    expected, found = both(stopping, compute)

    assert [one.ids for one in found] == [one.ids for one in expected]
    assert len({len(one.ids) for one in expected}) > 1
    for one, other in zip(found, expected, strict=True):
        for position in POSITIONS if one.ids else ():
            error = decoding.relative_error(one.activations[position], other.activations[position])
            assert error < decoding.TOLERANCE


@each_way
def test_scores_of_tokens_and_prompts_are_the_same(both, model, family, packs):
    def compute(loaded):
        reader = ProjectionReader(projections.make_probes(), loaded, prompts=True, marks=True)
        steps = list(decode(loaded, projections.REQUESTS, SAMPLING["sampled"], 3, reader))
        written = [step.written for step in steps]
        return written, [step.scores for step in steps], reader.finished

    expected, found = both(replace(model(family), packs=packs), compute)

    assert found[0] == expected[0]
    for one, other in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)
    assert found[2].keys() == expected[2].keys()
    for index, of_text in found[2].items():
        for one, other in zip(of_text, expected[2][index], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("family", "packs", "positions"),
    [(*way, "all") for way in WAYS]
    + [(family, True, only) for family in ("llama", "gemma2") for only in ("prompt", "response")],
)
def test_steered_answers_are_the_same(both, model, family, packs, positions):
    def compute(loaded):
        # One block on each device.
        steerers = [ActivationSteerer(loaded.model, VECTOR, 8, at, positions) for at in (0, 2)]
        with steerers[0], steerers[1]:
            return decoding.answers(loaded, decoding.requests(loaded), SAMPLING["greedy"], size=3)

    expected, found = both(replace(model(family), packs=packs), compute)

    assert [one.ids for one in found] == [one.ids for one in expected]


@each_way
def test_braked_answers_and_where_brakes_held_are_the_same(both, model, family, packs):
    def compute(loaded):
        steering = steered(loaded, brakes.prepared(loaded, *BRAKES))
        reader = ProjectionReader(brakes.probes(), loaded, more=steering)
        with steering:
            # Few at a time: sequences are moved, with what gates remember of them.
            steps = list(decode(loaded, brakes.REQUESTS[:6], BRAKED, 3, reader))
        return [step.written for step in steps], reader.finished

    stopping = replace(model(family), packs=packs, stop_ids=frozenset(range(0, 900, 16)))
    expected, found = both(stopping, compute)

    assert found[0] == expected[0]
    assert len({len(one.response) for one in expected[1].values()}) > 1
    for index, one in found[1].items():
        assert np.array_equal(one.response[:, 3:], expected[1][index].response[:, 3:])
    # Each brake holds at some tokens and not at others.
    held = np.concatenate([one.response[:, 3:] for one in expected[1].values()])
    assert held.any(0).all()
    assert not held.all(0).any()


@each_way
def test_read_texts_have_the_same_means(both, model, family, packs):
    def compute(loaded):
        reader = MeanReader(loaded)
        list(read_texts(loaded, TEXTS, 3, reader))
        return reader.finished

    expected, found = both(replace(model(family), packs=packs), compute)

    for index in range(len(TEXTS)):
        for position in POSITIONS:
            one, other = found[index][position], expected[index][position]
            assert decoding.relative_error(one, other) < decoding.TOLERANCE


@each_way
def test_log_probabilities_are_the_same(both, model, family, packs):
    expected, found = both(
        replace(model(family), packs=packs),
        lambda loaded: dict(log_probabilities(loaded, TEXTS, 3)),
    )

    for index in range(len(TEXTS)):
        torch.testing.assert_close(found[index], expected[index], atol=1e-4, rtol=1e-4)


@each_way
def test_the_likelihood_judge_gives_the_same_scores(both, model, family, packs):
    expected, found = both(replace(model(family), packs=packs), likelihood.judged)

    assert found.keys() == expected.keys()
    for rollout, judgement in found.items():
        assert judgement.score.value == pytest.approx(expected[rollout].score.value, abs=0.01)


@pytest.mark.parametrize("scale", ["0_100", "0_10"])
@each_model
def test_the_local_judge_gives_the_same_scores(both, model, family, scale):
    def compute(loaded):
        preferring = judging.number_model(loaded, digits=12.0, whitespace=9.0)
        return judging.values(judging.judged(preferring, scale=scale))

    expected, found = both(model(family), compute)

    assert found == pytest.approx(expected, abs=0.05)
    assert any(value is not None for value in expected.values())


@each_model
def test_yes_and_no_have_the_same_odds(both, model, family):
    texts = [(answer.question, answer.response) for answer in judging.ANSWERS]

    def compute(loaded):
        return ask_yes_no(judging.number_model(loaded, words=16.0), judging.TRAIT, texts)

    expected, found = both(model(family), compute)

    assert found == pytest.approx(expected, abs=0.01)


@each_model
def test_the_monitor_gives_the_same_record(both, model, family):
    def compute(loaded):
        return monitoring.watch(loaded, None)

    expected, found = both(model(family), compute)

    assert found.tokens == expected.tokens
    for trait, scores in expected.raw.items():
        assert found.raw[trait] == pytest.approx(scores, rel=1e-3, abs=1e-3)


@each_model
def test_usual_lengths_of_states_are_the_same(both, model, family):
    def compute(loaded):
        return typical_norms(loaded, (0, 2, 3, 4), [text.prompt for text in TEXTS])

    expected, found = both(model(family), compute)

    assert found == pytest.approx(expected, rel=1e-4)


@each_model
def test_existing_texts_have_the_same_scores(both, model, family):
    def compute(loaded):
        probes = make_probes(monitoring.VECTORS, loaded, "response_avg")
        watch = monitoring.Watch(probes, monitoring.CONFIG, prompts=True)
        exchanges = [Exchange("How?", "So. " * number) for number in (1, 5, 2)]
        return list(score_texts(loaded, watch, exchanges))

    expected, found = both(model(family), compute)

    for one, other in zip(found, expected, strict=True):
        for trait, scores in other.raw.items():
            assert one.raw[trait] == pytest.approx(scores, rel=1e-3, abs=1e-3)
