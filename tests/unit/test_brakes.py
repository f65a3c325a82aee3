"""Ablations, caps and gates, against plain hooks and loops of transformers."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch

from tests.conftest import FAMILIES
from tests.unit.test_monitor import make_vector
from tests.unit.test_steerer import count_hooks, last_position_hook
from traitcli.config import SamplingConfig
from traitcli.errors import UserError, VectorError
from traitcli.generation.decode import decode, generate
from traitcli.generation.projections import ProjectionReader
from traitcli.generation.request import Request
from traitcli.generation.sampling import pick, uniforms
from traitcli.models.batch_size import BatchSize
from traitcli.models.hooks import find_blocks
from traitcli.models.padding import left_pad
from traitcli.models.read_texts import Text, log_probabilities
from traitcli.monitoring.summaries import Running, Summary
from traitcli.records import ClassStats
from traitcli.steering.interventions import dose_notes, prepare_interventions, steered
from traitcli.steering.parse import parse_intervention, parse_interventions

VECTORS = {
    vector.trait: vector
    for vector in (
        make_vector("evil", 2),
        make_vector("refusal", 3),
        make_vector("plain", 2, calibrated=False),
    )
}
START = tuple(range(20, 40))
# Different lengths, a shared beginning, two equal prompts, and one of a single token.
PROMPTS = [
    (*START, 41),
    (9, 8, 7),
    (*START, 50, 51, 52),
    (*START, 41),
    (60,),
    tuple(range(90, 99)),
    (60, 61),
]
SAMPLED = SamplingConfig(max_new_tokens=24)
GREEDY = SamplingConfig(temperature=0, max_new_tokens=24)
REQUESTS = [Request(ids, seed) for seed, ids in enumerate(PROMPTS)]
STOP = frozenset(range(0, 700, 25))
MIDPOINT, HALF = 1.0, 2.0
"""Of the class means of `make_vector`, 3 and −1."""

WAYS = {
    "ablate": ("evil=ablate",),
    "ablate everywhere": ("evil=ablate@all",),
    "cap": ("evil<=-0.3",),
    "cap from below": ("evil>=0.4@3",),
    "gate on a lower layer": ("refusal=6 if evil>-0.6",),
    "gate on a higher layer": ("evil=6@1 if refusal<0",),
    "gate on its own layer": ("evil=-9 if evil>-0.6",),
    "several": ("evil<=-0.3", "refusal=ablate@2", "evil=4", "evil=6@2 if refusal<0"),
}
each_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(params=["packed", "padded"])
def decoder(request, loaded):
    """family -> its tiny model, packed or padded; its answers end at different steps."""
    packs = request.param == "packed"
    return lambda family: replace(loaded(family), packs=packs, stop_ids=STOP)


def prepared(model, *texts):
    interventions = [parse_intervention(text, VECTORS) for text in texts]
    return prepare_interventions(interventions, VECTORS, model, "response_avg")


def written(model, texts=(), size=64, requests=REQUESTS):
    """The answers of one batch, steered."""
    with steered(model, prepared(model, *texts)):
        made = dict(generate(model, requests, SAMPLED, BatchSize(size)))
    return [made[index].ids for index in range(len(requests))]


def unit_of(trait, layer):
    direction = torch.from_numpy(VECTORS[trait].directions["response_avg"][layer])
    return direction / direction.norm()


# The oracle: one sequence, one naive hook for each intervention, a plain loop.


class NaiveLoop:
    """Answers one prompt under hooks that do what the documentation says, one token at a time."""

    def __init__(self, model, texts):
        self.model = model
        self.texts = texts
        # Trait -> calibrated scores of the answer's tokens so far.
        self.scores = {trait: [] for trait in ("evil", "refusal")}
        self.held = {}

    @torch.no_grad()
    def write(self, request, sampling=SAMPLED):
        tokens, [draws] = [], uniforms([request.seed], sampling.max_new_tokens)
        blocks = find_blocks(self.model.model)
        with ExitStack() as stack:
            # Pushes and gates act first, then ablations, then caps. Of prepended hooks, the last
            # one acts first; they must come before those that collect hidden states.
            for turn in (2, 1, 0):
                for text in reversed(self.texts):
                    if turn_of(text) == turn:
                        stack.enter_context(self._hooks(blocks, text))
            output = self.model.model(torch.tensor([request.ids]), use_cache=True)
            while len(tokens) < sampling.max_new_tokens:
                [token] = pick(output.logits[:, -1], draws[len(tokens)][None], sampling).tolist()
                if token in STOP:
                    break
                output = self.model.model(
                    torch.tensor([[token]]),
                    past_key_values=output.past_key_values,
                    use_cache=True,
                    output_hidden_states=True,
                )
                tokens.append(token)
                for trait, scores in self.scores.items():
                    layer = VECTORS[trait].layer
                    state = output.hidden_states[layer][0, -1]
                    if state.norm() <= self.model.massive_above[layer]:
                        scores.append((float(state @ unit_of(trait, layer)) - MIDPOINT) / HALF)
        return tuple(tokens)

    @contextmanager
    def _hooks(self, blocks, text):
        one = parse_intervention(text, VECTORS)
        layers = range(1, 5) if "@all" in text else [one.layer]
        with ExitStack() as stack:
            for layer in layers:
                handle = blocks[layer - 1].register_forward_hook(
                    self._hook(text, one, layer), prepend=True
                )
                stack.callback(handle.remove)
            yield

    def _hook(self, text, one, layer):
        own = VECTORS[one.trait]
        unit = unit_of(one.trait, own.layer if "@all" in text else layer)
        direction = torch.from_numpy(own.directions["response_avg"][layer])

        def hook(module, args, output):
            states = output.clone()
            if "ablate" in text:
                for position in range(states.shape[1]):
                    states[0, position] -= (states[0, position] @ unit) * unit
            elif "<=" in text or ">=" in text:
                bound = MIDPOINT + HALF * one.score
                for position in range(states.shape[1]):
                    excess = states[0, position] @ unit - bound
                    is_beyond = excess > 0 if "<=" in text else excess < 0
                    if states[0, position].norm() > self.model.massive_above[layer]:
                        is_beyond = False
                    self.held.setdefault(text, []).append(bool(is_beyond))
                    if is_beyond:
                        states[0, position] -= excess * unit
            elif " if " in text:
                if self._is_open(one.when):
                    states[0, -1] += one.coefficient * direction
            else:
                states[0, -1] += one.coefficient * direction
            return states

        return hook

    def _is_open(self, when):
        last = self.scores[when.trait][-8:]
        if len(last) < 8:
            return False
        return np.mean(last) > when.score if when.above else np.mean(last) < when.score


@pytest.fixture(scope="module")
def naive_answers(loaded):
    """(family, texts) -> the oracle's answers, which are the same for all ways to decode."""

    @cache
    def answers(family, texts):
        return [NaiveLoop(loaded(family), texts).write(request) for request in REQUESTS]

    return answers


