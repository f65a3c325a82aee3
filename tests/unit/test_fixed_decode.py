"""The decode loop with fixed slots writes what the moving one writes, as a replayed graph too."""

from __future__ import annotations

import inspect
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import traitcli.generation.decode as decode_module
from tests.conftest import LLAMA_TEMPLATE, make_model
from tests.recorded_graph import CaptureError, record
from tests.sim_device import simulated
from tests.sim_models import on_sim, spread_over_two
from tests.unit import test_brakes as brakes
from tests.unit import test_decode as decoding
from tests.unit import test_projections as projections
from tests.unit.families import EXPERTS
from traitcli.config import ModelConfig, SamplingConfig
from traitcli.errors import ModelError
from traitcli.generation import fixed_decode, graph_test
from traitcli.generation.decode import decode
from traitcli.generation.graph_test import choose_loop, find_graph_problem
from traitcli.generation.mean_activations import MeanReader
from traitcli.generation.projections import ProjectionReader
from traitcli.generation.request import Request
from traitcli.models.load import load_model
from traitcli.models.steerer import ActivationSteerer
from traitcli.records import POSITIONS
from traitcli.steering.interventions import steered

SAMPLING = {
    "greedy": SamplingConfig(temperature=0, max_new_tokens=9),
    "sampled": SamplingConfig(max_new_tokens=9),
    "likeliest only": SamplingConfig(max_new_tokens=9, temperature=0.7, top_k=40, top_p=0.9),
}
OTHERS = ("greedy", "likeliest only")
WAYS = (("fixed", 1), ("fixed", 3), ("fixed", 64), ("graph", 5))
"""Loops, and how many answers at a time."""
PLACES = {"cpu": lambda loaded: loaded, "one": on_sim, "two": spread_over_two}
FAMILIES = ("llama", "gemma2", "gpt_oss")
"""Grouped heads; a soft cap and a window; sinks and a window."""
VECTOR = np.linspace(-1, 1, 32)


@pytest.fixture(scope="session")
def with_sinks(tmp_path_factory):
    """A tiny gpt-oss."""
    folder = tmp_path_factory.mktemp("sinks") / "tiny-gpt-oss"
    make_model(folder, "gpt_oss", LLAMA_TEMPLATE, True, more={**EXPERTS, "sliding_window": 8})
    return load_model(ModelConfig(id=str(folder), device="cpu"))


@pytest.fixture
def family_model(loaded, with_sinks):
    """family -> its tiny model."""
    return lambda family: with_sinks if family == "gpt_oss" else loaded(family)


@pytest.fixture(autouse=True)
def recording(monkeypatch):
    """In place of CUDA graphs, recorded operators are replayed."""
    monkeypatch.setattr(decode_module, "capture_cuda_graph", record)


def ending(loaded):
    """A model whose answers end at different steps, some at once."""
    return replace(loaded, stop_ids=frozenset(range(0, 900, 11)))


def stop_early(loaded, loop):
    return replace(ending(loaded), decode_loop=loop)


def assert_same(found, expected):
    assert [(one.ids, one.finish_reason) for one in found] == [
        (one.ids, one.finish_reason) for one in expected
    ]
    for one, other in zip(found, expected, strict=True):
        assert (one.activations is None) == (other.activations is None)
        for position in POSITIONS if one.ids else ():
            error = decoding.relative_error(one.activations[position], other.activations[position])
            assert error < decoding.TOLERANCE


@pytest.mark.parametrize(
    ("family", "sampling", "loop", "size"),
    [
        *((family, "sampled", *way) for family in FAMILIES for way in WAYS),
        # Tokens are picked alike for all families.
        *(("llama", other, *way) for other in OTHERS for way in WAYS[1::2]),
    ],
)
def test_answers_and_means_are_those_of_the_moving_loop(family_model, family, sampling, size, loop):
    asked = decoding.requests(family_model(family)) * 3
    asked = [Request(request.ids, seed) for seed, request in enumerate(asked)]

    expected, found = (
        decoding.answers(stop_early(family_model(family), one), asked, SAMPLING[sampling], size)
        for one in ("moving", loop)
    )

    if sampling == "sampled":
        assert {one.finish_reason for one in expected} == {"stop", "length"}
        assert len({len(one.ids) for one in expected}) > 3
    assert_same(found, expected)


@pytest.mark.parametrize(
    ("family", "sampling", "place"),
    [
        *((family, "sampled", place) for family in ("llama", "gemma2") for place in ("one", "two")),
        *(("llama", other, "one") for other in OTHERS),
    ],
)
def test_answers_and_means_are_the_same_on_pretend_devices(loaded, family, sampling, place):
    asked = decoding.requests(loaded(family)) * 2
    expected = decoding.answers(ending(loaded(family)), asked, SAMPLING[sampling], 3)

    with simulated(logs=False):
        model = stop_early(PLACES[place](loaded(family)), "fixed")
        found = decoding.answers(model, asked, SAMPLING[sampling], 3)

    assert_same(found, expected)


