"""Steering against sums calculated by hand and a plain hook."""

from __future__ import annotations

import copy
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.conftest import FAMILIES
from traitcli.config import SamplingConfig
from traitcli.errors import UserError, VectorError
from traitcli.generation.decode import generate
from traitcli.generation.request import Request
from traitcli.models.batch_size import BatchSize
from traitcli.models.hooks import find_blocks
from traitcli.models.read_texts import Text, log_probabilities
from traitcli.models.steerer import ActivationSteerer, relative_dose

V = torch.randn(32, generator=torch.Generator().manual_seed(3))
IDS = torch.arange(10, 20)[None]
GREEDY = SamplingConfig(temperature=0, max_new_tokens=8)
ASKED = [Request(tuple(range(20, 20 + length)), length) for length in (5, 12, 3, 16)]
POSITIONS = ("all", "prompt", "response")

each_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture
def model(loaded):
    return loaded("llama").model


@torch.no_grad()
def states_of(model, ids=IDS, **options):
    """Tuple of [B, T, H]: transformers' own hidden states."""
    return model(ids, output_hidden_states=True, **options).hidden_states


def count_hooks(model) -> int:
    return sum(len(block._forward_hooks) for block in find_blocks(model))


def written(loaded, requests, size=64):
    made = dict(generate(loaded, requests, GREEDY, BatchSize(size)))
    return [made[index].ids for index in range(len(requests))]


@contextmanager
def last_position_hook(block, added):
    """A plain version of positions="response"."""

    def add(module, args, output):
        steered = output.clone()
        steered[:, -1] += added
        return steered

    handle = block.register_forward_hook(add, prepend=True)
    yield
    handle.remove()


@each_family
@pytest.mark.parametrize("block", range(3))
def test_all_positions_of_the_layer_after_the_block_move_by_coeff_times_the_vector(
    loaded, family, block
):
    model = loaded(family).model
    plain = states_of(model)

    with ActivationSteerer(model, V, 2.5, block, "all"):
        steered = states_of(model)

    assert all(torch.equal(steered[layer], plain[layer]) for layer in range(block + 1))
    assert torch.equal(steered[block + 1], plain[block + 1] + 2.5 * V)
    assert not any(torch.allclose(steered[layer], plain[layer]) for layer in range(block + 2, 5))


def test_the_last_block_is_steered_before_the_final_norm(model):
    outputs = []
    handle = find_blocks(model)[3].register_forward_hook(
        lambda module, args, output: outputs.append(output)
    )
    states_of(model)
    handle.remove()

    with ActivationSteerer(model, V, 2.5, 3, "all"):
        steered = states_of(model)

    assert torch.equal(steered[4], model.model.norm(outputs[0] + 2.5 * V))


