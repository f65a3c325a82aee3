"""Existing texts, against one whole forward pass each."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import traitcli.models.engine as engine_module
import traitcli.models.read_texts as texts_module
from tests.conftest import FAMILIES, make_model
from tests.unit.test_decode import TOLERANCE, relative_error, two_pass_means
from tests.unit.test_prefix_tree import count_read_tokens
from traitcli.config import ModelConfig
from traitcli.generation.mean_activations import MeanReader
from traitcli.generation.request import Request
from traitcli.models.load import load_model
from traitcli.models.read_texts import Text, log_probabilities, read_texts
from traitcli.records import POSITIONS

PERSONA, OTHER, QUESTION = tuple(range(20, 40)), tuple(range(60, 72)), tuple(range(100, 110))
TEXTS = [
    Text((*PERSONA, *QUESTION), (7, 300, 8)),
    Text((9,), (11, 12)),
    Text((*OTHER, *QUESTION), tuple(range(200, 230))),
    Text((*PERSONA, *QUESTION), (41,)),
    Text((*PERSONA, 50, 51), (7, 300, 8, 9)),
    Text((*OTHER, *QUESTION), (7, 300, 8)),
    Text((*PERSONA, *QUESTION), (7, 300, 8)),
]

packed_and_padded = pytest.mark.parametrize("packs", [True, False], ids=["packed", "padded"])
each_size = pytest.mark.parametrize("size", [1, 3, 64])


def naive_log_probabilities(loaded, text: Text):
    with torch.no_grad():
        logits = loaded.model(torch.tensor([[*text.prompt, *text.response]])).logits[0].double()
    steps = logits.log_softmax(-1)[len(text.prompt) - 1 : -1]
    return steps[range(len(text.response)), list(text.response)].float()


def assert_probable(loaded, found):
    assert [index for index, _ in found] == list(range(len(TEXTS)))
    for text, (_, values) in zip(TEXTS, found, strict=True):
        torch.testing.assert_close(
            values, naive_log_probabilities(loaded, text), atol=1e-4, rtol=1e-4
        )


@each_size
@packed_and_padded
@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_are_those_of_whole_texts_in_order(loaded, family, packs, size):
    model = replace(loaded(family), packs=packs)

    found = list(log_probabilities(model, TEXTS, size))

    assert_probable(model, found)


@each_size
@packed_and_padded
@pytest.mark.parametrize("family", FAMILIES)
def test_a_reader_sees_what_two_passes_would_show(loaded, family, packs, size):
    model = replace(loaded(family), packs=packs)
    reader = MeanReader(model)

    read = list(read_texts(model, TEXTS, size, reader))

    assert sorted(read) == list(range(len(TEXTS)))
    for index, text in enumerate(TEXTS):
        expected = two_pass_means(model, Request(text.prompt, 0), text.response)
        for position in POSITIONS:
            assert relative_error(reader.finished[index][position], expected[position]) < TOLERANCE


def test_texts_that_exceed_one_pass_are_read_in_several(loaded, monkeypatch):
    model = loaded("gemma2")
    monkeypatch.setattr(engine_module, "TOKENS_PER_PASS", 20)
    monkeypatch.setattr(texts_module, "LOGIT_BYTES_PER_PASS", 4 * model.model.config.vocab_size * 5)

    assert_probable(model, list(log_probabilities(model, TEXTS, 64)))


def test_a_model_with_recurrent_layers_reads_texts_too(tmp_path):
    folder = make_model(
        tmp_path / "m", "lfm2", None, True, more={"layer_types": ["conv", "full_attention"] * 2}
    )
    model = load_model(ModelConfig(id=str(folder), device="cpu"))
    assert not model.packs

    assert_probable(model, list(log_probabilities(model, TEXTS, 3)))


def test_shared_prefixes_are_read_once_at_a_small_batch_size(loaded):
    model = loaded("llama")
    fed = []
    hook = model.model.model.embed_tokens.register_forward_hook(
        lambda module, args, output: fed.append(args[0].numel())
    )

    list(log_probabilities(model, TEXTS, 2))
    hook.remove()

    assert sum(fed) == count_read_tokens([text.prompt for text in TEXTS]) + sum(
        len(text.response) for text in TEXTS
    )
    assert (
        count_read_tokens([text.prompt for text in TEXTS])
        < sum(len(text.prompt) for text in TEXTS) / 2
    )


@packed_and_padded
def test_no_gradients_are_stored(loaded, packs):
    model = replace(loaded("llama"), packs=packs)

    assert all(values.is_inference() for _, values in log_probabilities(model, TEXTS, 4))


@packed_and_padded
def test_an_empty_list_of_texts_is_allowed(loaded, packs):
    assert list(log_probabilities(replace(loaded("llama"), packs=packs), [], 4)) == []