@pytest.mark.parametrize("loop", ["fixed", "graph"])
@pytest.mark.parametrize("positions", ["all", "prompt", "response"])
def test_steered_answers_are_the_same(loaded, positions, loop):
    model, asked = ending(loaded("llama")), decoding.requests(loaded("llama")) * 2

    def answers(loop):
        with ActivationSteerer(model.model, VECTOR, 8, 2, positions):
            chosen = replace(model, decode_loop=loop)
            return decoding.answers(chosen, asked, SAMPLING["sampled"], 3)

    assert_same(answers(loop), answers("moving"))
    unsteered = decoding.answers(model, asked, SAMPLING["sampled"], 3)
    assert [one.ids for one in answers(loop)] != [one.ids for one in unsteered]


@pytest.mark.parametrize("texts", brakes.WAYS.values(), ids=brakes.WAYS)
def test_braked_answers_and_where_brakes_held_are_the_same(loaded, texts):
    model = replace(loaded("llama"), stop_ids=brakes.STOP)
    prompts = [*brakes.PROMPTS, *brakes.PROMPTS[:3]]
    requests = [Request(ids, seed) for seed, ids in enumerate(prompts)]
    sampling = SamplingConfig(max_new_tokens=16)

    def written(loop):
        chosen = replace(model, decode_loop=loop)
        steering = steered(chosen, brakes.prepared(chosen, *texts))
        reader = ProjectionReader(brakes.probes(), chosen, more=steering)
        tokens = {}
        with steering:
            for step in decode(chosen, requests, sampling, 5, reader):
                for request, token in step.written:
                    tokens.setdefault(request, []).append(token)
        return tokens, {index: one.response[:, 3:] for index, one in reader.finished.items()}

    expected_tokens, expected_held = written("moving")

    for loop in ("fixed", "graph"):
        tokens, held = written(loop)
        assert tokens == expected_tokens
        assert held.keys() == expected_held.keys()
        for index, marks in held.items():
            assert np.array_equal(marks, expected_held[index])
    # Each brake that can hold does so at some tokens.
    assert np.concatenate(list(expected_held.values())).any(0).all()


@pytest.mark.parametrize(
    ("place", "loop", "prompts"),
    [
        ("cpu", "fixed", True),
        ("cpu", "fixed", False),
        ("cpu", "graph", True),
        ("cpu", "graph", False),
        ("one", "fixed", True),
        ("two", "fixed", True),
        ("two", "fixed", False),
    ],
)
def test_scores_of_tokens_and_prompts_are_the_same(loaded, place, loop, prompts):
    expected = scored(ending(loaded("gemma2")), prompts)
    with simulated(logs=False):
        found = scored(stop_early(PLACES[place](loaded("gemma2")), loop), prompts)

    assert found[0].keys() == expected[0].keys()
    for one, other in zip(found, expected, strict=True):
        for request, scores in other.items():
            np.testing.assert_allclose(one[request], scores, rtol=1e-3, atol=1e-3)


def scored(loaded, prompts):
    """For each request: its tokens, the scores of each step, of its prompt, and of all at its end.

    Requests are answered two at a time.
    """
    reader = ProjectionReader(projections.make_probes(), loaded, prompts=prompts, marks=True)
    asked = [Request(one.ids, seed) for seed, one in enumerate(projections.REQUESTS)]
    tokens, of_steps, of_prompts = {}, {}, {}
    for step in decode(loaded, asked, SAMPLING["sampled"], 2, reader):
        assert (step.scores is None) == (not step.written)
        for number, (request, token) in enumerate(step.written):
            tokens.setdefault(request, []).append(token)
            of_steps.setdefault(request, []).append(step.scores[number])
        of_prompts |= dict(step.prompt_scores)
    at_the_end = {request: text.response for request, text in reader.finished.items()}
    whole_prompts = {request: text.prompt for request, text in reader.finished.items()}
    assert bool(of_prompts) == prompts
    return tokens, of_steps, of_prompts, at_the_end, whole_prompts


def test_a_step_is_started_before_the_last_one_is_read(loaded, monkeypatch):
    model = replace(loaded("llama"), decode_loop="fixed", stop_ids=frozenset())
    events = []
    run, wait = fixed_decode.DeviceSlots.run, fixed_decode._Report.wait
    monkeypatch.setattr(
        fixed_decode.DeviceSlots, "run", lambda *args: events.append("run") or run(*args)
    )
    monkeypatch.setattr(
        fixed_decode._Report, "wait", lambda report: events.append("read") or wait(report)
    )
    sampling = SamplingConfig(max_new_tokens=3)

    steps = list(decode(model, decoding.requests(model), sampling, 4, MeanReader(model)))

    # The last token is fed for its state; no step is started that no answer can need.
    assert events == ["run", "run", "read", "run", "read", "read"]
    assert [len(step.written) for step in steps] == [4, 4, 4]


