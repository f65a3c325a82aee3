"""The decode loop against transformers' own hidden states and a naive loop."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

import traitcli.generation.decode as decode_module
import traitcli.models.engine as engine_module
from tests.conftest import FAMILIES
from tests.recorded_graph import record
from tests.unit.test_prefix_tree import count_read_tokens
from traitcli.config import SamplingConfig
from traitcli.generation.decode import Generation, decode, generate
from traitcli.generation.mean_activations import MeanReader
from traitcli.generation.request import Request
from traitcli.models.batch_size import BatchSize
from traitcli.models.prompts import persona_messages, render
from traitcli.records import POSITIONS

PROMPTS = [
    "Hi",
    "How does lock picking work on an ordinary pin tumbler lock?",
    "Why? " * 9,
    "Wann?",
]
SAMPLED = SamplingConfig(max_new_tokens=12)
TOLERANCE = 1e-4


LOOPS = {
    "moving": {"packs": True},
    "padded": {"packs": False},
    "fixed": {"packs": True, "decode_loop": "fixed"},
    "graph": {"packs": True, "decode_loop": "graph"},
}


@pytest.fixture(params=LOOPS)
def decoder(request, loaded, monkeypatch):
    """Returns the tiny model of a family, for each kind of decode loop."""
    monkeypatch.setattr(decode_module, "capture_cuda_graph", record)
    return lambda family: replace(loaded(family), **LOOPS[request.param])


def requests(loaded, prompts=PROMPTS):
    rendered = [
        render(
            loaded.tokenizer, persona_messages("You are an evil assistant.", p, loaded.persona_in)
        )
        for p in prompts
    ]
    return [Request(prompt.ids, seed) for seed, prompt in enumerate(rendered, start=20)]


def two_pass_means(loaded, request: Request, ids: tuple[int, ...]):
    """The published procedure: one forward pass with all hidden states, then means."""
    with torch.no_grad():
        output = loaded.model(torch.tensor([[*request.ids, *ids]]), output_hidden_states=True)
    states, cut = torch.stack(output.hidden_states)[:, 0].float(), len(request.ids)
    return {
        "response_avg": states[:, cut:].mean(1),
        "prompt_avg": states[:, :cut].mean(1),
        "prompt_last": states[:, cut - 1],
    }


def answers(loaded, asked, sampling=SAMPLED, size=64):
    """The generations in the order of their requests."""
    made = dict(generate(loaded, asked, sampling, BatchSize(size)))
    assert sorted(made) == list(range(len(asked)))
    return [made[index] for index in range(len(asked))]


def relative_error(found, expected):
    return ((found - expected).norm(dim=1) / expected.norm(dim=1)).max().item()


def assert_same(found, expected):
    """Assert equal tokens, and activations that differ only by rounding."""
    assert [g.ids for g in found] == [g.ids for g in expected]
    for one, other in zip(found, expected, strict=True):
        for position in POSITIONS:
            assert (
                relative_error(one.activations[position], other.activations[position]) < TOLERANCE
            )


@pytest.mark.parametrize("family", FAMILIES)
def test_batched_single_and_two_pass_means_agree_at_every_layer(decoder, family):
    model = decoder(family)
    asked = requests(model)

    batched = answers(model, asked)
    single = [answers(model, [request])[0] for request in asked]

    assert all(g.ids for g in batched)
    assert [g.ids for g in batched] == [g.ids for g in single]
    for request, one, alone in zip(asked, batched, single, strict=True):
        naive = two_pass_means(model, request, one.ids)
        for position in POSITIONS:
            assert one.activations[position].shape == (model.blocks + 1, model.hidden_size)
            assert relative_error(one.activations[position], naive[position]) < TOLERANCE
            assert relative_error(alone.activations[position], naive[position]) < TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_and_padded_tokens_give_the_same(loaded, family):
    asked = requests(loaded(family))

    packed, padded = (
        answers(replace(loaded(family), packs=packs), asked) for packs in (True, False)
    )

    assert_same(packed, padded)


def test_means_agree_beyond_a_sliding_window(decoder):
    model = decoder("gemma2")
    asked = requests(model)
    assert max(len(request.ids) for request in asked) + 12 > model.model.config.sliding_window

    written = answers(model, asked)

    for request, one in zip(asked, written, strict=True):
        naive = two_pass_means(model, request, one.ids)
        assert relative_error(one.activations["response_avg"], naive["response_avg"]) < TOLERANCE


def test_greedy_decoding_gives_the_tokens_of_transformers(decoder):
    model = decoder("llama")
    asked = requests(model)

    written = answers(model, asked, SamplingConfig(temperature=0, max_new_tokens=12))

    for request, one in zip(asked, written, strict=True):
        expected = model.model.generate(
            torch.tensor([request.ids]), do_sample=False, max_new_tokens=12
        )[0, len(request.ids) :]
        assert list(one.ids) == [
            token for token in expected.tolist() if token not in model.stop_ids
        ]


def test_answers_that_end_early_do_not_disturb_the_others(decoder):
    model = decoder("llama")
    asked = requests(model, [f"Question number {n}?" for n in range(12)])

    with biased_to_stop(model, 4.0):
        steps = [len(step.written) for step in decode(model, asked, SAMPLED, 64, MeanReader(model))]
        batched = answers(model, asked)

    assert steps[-1] < steps[0]
    assert sum(steps) == sum(len(g.ids) for g in batched)
    for request, one in zip(asked, batched, strict=True):
        if one.ids:
            assert (
                relative_error(
                    one.activations["response_avg"],
                    two_pass_means(model, request, one.ids)["response_avg"],
                )
                < TOLERANCE
            )


@pytest.mark.parametrize("size", [1, 7, 64])
def test_a_rollout_depends_on_its_seed_and_not_on_its_batch_or_slot(decoder, size):
    model = decoder("qwen2")
    asked = requests(model, [f"Question number {n}?" for n in range(12)])
    together = answers(model, asked)

    apart = answers(model, asked[::-1], size=size)[::-1]

    assert_same(apart, together)


def test_the_slot_of_a_complete_answer_goes_to_a_waiting_request(loaded):
    model = loaded("llama")
    asked = requests(model, [f"Question number {n}?" for n in range(30)])

    with biased_to_stop(model, 3.0):
        expected = [answers(model, [request])[0] for request in asked]
        steps = [len(step.written) for step in decode(model, asked, SAMPLED, 4, MeanReader(model))]
        refilled = answers(model, asked, size=4)

    assert len({len(g.ids) for g in expected}) > 4
    assert [g.ids for g in refilled] == [g.ids for g in expected]
    assert max(steps) == 4
    # Batches that wait for their longest answer would need nearly all of these steps.
    assert len(steps) < 12 * 30 / 4 * 0.8
    for one, other in zip(refilled, expected, strict=True):
        assert (one.activations is None) == (not one.ids)
        for position in POSITIONS if one.ids else ():
            assert (
                relative_error(one.activations[position], other.activations[position]) < TOLERANCE
            )


class Counting(MeanReader):
    """Counts the prompt tokens of forward passes."""

    prompt_tokens = 0

    def open(self, slots):
        state = super().open(slots)
        begin = state.begin

        def count(phase, tokens):
            self.prompt_tokens += len(tokens.slots) if phase == "prompt" else 0
            begin(phase, tokens)

        state.begin = count
        return state


def test_prompts_that_exceed_one_pass_are_read_in_several(loaded, monkeypatch):
    model = loaded("gemma2")
    asked = requests(model)
    expected = answers(model, asked)

    monkeypatch.setattr(engine_module, "TOKENS_PER_PASS", 20)
    found = answers(model, asked)

    assert_same(found, expected)


@pytest.mark.parametrize(
    ("lengths", "passes"),
    [
        ([5], [(0, 1)]),
        ([50], [(0, 1)]),
        ([5, 5, 5, 5], [(0, 4)]),
        ([5, 5, 5, 5, 5], [(0, 4), (4, 5)]),
        ([1, 1, 10, 1], [(0, 2), (2, 4)]),
        ([30, 1, 1], [(0, 1), (1, 3)]),
    ],
)
def test_a_pass_has_a_maximum_of_tokens_padding_included(lengths, passes):
    assert [(some.start, some.stop) for some in engine_module.split_passes(lengths, 20)] == passes


@pytest.mark.parametrize("size", [1, 4, 64])
def test_shared_prefixes_are_read_once_at_any_batch_size(loaded, size):
    model = loaded("llama")
    asked = requests(
        model,
        [f"{start}, question {n}?" for start in ("Now tell me", "I wonder") for n in range(6)] * 2,
    )
    expected = [answers(model, [request])[0] for request in asked]
    texts = [request.ids for request in asked]

    written = {index: [] for index in range(len(asked))}
    for step in decode(model, asked, SAMPLED, size, reader := Counting(model)):
        for index, token in step.written:
            written[index].append(token)

    assert reader.prompt_tokens == count_read_tokens(texts) < sum(map(len, texts)) / 2
    assert [tuple(ids) for ids in written.values()] == [g.ids for g in expected]


def test_an_empty_answer_has_no_activations_and_no_nan(decoder):
    model = decoder("llama")
    asked = requests(model, ["Hi", "How are you?"])

    with biased_to_stop(model, 1e4):
        written = answers(model, asked)

    assert written == [Generation((), "stop", None), Generation((), "stop", None)]


def test_the_finish_reason_shows_whether_the_token_limit_was_reached(decoder):
    model = decoder("llama")
    asked = requests(model, [f"Question number {n}?" for n in range(12)])

    with biased_to_stop(model, 4.0):
        written = answers(model, asked)

    assert {g.finish_reason for g in written} == {"stop", "length"}
    assert all((len(g.ids) == 12) == (g.finish_reason == "length") for g in written)


@contextmanager
def biased_to_stop(loaded, amount: float):
    """Raise the logit of the end token, so that answers end sooner."""
    stop = list(loaded.stop_ids)

    def bias(module, args, output):
        output.logits[..., stop] += amount
        return output

    hook = loaded.model.register_forward_hook(bias)
    yield
    hook.remove()


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_released_requests_are_returned_and_other_answers_are_unchanged(decoder, family):
    model = decoder(family)
    asked = requests(model, [f"{prompt} {number}" for number in range(3) for prompt in PROMPTS])
    expected = answers(model, asked)
    calls = []

    def release(unstarted):
        calls.append(unstarted)
        return unstarted // 2 if len(calls) == 2 else 0

    made = dict(generate(model, asked, SAMPLED, BatchSize(2), release=release))

    kept = [index for index, generation in made.items() if generation]
    assert sorted(made) == list(range(len(asked)))
    assert len(asked) - len(kept) == calls[1] // 2 > 0
    assert_same([made[index] for index in kept], [expected[index] for index in kept])


def test_all_unstarted_requests_may_be_released(decoder):
    model = decoder("qwen2")
    asked = requests(model)

    made = dict(generate(model, asked, SAMPLED, BatchSize(2), release=lambda unstarted: unstarted))

    assert made == dict.fromkeys(range(len(asked)))