def turn_of(text):
    if "ablate" in text:
        return 1
    return 2 if "<=" in text or ">=" in text else 0


@pytest.mark.parametrize(
    ("family", "name"),
    [*product(("llama", "gemma2"), WAYS), ("qwen2", "several"), ("qwen2", "ablate everywhere")],
)
def test_a_batch_writes_what_naive_hooks_write_for_each_prompt_alone(
    decoder, naive_answers, family, name
):
    texts = WAYS[name]
    model, expected = decoder(family), naive_answers(family, texts)

    assert written(model, texts) == expected
    # Few at a time: sequences end, others take their slots, and the last ones move.
    assert written(model, texts, size=3) == expected
    assert expected != naive_answers(family, ())
    assert len({len(ids) for ids in expected}) > 1


@each_family
def test_generate_of_transformers_writes_the_same_under_our_hooks(loaded, family):
    model = replace(loaded(family), stop_ids=STOP)
    request = REQUESTS[2]
    for texts in WAYS.values():
        expected = NaiveLoop(model, texts).write(request, GREEDY)

        with steered(model, prepared(model, *texts)):
            found = model.model.generate(
                torch.tensor([request.ids]),
                do_sample=False,
                max_new_tokens=24,
                eos_token_id=list(STOP),
            )

        own = tuple(token for token in found[0, len(request.ids) :].tolist() if token not in STOP)
        assert own == expected


