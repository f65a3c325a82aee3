"""Scores of a batch, step by step, against transformers' hidden states of each whole text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.conftest import FAMILIES
from traitcli.config import SamplingConfig
from traitcli.generation.decode import decode
from traitcli.generation.mean_activations import MeanReader
from traitcli.generation.projections import Probe, ProjectionReader
from traitcli.generation.request import Request
from traitcli.records import TraitVector

SAMPLED = SamplingConfig(max_new_tokens=9)
START = tuple(range(20, 40))
# Different lengths, a shared beginning, and two equal prompts.
PROMPTS = [
    (*START, 41),
    (9, 8, 7),
    (*START, 50, 51, 52),
    (*START, 41),
    (60, 61),
    tuple(range(90, 99)),
]
REQUESTS = [Request(ids, seed) for seed, ids in enumerate(PROMPTS)]
LAYERS = (0, 2, 2, 4)


@pytest.fixture(params=["packed", "padded"])
def decoder(request, loaded):
    """family -> its tiny model, packed or padded; its answers end at different steps."""
    stop = frozenset(range(0, 700, 9))
    packs = request.param == "packed"
    return lambda family: replace(loaded(family), packs=packs, stop_ids=stop)


def make_probes():
    random = np.random.default_rng(0)
    probes = []
    for number, layer in enumerate(LAYERS):
        matrix = random.normal(size=(5, 32)).astype(np.float32)
        vector = TraitVector(
            f"t{number}", "tiny", "mean_difference", 2, {"response_avg": matrix}, {}
        )
        probes.append(Probe(vector, "response_avg", layer))
    return probes


def teacher_forced(model, probes, ids):
    """float32 [tokens, P]: one whole pass over a text by transformers, then (h · v) / ‖v‖."""
    with torch.no_grad():
        states = model.model(torch.tensor([ids]), output_hidden_states=True).hidden_states
    columns = []
    for probe in probes:
        direction = torch.from_numpy(probe.vector.directions["response_avg"][probe.layer])
        columns.append(states[probe.layer][0].float() @ direction / direction.norm())
    return torch.stack(columns, 1).numpy()


@pytest.mark.parametrize("size", [2, 4, 64])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_step_carries_the_scores_of_its_tokens_at_any_batch_size(decoder, family, size):
    model, probes = decoder(family), make_probes()
    reader = ProjectionReader(probes, model)
    tokens = {index: [] for index in range(len(REQUESTS))}
    scores = {index: [] for index in range(len(REQUESTS))}

    for step in decode(model, REQUESTS, SAMPLED, size, reader):
        assert (step.scores is None) == (not step.written)
        for number, (index, token) in enumerate(step.written):
            tokens[index].append(token)
            scores[index].append(step.scores[number])

    assert len({len(ids) for ids in tokens.values()}) > 1
    assert sum(map(bool, tokens.values())) > 3
    for index, request in enumerate(REQUESTS):
        expected = teacher_forced(model, probes, [*request.ids, *tokens[index]])
        found = np.array(scores[index], np.float32).reshape(-1, len(probes))
        np.testing.assert_allclose(found, expected[len(request.ids) :], rtol=1e-3, atol=1e-3)
        np.testing.assert_array_equal(found, reader.finished[index].response)
        assert reader.finished[index].prompt.shape == (0, len(probes))


@pytest.mark.parametrize("size", [2, 64])
@pytest.mark.parametrize("family", FAMILIES)
def test_each_prompt_comes_with_its_own_scores_at_any_batch_size(decoder, family, size):
    model, probes = decoder(family), make_probes()
    reader = ProjectionReader(probes, model, prompts=True)
    found = []

    for step in decode(model, REQUESTS, SAMPLED, size, reader):
        found += step.prompt_scores

    assert sorted(index for index, _ in found) == list(range(len(REQUESTS)))
    for index, scores in found:
        expected = teacher_forced(model, probes, PROMPTS[index])
        np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-3)
        np.testing.assert_array_equal(scores, reader.finished[index].prompt)


def test_a_reader_without_scored_tokens_returns_no_scores(decoder):
    model = decoder("llama")

    steps = list(decode(model, REQUESTS, SAMPLED, 4, MeanReader(model)))

    assert all(step.scores is None and not step.prompt_scores for step in steps)
