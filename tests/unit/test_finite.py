"""States, logits and scores that are not finite stop the work; none is stored."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from traitcli.config import ModelConfig, MonitorConfig, MonitorSamplingConfig, SamplingConfig
from traitcli.errors import ModelError, RunError, VectorError
from traitcli.generation.decode import generate
from traitcli.generation.projections import Probe
from traitcli.generation.request import Request
from traitcli.generation.sampling import NOT_FINITE, pick, uniforms
from traitcli.models.batch_size import BatchSize
from traitcli.models.load import load_model
from traitcli.models.read_texts import Text, log_probabilities
from traitcli.monitoring.monitor import monitor
from traitcli.monitoring.score_texts import score_texts
from traitcli.monitoring.transcripts import Exchange
from traitcli.monitoring.watch import Watch
from traitcli.records import ClassStats, TraitVector
from traitcli.runs.run import TraitFiles
from traitcli.runs.states import stack_states
from traitcli.vectors.files import write_vector

GREEDY = SamplingConfig(temperature=0, max_new_tokens=4)
SAMPLED = SamplingConfig(max_new_tokens=4)
POISON = 17
"""A token whose embedding is not finite: the self-test's texts do not have it."""
PROBLEM = "tiny-qwen2 gives values that are not finite"


@pytest.fixture(params=["packed", "padded"])
def poisoned(request, model_folders):
    """A model that gives NaN as soon as it reads POISON."""
    loaded = load_model(ModelConfig(id=str(model_folders["qwen2"]), device="cpu"))
    loaded.model.model.embed_tokens.weight.data[POISON, 3] = torch.nan
    # Tied to the embeddings: every logit of this token would be NaN.
    loaded.model.lm_head.weight = torch.nn.Parameter(
        loaded.model.lm_head.weight.nan_to_num(0), requires_grad=False
    )
    return replace(loaded, packs=request.param == "packed", stop_ids=frozenset())


def vector(numbers=1.0):
    directions = np.full((5, 32), numbers, np.float32)
    stats = ClassStats(*(np.full(5, value, np.float32) for value in (1, -1, 1, 1)))
    return TraitVector(
        trait="evil", model="m", method="mean_difference", layer=2,
        directions={"response_avg": directions}, stats={"response_avg": stats},
    )  # fmt: skip


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_logits_that_are_not_finite_end_generation(poisoned, sampling):
    asked = [Request((5, 6, 7), 0), Request((5, POISON, 7), 1)]

    with pytest.raises(ModelError) as error:
        list(generate(poisoned, asked, sampling, BatchSize(4)))

    assert error.value.problem == PROBLEM
    assert error.value.cause == "the logits contain NaN or infinity in float32"


def test_states_that_are_not_finite_end_monitoring_and_reading(poisoned):
    watch = Watch(
        {"evil": Probe(vector(), "response_avg", 2)},
        MonitorConfig(sampling=MonitorSamplingConfig(max_new_tokens=4)),
    )
    tokenizer = poisoned.tokenizer
    text = tokenizer.decode([POISON])
    assert tokenizer(text, add_special_tokens=False)["input_ids"] == [POISON]

    with pytest.raises(ModelError, match=PROBLEM):
        monitor(poisoned, watch, text)
    with pytest.raises(ModelError) as error:
        list(score_texts(poisoned, watch, [Exchange("hello", text)]))

    assert error.value.cause == "the states of layer 2 contain NaN or infinity in float32"


def test_log_probabilities_that_are_not_finite_are_an_error(poisoned):
    with pytest.raises(ModelError, match=PROBLEM):
        list(log_probabilities(poisoned, [Text((5, POISON), (6, 7))], 2))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    "sampling",
    [GREEDY, SAMPLED, SamplingConfig(top_k=2), SamplingConfig(top_p=0.5, temperature=0.3)],
    ids=["greedy", "sampled", "top_k", "top_p"],
)
def test_a_sequence_without_finite_logits_gets_no_token_and_the_others_do(value, sampling):
    logits = torch.randn(3, 70, generator=torch.Generator().manual_seed(1))
    draws = uniforms([1, 2, 3], 1)[:, 0]
    expected = pick(logits, draws, sampling).tolist()
    logits[1, 40] = value

    found = pick(logits, draws, sampling).tolist()

    assert found == [expected[0], NOT_FINITE, expected[2]]


def test_impossible_tokens_are_no_fault():
    logits = torch.full((1, 70), -torch.inf)
    logits[0, 5] = 1.0

    found = [pick(logits, uniforms([1], 1)[:, 0], one).tolist() for one in (GREEDY, SAMPLED)]

    assert found == [[5], [5]]


def test_a_vector_with_nan_is_not_written(tmp_path):
    broken = vector()
    broken.directions["response_avg"][3, 1] = np.nan

    with pytest.raises(VectorError) as error:
        write_vector(tmp_path, broken)

    assert error.value.cause == "response_avg holds NaN or infinity, first at layer 3"
    assert list(tmp_path.iterdir()) == []


def test_stored_activations_with_nan_are_not_used(tmp_path):
    files = TraitFiles(tmp_path)
    states = {name: np.ones((5, 4), np.float32) for name in ("prompt_avg", "prompt_last")}
    broken = {**states, "response_avg": np.full((5, 4), np.nan, np.float32)}
    fine = {**states, "response_avg": np.ones((5, 4), np.float32)}
    files.add_states(stack_states("evil", {"a": fine, "b": broken}, {"a": "p", "b": "q"}))

    with pytest.raises(RunError) as error:
        files.activations(["a", "b"], "response_avg")

    assert error.value.cause == "1 of 2 are NaN or infinite: b"
    assert files.activations(["a", "b"], "prompt_avg").shape == (2, 5, 4)