@pytest.mark.parametrize("name", ["several", "gate on a higher layer"])
def test_generate_of_transformers_writes_the_same_for_a_padded_batch(loaded, name):
    model, texts = replace(loaded("llama"), stop_ids=STOP), WAYS[name]
    expected = [NaiveLoop(model, texts).write(request, GREEDY) for request in REQUESTS]
    ids, mask = left_pad(PROMPTS, model.tokenizer.pad_token_id, torch.device("cpu"))

    with steered(model, prepared(model, *texts)):
        found = model.model.generate(
            ids,
            attention_mask=mask.long(),
            do_sample=False,
            max_new_tokens=24,
            eos_token_id=list(STOP),
            pad_token_id=model.tokenizer.pad_token_id,
        )

    for row, tokens in zip(found[:, ids.shape[1] :].tolist(), expected, strict=True):
        # After its stop token, an answer is padded to the length of the longest.
        end = next((at for at, token in enumerate(row) if token in STOP), len(row))
        assert tuple(row[:end]) == tokens


@torch.no_grad()
def states_of(model, ids=START, **options):
    return model(torch.tensor([ids]), output_hidden_states=True, **options).hidden_states


@each_family
def test_ablated_states_have_no_component_along_the_vector(loaded, family):
    model = loaded(family)

    with steered(model, prepared(model, "evil=ablate@all")):
        states = states_of(model.model)

    unit = unit_of("evil", 2)
    for layer in (1, 2, 3):
        assert (states[layer] @ unit).abs().max() < 1e-5
    assert (states_of(model.model)[2] @ unit).abs().max() > 0.1


@each_family
def test_a_cap_moves_only_what_is_beyond_it_and_leaves_the_rest_bit_by_bit(loaded, family):
    model = loaded(family)
    plain = states_of(model.model)[2][0]
    projections = plain @ unit_of("evil", 2)
    # In the middle of what occurs.
    score = float((projections.median() - MIDPOINT) / HALF) + 0.01

    for side in ("<=", ">="):
        with steered(model, prepared(model, f"evil{side}{score:.6f}")):
            capped = states_of(model.model)[2][0]

        bound = MIDPOINT + HALF * round(score, 6)
        beyond = projections > bound if side == "<=" else projections < bound
        assert 5 < beyond.sum() < 15
        assert torch.equal(capped[~beyond], plain[~beyond])
        found = capped[beyond] @ unit_of("evil", 2)
        torch.testing.assert_close(found, torch.full_like(found, bound), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "texts"),
    [
        *((family, ("evil<=99", "evil=9 if refusal>99")) for family in FAMILIES),
        *(("llama", (text,)) for text in ("evil<=99", "evil>=-99", "evil=9 if refusal>99")),
    ],
)
def test_with_nothing_to_do_answers_and_scores_are_the_same_bit_by_bit(decoder, family, texts):
    model = decoder(family)
    hooks = count_hooks(model.model)
    plain, found = ProjectionReader(probes(), model), ProjectionReader(probes(), model)
    steps = list(decode(model, REQUESTS, SAMPLED, 3, plain))

    with steered(model, prepared(model, *texts)):
        steered_steps = list(decode(model, REQUESTS, SAMPLED, 3, found))

    assert [step.written for step in steered_steps] == [step.written for step in steps]
    for index, scores in plain.finished.items():
        assert np.array_equal(found.finished[index].response, scores.response)
    assert count_hooks(model.model) == hooks


