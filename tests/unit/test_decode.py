"""The decode loop against transformers' own hidden states and a naive loop."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from tests.conftest import FAMILIES
from traitcli.config import SamplingConfig
from traitcli.generation.decode import Generation, MeanReader, Request, decode, generate
from traitcli.models.prompts import persona_messages, render
from traitcli.records import POSITIONS

PROMPTS = ["Hi", "How does lock picking work on an ordinary pin tumbler lock?", "Why? " * 9, "Wann?"]
SAMPLED = SamplingConfig(max_new_tokens=12)
TOLERANCE = 1e-4


def requests(loaded, prompts=PROMPTS):
    rendered = [
        render(loaded.tokenizer, persona_messages("You are an evil assistant.", p, loaded.persona_in)) for p in prompts
    ]
    return [Request(prompt.ids, seed) for seed, prompt in enumerate(rendered, start=20)]


def two_pass_means(loaded, request: Request, ids: tuple[int, ...]):
    """The published procedure: one forward pass over prompt and answer, hidden states kept, then means."""
    with torch.no_grad():
        output = loaded.model(torch.tensor([[*request.ids, *ids]]), output_hidden_states=True)
    states, cut = torch.stack(output.hidden_states)[:, 0].float(), len(request.ids)
    return {
        "response_avg": states[:, cut:].mean(1),
        "prompt_avg": states[:, :cut].mean(1),
        "prompt_last": states[:, cut - 1],
    }


def relative_error(found, expected):
    return ((found - expected).norm(dim=1) / expected.norm(dim=1)).max().item()


@pytest.mark.parametrize("family", FAMILIES)
def test_batched_single_and_two_pass_means_agree_at_every_row_and_position(loaded, family):
    model = loaded(family)
    asked = requests(model)

    batched = generate(model, asked, SAMPLED)
    single = [generate(model, [request], SAMPLED)[0] for request in asked]

    assert all(g.ids for g in batched)
    assert [g.ids for g in batched] == [g.ids for g in single]
    for request, one, alone in zip(asked, batched, single, strict=True):
        naive = two_pass_means(model, request, one.ids)
        for position in POSITIONS:
            assert one.activations[position].shape == (model.blocks + 1, model.hidden_size)
            assert relative_error(one.activations[position], naive[position]) < TOLERANCE
            assert relative_error(alone.activations[position], naive[position]) < TOLERANCE


def test_means_agree_beyond_a_sliding_window(loaded):
    model = loaded("gemma2")
    asked = requests(model)
    assert max(len(request.ids) for request in asked) + 12 > model.model.config.sliding_window

    written = generate(model, asked, SAMPLED)

    for request, one in zip(asked, written, strict=True):
        naive = two_pass_means(model, request, one.ids)
        assert relative_error(one.activations["response_avg"], naive["response_avg"]) < TOLERANCE


def test_greedy_decoding_writes_what_transformers_writes(loaded):
    model = loaded("llama")
    asked = requests(model)

    written = generate(model, asked, SamplingConfig(temperature=0, max_new_tokens=12))

    for request, one in zip(asked, written, strict=True):
        expected = model.model.generate(torch.tensor([request.ids]), do_sample=False, max_new_tokens=12)[
            0, len(request.ids) :
        ]
        assert list(one.ids) == [token for token in expected.tolist() if token not in model.stop_ids]


def test_rows_that_finish_early_leave_and_the_others_are_undisturbed(loaded):
    model = loaded("llama")
    asked = requests(model, [f"Question number {n}?" for n in range(12)])
    reader = MeanReader(model, len(asked))

    with biased_to_stop(model, 4.0):
        steps = [len(step) for step in decode(model, asked, SAMPLED, reader)]
        batched = generate(model, asked, SAMPLED)

    assert steps[-1] < steps[0]
    assert sum(steps) == sum(len(g.ids) for g in batched)
    for request, one in zip(asked, batched, strict=True):
        if one.ids:
            assert (
                relative_error(one.activations["response_avg"], two_pass_means(model, request, one.ids)["response_avg"])
                < TOLERANCE
            )


@pytest.mark.parametrize("size", [1, 7, 12])
def test_a_rollout_depends_on_its_seed_and_not_on_its_batch(loaded, size):
    model = loaded("qwen2")
    asked = requests(model, [f"Question number {n}?" for n in range(12)])
    together = generate(model, asked, SAMPLED)

    apart = [g for start in range(0, 12, size) for g in generate(model, asked[start : start + size], SAMPLED)]

    assert [g.ids for g in apart] == [g.ids for g in together]


def test_an_empty_answer_has_no_activations_and_no_nan(loaded):
    model = loaded("llama")
    asked = requests(model, ["Hi", "How are you?"])

    with biased_to_stop(model, 1e4):
        written = generate(model, asked, SAMPLED)

    assert written == [Generation((), "stop", None), Generation((), "stop", None)]


def test_the_finish_reason_says_whether_the_limit_ended_it(loaded):
    model = loaded("llama")
    asked = requests(model, [f"Question number {n}?" for n in range(12)])

    with biased_to_stop(model, 4.0):
        written = generate(model, asked, SAMPLED)

    assert {g.finish_reason for g in written} == {"stop", "length"}
    assert all((len(g.ids) == 12) == (g.finish_reason == "length") for g in written)


@contextmanager
def biased_to_stop(loaded, amount: float):
    """Make the model end its answers sooner, through its logits alone."""
    stop = list(loaded.stop_ids)

    def bias(module, args, output):
        output.logits[..., stop] += amount
        return output

    hook = loaded.model.register_forward_hook(bias)
    yield
    hook.remove()