def test_steps_get_smaller_when_half_of_the_slots_stay_free(loaded, monkeypatch):
    sizes = []
    run = fixed_decode.DeviceSlots.run
    monkeypatch.setattr(
        fixed_decode.DeviceSlots,
        "run",
        lambda slots, count, span: sizes.append(count) or run(slots, count, span),
    )
    model, asked = stop_early(loaded("llama"), "fixed"), decoding.requests(loaded("llama")) * 6
    asked = [Request(request.ids, seed) for seed, request in enumerate(asked)]

    decoding.answers(model, asked, SamplingConfig(max_new_tokens=40), 16)

    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 16
    assert set(sizes) <= {16, 8, 4, 2, 1}
    assert len(set(sizes)) > 2


def test_logits_that_are_not_finite_are_an_error(loaded):
    model = replace(loaded("llama"), decode_loop="fixed", stop_ids=frozenset())
    head = model.model.get_output_embeddings()
    hook = head.register_forward_hook(lambda module, args, output: output * torch.nan)
    try:
        with pytest.raises(ModelError, match="not finite"):
            decoding.answers(model, decoding.requests(model), SAMPLING["sampled"])
    finally:
        hook.remove()


def test_a_graph_that_agrees_is_used(loaded):
    chosen, notes = choose_loop(loaded("gemma2"), "graph", record)

    assert (chosen.decode_loop, notes) == ("graph", [])


def test_without_cuda_the_step_runs_as_it_is_and_a_note_says_so(loaded):
    chosen, notes = choose_loop(loaded("llama"), "graph")

    assert chosen.decode_loop == "fixed"
    assert len(notes) == 1
    assert "there are no CUDA graphs on cpu" in notes[0]


def test_a_graph_that_writes_other_tokens_is_not_used(loaded):
    def forgetful(run):
        """A graph that does not repeat what the step writes."""
        record(run)
        return lambda: None

    problem = find_graph_problem(loaded("llama"), forgetful)

    assert "have not ended" in problem


def test_a_graph_that_repeats_something_else_is_not_used(loaded):
    def seeing_other_tokens(run):
        """A graph whose tokens are changed after each replay."""
        replay = record(run)
        slots = inspect.getclosurevars(run).nonlocals["self"]._slots
        return lambda: (replay(), slots._ids.add_(1))

    assert "other tokens" in find_graph_problem(loaded("llama"), seeing_other_tokens)


def test_a_graph_with_other_states_is_not_used(loaded, monkeypatch):
    means = graph_test._answers(loaded("llama"), None)
    changed = [(ids, {name: mean * 1.01 for name, mean in one.items()}) for ids, one in means]

    assert graph_test._difference(means, means) == ""
    assert graph_test._difference(means, changed) == "its response_avg differs by 1.00%"


def test_a_step_that_looks_at_numbers_cannot_be_captured(loaded):
    model = loaded("llama")
    hook = model.model.register_forward_hook(
        lambda module, args, output: output.logits.max().item() and None
    )
    try:
        problem = find_graph_problem(model, record)
    finally:
        hook.remove()

    assert problem == (
        "its capture fails: CaptureError: operation not permitted when stream is capturing"
    )
    with pytest.raises(CaptureError):
        record(lambda: torch.ones(2).sum().item())


def test_models_that_are_read_padded_keep_their_loop(loaded):
    model = replace(loaded("llama"), packs=False)

    assert choose_loop(model, "graph") == (model, [])


def test_a_recorded_run_has_no_effect_until_it_is_replayed():
    numbers, sums = torch.arange(4.0), torch.zeros(4)

    def run():
        numbers.add_(1)
        sums.copy_(numbers.reshape(2, 2).sum(1).repeat(2))

    replay = record(run)
    assert numbers.tolist() == [0, 1, 2, 3]
    assert sums.tolist() == [0] * 4

    replay()
    replay()
    assert numbers.tolist() == [2, 3, 4, 5]
    assert sums.tolist() == [5, 9, 5, 9]


def test_an_answer_that_ends_does_not_wait_for_a_report_of_its_own(loaded):
    with simulated() as log:
        model = stop_early(on_sim(loaded("llama")), "fixed")
        asked = [Request(request.ids, 1) for request in decoding.requests(model)]
        log.take()
        steps = [
            (step, log.take())
            for step in decode(model, asked, SAMPLING["sampled"], 4, MeanReader(model))
        ]

    assert sum(len(step.ended) for step, _ in steps) == 4
    # One for the report of each step, one for the sums of all answers that have ended.
    waits = sum(done.waits for _, done in steps)
    assert waits <= len(steps) + sum(bool(step.ended) for step, _ in steps)


def test_the_kernels_in_use_have_names():
    kernels = fixed_decode.Kernels(())
    kernels._chosen = {1: None, 2: SimpleNamespace(__name__="flash_attn")}

    assert kernels.names == {"masked", "flash_attn"}