def probes():
    from traitcli.generation.projections import Probe

    return [Probe(vector, "response_avg", vector.layer) for vector in VECTORS.values()]


@pytest.mark.parametrize("texts", [(), ("evil=0",), ("evil=0 if refusal>-99",)])
def test_without_effect_the_model_gets_no_hook(loaded, texts):
    model = loaded("llama")
    hooks = count_hooks(model.model)

    with steered(model, prepared(model, *texts)):
        assert count_hooks(model.model) == hooks
        assert not model.model._forward_pre_hooks


@each_family
def test_a_cap_holds_whatever_else_is_asked_for(decoder, family):
    model = decoder(family)
    texts = ("evil<=0.25", "evil=1", "refusal=ablate@2", "evil=0.5 if evil<9")
    reader = ProjectionReader(probes(), model)

    with steered(model, prepared(model, *texts)):
        list(decode(model, REQUESTS, SAMPLED, 3, reader))

    found = np.concatenate([one.response[:, 0] for one in reader.finished.values()])
    assert found.max() == pytest.approx(MIDPOINT + HALF * 0.25, abs=1e-3)
    assert (found > MIDPOINT + HALF * 0.25 - 1e-3).mean() > 0.5


@each_family
def test_the_reader_says_for_each_token_which_brakes_held(decoder, family):
    model = decoder(family)
    texts = ("evil<=-0.3", "refusal=6 if evil<9", "evil=1")
    steering = steered(model, prepared(model, *texts))
    reader = ProjectionReader(probes(), model, prompts=True, marks=True, more=steering)

    with steering:
        list(decode(model, REQUESTS, SAMPLED, 3, reader))

    assert steering.brakes == ("evil<=-0.3@2", "refusal=6@3 if evil<9")
    for index, ids in enumerate(PROMPTS):
        naive = NaiveLoop(model, texts)
        tokens = naive.write(REQUESTS[index])
        capped, gated = reader.finished[index].response[:, -2:].T
        assert capped.tolist() == naive.held["evil<=-0.3"][len(ids) :]
        # With fewer than eight tokens before it, no token has a running score.
        assert gated.tolist() == [position >= 8 for position in range(len(tokens))]
        assert not reader.finished[index].prompt[:, -2:].any()


@each_family
def test_a_gate_opens_at_the_token_after_the_one_that_raises_the_alarm(decoder, family):
    model = decoder(family)
    # It adds so little that no token changes.
    steering = steered(model, prepared(model, "refusal=0.000001 if evil>-0.6"))
    reader = ProjectionReader(probes(), model, more=steering)

    with steering:
        list(decode(model, REQUESTS, SAMPLED, 64, reader))

    changes = 0
    for scores in (one.response for one in reader.finished.values()):
        running, before = Running(Summary("rolling")), None
        for evil, _, _, is_open in scores:
            assert is_open == (before is not None and before > -0.6)
            before = running.add((evil - MIDPOINT) / HALF)
        changes += len(set(scores[8:, 3])) > 1
    # Some answers have both kinds of tokens.
    assert changes > 0


def test_two_generations_with_one_steering_do_not_disturb_each_other(loaded):
    model = replace(loaded("llama"), stop_ids=STOP)
    texts = WAYS["gate on a lower layer"]
    alone = [written(model, texts, requests=[request]) for request in REQUESTS[:2]]
    readers = [ProjectionReader(probes(), model) for _ in range(2)]

    with steered(model, prepared(model, *texts)):
        first = [step.written for step in decode(model, REQUESTS[:1], SAMPLED, 1, readers[0])]
        second = [step.written for step in decode(model, REQUESTS[1:2], SAMPLED, 1, readers[1])]

    for steps, [expected] in zip((first, second), alone, strict=True):
        assert tuple(token for step in steps for _, token in step) == expected


def test_a_gate_refuses_existing_texts(loaded):
    model = loaded("llama")
    with (
        steered(model, prepared(model, "refusal=6 if evil<9")),
        pytest.raises(UserError, match="a gate cannot follow existing texts"),
    ):
        list(log_probabilities(model, [Text(START, (50, 51, 52))], BatchSize(1)))