@each_family
def test_response_steers_what_a_plain_hook_on_the_last_position_steers(loaded, family):
    model = loaded(family).model
    options = {
        "do_sample": False,
        "max_new_tokens": 8,
        "return_dict_in_generate": True,
        "output_hidden_states": True,
    }
    plain = model.generate(IDS, **options)
    with last_position_hook(find_blocks(model)[1], 20 * V):
        expected = model.generate(IDS, **options)

    with ActivationSteerer(model, V, 20, 1):
        found = model.generate(IDS, **options)

    assert not torch.equal(plain.sequences, expected.sequences)
    assert torch.equal(found.sequences, expected.sequences)
    for one, other in zip(found.hidden_states, expected.hidden_states, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@each_family
@pytest.mark.parametrize(
    ("positions", "in_prompt", "in_token"),
    [
        ("all", slice(None), slice(None)),
        ("prompt", slice(None), slice(0)),
        ("response", slice(-1, None), slice(None)),
    ],
)
def test_only_the_named_positions_of_prefill_and_of_later_tokens_move(
    loaded, family, positions, in_prompt, in_token
):
    model = loaded(family).model
    steerer = ActivationSteerer(model, V, 2.5, 1, positions)
    prompt, token = states_of(model)[2].clone(), torch.tensor([[33]])
    prompt[:, in_prompt] += 2.5 * V

    with steerer, torch.no_grad():
        prefill = model(IDS, use_cache=True, output_hidden_states=True)
    unsteered = states_of(model, token, past_key_values=copy.deepcopy(prefill.past_key_values))[
        2
    ].clone()
    unsteered[:, in_token] += 2.5 * V
    with steerer:
        step = states_of(model, token, past_key_values=prefill.past_key_values)[2]

    assert torch.equal(prefill.hidden_states[2], prompt)
    assert torch.equal(step, unsteered)


def test_opposite_signs_move_the_projection_on_the_vector_in_opposite_directions(model):
    unit = V / V.norm()
    plain = states_of(model)[2] @ unit

    moved = {}
    for sign in (1, -1):
        with ActivationSteerer(model, V, sign, 1, "all"):
            moved[sign] = states_of(model)[2] @ unit - plain

    torch.testing.assert_close(moved[1], torch.full_like(plain, V.norm()))
    torch.testing.assert_close(moved[-1], torch.full_like(plain, -V.norm()))


def test_a_coeff_of_0_changes_not_a_bit_and_hooks_nothing(model):
    with torch.no_grad():
        plain, before = model(IDS).logits, count_hooks(model)

        with ActivationSteerer(model, V, 0, 1, "all"):
            steered, inside = model(IDS).logits, count_hooks(model)

    assert torch.equal(steered, plain)
    assert inside == before


@pytest.mark.parametrize("error", [None, KeyError, KeyboardInterrupt])
def test_hooks_are_removed_after_any_error_and_a_steerer_can_be_used_again(model, error):
    plain, before, steerer = (
        states_of(model),
        count_hooks(model),
        ActivationSteerer(model, V, 2, 1, "all"),
    )

    for _ in range(2):
        with pytest.raises(error) if error else nullcontext(), steerer:
            inside = count_hooks(model)
            steered = states_of(model)[2]
            if error:
                raise error

        assert (inside, count_hooks(model)) == (before + 1, before)
        assert torch.equal(steered, plain[2] + 2 * V)


def test_entering_a_steerer_twice_is_refused_and_it_stays_active(model):
    plain = states_of(model)

    with ActivationSteerer(model, V, 2, 1, "all") as steerer:
        with pytest.raises(UserError, match="this steerer is active already"):
            steerer.__enter__()
        steered = states_of(model)

    assert torch.equal(steered[2], plain[2] + 2 * V)
    assert torch.equal(states_of(model)[2], plain[2])


@pytest.mark.parametrize("block", [0, 2])
def test_several_steerers_add_up_on_different_blocks_and_on_one(model, block):
    with ActivationSteerer(model, V, 2, block, "all"):
        one = states_of(model)

        with ActivationSteerer(model, V.flip(0), 3, 2, "all"):
            both = states_of(model)
        again = states_of(model)

    torch.testing.assert_close(both[3], one[3] + 3 * V.flip(0))
    assert torch.equal(again[4], one[4])


class Pair(torch.nn.Module):
    """A block that returns a tuple, like those of older transformers versions."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, *args, **kwargs):
        return self.block(*args, **kwargs), "extra"


@pytest.mark.parametrize("positions", POSITIONS)
def test_blocks_that_return_tuples_keep_the_rest_of_them(model, positions):
    with ActivationSteerer(model, V, 2, 1, positions), torch.no_grad():
        expected = model(IDS).logits
    paired, seen = copy.deepcopy(model), []
    pair = find_blocks(paired)[1] = Pair(find_blocks(paired)[1])
    pair.register_forward_hook(lambda module, args, output: (seen.append(output), output[0])[1])

    with ActivationSteerer(paired, V, 2, 1, positions), torch.no_grad():
        found = paired(IDS).logits

    assert torch.equal(found, expected)
    assert seen[0][1:] == ("extra",)


@pytest.mark.parametrize("positions", POSITIONS)
def test_the_output_of_the_block_is_not_edited_in_place(model, positions):
    own = []
    with ActivationSteerer(model, V, 2, 1, positions):
        keep = lambda module, args, output: own.append((output, output.clone()))  # noqa: E731
        handle = find_blocks(model)[1].register_forward_hook(keep, prepend=True)

        steered = states_of(model)[2]
        handle.remove()

    assert torch.equal(*own[0])
    assert not torch.equal(steered, own[0][0])


@pytest.mark.parametrize("positions", POSITIONS)
def test_a_bfloat16_model_stays_bfloat16(model, positions):
    half = copy.deepcopy(model).bfloat16()
    plain = states_of(half)

    with ActivationSteerer(half, V.double(), 2, 1, positions):
        steered = states_of(half)

    assert {states.dtype for states in steered} == {torch.bfloat16}
    assert torch.equal(steered[2][:, -1], plain[2][:, -1] + (2 * V).bfloat16())


@pytest.mark.parametrize("kind", [torch.Tensor.double, torch.Tensor.numpy, torch.Tensor.tolist])
def test_a_vector_is_a_tensor_an_array_or_numbers_and_is_copied(model, kind):
    plain, vector = states_of(model), kind(V.clone())

    with ActivationSteerer(model, vector, 2, 1, "all"):
        vector[0] = 1e6
        steered = states_of(model)

    assert torch.equal(steered[2], plain[2] + 2 * V)


@pytest.mark.parametrize(
    ("arguments", "kind", "problem", "cause"),
    [
        (
            {"vector": V[:31]},
            VectorError,
            "the vector does not fit the model",
            "its shape is [31]; the model needs [32]",
        ),
        (
            {"vector": V[None]},
            VectorError,
            "the vector does not fit the model",
            "its shape is [1, 32]; the model needs [32]",
        ),
        (
            {"vector": [*V[1:].tolist(), np.nan]},
            VectorError,
            "the vector is not finite",
            "NaN or infinity",
        ),
        (
            {"vector": V.double().numpy() * 1e60},
            VectorError,
            "the vector is not finite",
            "NaN or infinity",
        ),
        (
            {"vector": ["a"] * 32},
            VectorError,
            "the vector is not made of numbers",
            "could not convert",
        ),
        ({"layer_idx": 4}, VectorError, "no block 4", "blocks 0 to 3, which output layers 1 to 4"),
        (
            {"layer_idx": -1},
            VectorError,
            "no block -1",
            "blocks 0 to 3, which output layers 1 to 4",
        ),
        (
            {"positions": "last"},
            UserError,
            "invalid positions 'last'",
            "positions are all, prompt, response",
        ),
        ({"coeff": float("inf")}, UserError, "invalid coeff inf", "it must be finite"),
        (
            {"coeff": 3e38},
            UserError,
            "coeff 3e+38 is too large",
            "coeff · vector overflows torch.float32, the model's dtype",
        ),
    ],
)
def test_a_vector_of_another_shape_is_refused_before_any_hook(
    model, arguments, kind, problem, cause
):
    before = count_hooks(model)

    with pytest.raises(UserError) as raised:
        ActivationSteerer(model, **{"vector": V, "layer_idx": 1, **arguments})

    assert type(raised.value) is kind
    assert raised.value.problem == problem
    assert cause in raised.value.cause
    assert raised.value.fix
    assert count_hooks(model) == before


def written_alone(loaded, request, positions, tokens=8):
    """Greedy decoding of one sequence by a plain loop with transformers' cache and a plain hook."""
    prompt, ids, cache, fed = len(request.ids), list(request.ids), None, torch.tensor([request.ids])

    def add(module, args, output):
        steered = output.clone()
        new = slice(-1, None) if positions == "response" else slice(None)
        if positions != "prompt" or len(ids) == prompt:
            steered[:, new] += 20 * V
        return steered

    handle = find_blocks(loaded.model)[1].register_forward_hook(add)
    with torch.no_grad():
        while len(ids) < prompt + tokens:
            output = loaded.model(fed, past_key_values=cache, use_cache=True)
            cache, token = output.past_key_values, int(output.logits[0, -1].argmax())
            if token in loaded.stop_ids:
                break
            ids.append(token)
            fed = torch.tensor([[token]])
    handle.remove()
    return tuple(ids[prompt:])


HEAD = tuple(range(20, 34))
BATCHES = {
    "of different lengths": ASKED,
    "with common beginnings": [
        Request((*HEAD, *rest), 0)
        for rest in ((41, 42), (51,), (*range(60, 72), 1), (*range(60, 72), 2, 3), (), (6,))
    ],
    "with prompts that are the same": [
        Request((*HEAD, *rest), 0) for rest in ((41,), (), (41,), (), (41,), (7, 8, 9))
    ],
}


@each_family
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("batch", BATCHES)
def test_a_steered_batch_gives_the_tokens_of_a_plain_loop(loaded, family, batch, positions):
    model, asked = loaded(family), BATCHES[batch]
    expected = [written_alone(model, request, positions) for request in asked]
    plain = written(model, asked)

    with ActivationSteerer(model.model, V, 20, 1, positions):
        together = written(model, asked)
        few_at_a_time = written(model, asked, size=2)

    assert together == few_at_a_time == expected
    assert sum(one != other for one, other in zip(expected, plain, strict=True)) > len(asked) / 2


@each_family
@pytest.mark.parametrize("batch", BATCHES)
def test_a_padded_steered_batch_gives_the_tokens_of_a_plain_loop(loaded, family, batch):
    model, asked = replace(loaded(family), packs=False), BATCHES[batch]

    with ActivationSteerer(model.model, V, 20, 1):
        together = written(model, asked)

    assert together == [written_alone(model, request, "response") for request in asked]


@pytest.mark.parametrize("positions", ["prompt", "response"])
def test_existing_texts_can_only_be_steered_at_all_positions(loaded, positions):
    texts = [Text(request.ids, (41, 42, 43)) for request in ASKED]

    with (
        ActivationSteerer(loaded("llama").model, V, 2, 1, positions),
        pytest.raises(UserError) as raised,
    ):
        list(log_probabilities(loaded("llama"), texts, 4))

    assert raised.value.problem == f"cannot steer {positions} positions here"
    assert raised.value.cause.startswith("existing texts are read")


def test_the_relative_dose_divides_the_push_by_a_positive_norm():
    assert relative_dose(-2, [3.0, 4.0], 20) == 0.5
    with pytest.raises(UserError, match="invalid norm 0"):
        relative_dose(-2, [3.0, 4.0], 0)