def test_caps_and_ablations_act_on_existing_texts_as_in_a_whole_pass(loaded):
    model = loaded("llama")
    texts = ("evil<=-0.3", "refusal=ablate")
    with steered(model, prepared(model, *texts)):
        [(_, found)] = log_probabilities(model, [Text(START, (50, 51, 52))], BatchSize(1))
        with torch.no_grad():
            logits = model.model(torch.tensor([[*START, 50, 51, 52]])).logits[0]

    expected = logits.log_softmax(-1)[len(START) - 1 : -1][range(3), [50, 51, 52]]
    torch.testing.assert_close(torch.as_tensor(found), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("text", ["evil=ablate", "evil<=-0.3"])
def test_half_precision_is_edited_in_float32_and_keeps_its_dtype(loaded, text, dtype):
    import copy

    model = loaded("llama")
    half = replace(model, model=copy.deepcopy(model.model).to(dtype))
    plain = states_of(half.model)[2][0].float()

    with steered(half, prepared(half, text)):
        found = states_of(half.model)[2][0]

    unit, bound = unit_of("evil", 2), MIDPOINT + HALF * -0.3
    along = plain @ unit
    excess = along if "ablate" in text else (along - bound).clamp(min=0)
    assert found.dtype == dtype
    assert torch.equal(found, (plain - excess[:, None] * unit).to(dtype))


# What is typed


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        ("evil=-2", "evil=-2@2"),
        (" evil=4@1 ", "evil=4@1"),
        ("evil=ablate", "evil=ablate@2"),
        ("evil=ablate@3", "evil=ablate@3"),
        ("evil=ablate@all", "evil=ablate@all"),
        ("evil<=0.5", "evil<=0.5@2"),
        ("refusal >= -1@2", "refusal>=-1@2"),
        ("refusal=1 if evil>1", "refusal=1@3 if evil>1"),
        ("refusal=1@2  if evil < -.5", "refusal=1@2 if evil<-0.5"),
    ],
)
def test_an_intervention_is_read_as_it_is_written(typed, text):
    found = parse_intervention(typed, VECTORS)

    assert found.text == text
    assert parse_intervention(text, VECTORS) == found


def test_several_interventions_are_separated_by_spaces():
    found = parse_interventions("evil<=0.5 refusal=1 if evil>1 evil=ablate@all  evil=2", VECTORS)

    assert [one.text for one in found] == [
        "evil<=0.5@2",
        "refusal=1@3 if evil>1",
        "evil=ablate@all",
        "evil=2@2",
    ]


@pytest.mark.parametrize(
    "typed",
    [
        "evil",
        "evil=",
        "evil=x",
        "evil<0.5",
        "evil=<0.5",
        "evil<=x",
        "evil<=0.5@all",
        "evil=2@all",
        "evil=ablate if evil>1",
        "evil=1 if",
        "evil=1 if evil>=1",
        "evil=1 if evil>1@2",
        "evil=1if evil>1",
    ],
)
def test_another_form_is_refused_with_the_forms_that_work(typed):
    with pytest.raises(UserError) as error:
        parse_intervention(typed, VECTORS)

    assert error.value.problem == f"invalid --steer {typed}"
    assert "TRAIT<=SCORE" in error.value.cause
    assert "refusal=1 if evil>1" in error.value.fix


@pytest.mark.parametrize("typed", ["evli=ablate", "evli<=1", "evli=1", "refusal=1 if evli>1"])
def test_a_trait_without_a_vector_is_refused(typed):
    with pytest.raises(UserError) as error:
        parse_intervention(typed, VECTORS)

    assert error.value.problem == "cannot steer evli"


@pytest.mark.parametrize("text", ["plain<=1", "evil=1 if plain>1"])
def test_a_vector_without_class_means_cannot_bound_scores(loaded, text):
    with pytest.raises(VectorError) as error:
        prepared(loaded("llama"), text)

    assert error.value.cause == (
        "the vector of plain has no class means, so its scores cannot be calibrated"
    )
    assert error.value.fix


def test_a_layer_where_both_classes_have_one_mean_cannot_be_capped(loaded):
    stats = VECTORS["evil"].stats["response_avg"]
    flat = replace(stats, positive_mean=stats.negative_mean)
    vectors = {"evil": replace(VECTORS["evil"], stats={"response_avg": flat})}

    with pytest.raises(VectorError, match="cannot steer by evil<=1@2"):
        prepare_interventions(
            [parse_intervention("evil<=1", vectors)], vectors, loaded("llama"), "response_avg"
        )


@pytest.mark.parametrize("text", ["evil=ablate@4", "evil<=1@4"])
def test_the_layer_after_the_final_norm_cannot_be_braked(loaded, text):
    with pytest.raises(VectorError) as error:
        prepared(loaded("llama"), text)

    assert "after the final norm" in error.value.cause


@pytest.mark.parametrize("text", ["evil=ablate@0", "evil<=1@9", "evil=1@0 if evil>1"])
def test_a_layer_that_is_not_the_output_of_a_block_is_refused(loaded, text):
    with pytest.raises(VectorError, match="cannot steer evil at layer"):
        prepared(loaded("llama"), text)


def test_a_vector_that_is_zero_at_a_layer_cannot_be_ablated(loaded):
    directions = VECTORS["evil"].directions["response_avg"].copy()
    directions[2] = 0
    vectors = {"evil": replace(VECTORS["evil"], directions={"response_avg": directions})}
    model = loaded("llama")
    zero = prepare_interventions(
        [parse_intervention("evil=ablate", vectors)], vectors, model, "response_avg"
    )

    with pytest.raises(VectorError, match="the vector has no direction"), steered(model, zero):
        pass


def test_where_the_classes_are_the_other_way_round_a_cap_bounds_the_other_side(loaded):
    stats = VECTORS["evil"].stats["response_avg"]
    swapped = replace(stats, positive_mean=stats.negative_mean, negative_mean=stats.positive_mean)
    vectors = {"evil": replace(VECTORS["evil"], stats={"response_avg": swapped})}
    model = loaded("llama")
    capped = prepare_interventions(
        [parse_intervention("evil<=0", vectors)], vectors, model, "response_avg"
    )

    with steered(model, capped):
        found = states_of(model.model)[2][0] @ unit_of("evil", 2)

    assert found.min() > MIDPOINT - 1e-4
    assert found.max() > MIDPOINT + 0.1


@pytest.mark.parametrize(
    ("means", "notes"),
    [
        ((3, -1), []),
        ((-9, -19), ["ablating evil gives all tokens a calibrated score of +2.8 at layer 2"]),
        ((9, 5), ["ablating evil gives all tokens a calibrated score of -3.5 at layer 2"]),
    ],
)
def test_an_ablation_away_from_the_middle_of_the_classes_is_noted(loaded, means, notes):
    flat, model = np.ones(5, np.float32), loaded("llama")
    stats = ClassStats(flat * means[0], flat * means[1], flat, flat)
    vectors = {"evil": replace(VECTORS["evil"], stats={"response_avg": stats})}
    for text in ("evil=ablate", "evil=ablate@all"):
        ablated = prepare_interventions(
            [parse_intervention(text, vectors)], vectors, model, "response_avg"
        )

        found = [note.partition(", ")[0] for note in dose_notes(ablated, model)]

        assert found == notes
    assert list(dose_notes(prepared(model, "plain=ablate"), model)) == []


def test_a_plain_push_is_what_a_plain_hook_adds(loaded):
    model = loaded("llama")
    direction = torch.from_numpy(VECTORS["evil"].directions["response_avg"][2])
    with last_position_hook(find_blocks(model.model)[1], 4 * direction):
        expected = states_of(model.model)

    with steered(model, prepared(model, "evil=4")):
        found = states_of(model.model)

    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
