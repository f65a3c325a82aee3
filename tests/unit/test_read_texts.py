"""Existing texts, against one whole forward pass each."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

import traitcli.models.engine as engine_module
import traitcli.models.read_texts as texts_module
from tests.conftest import FAMILIES, LLAMA_TEMPLATE, make_model
from tests.operators import counted_operators
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


def assert_probable(loaded, found, texts=TEXTS):
    assert [index for index, _ in found] == list(range(len(texts)))
    for text, (_, values) in zip(texts, found, strict=True):
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


def let_fit(monkeypatch, model, tokens: int) -> None:
    """A quarter of the free memory is enough for the logits of so many tokens."""
    bytes_each = model.model.config.vocab_size * model.model.dtype.itemsize
    monkeypatch.setattr(texts_module, "free_bytes", lambda device: 4 * tokens * bytes_each)


def written_logits(operators, model, dtype) -> list[int]:
    """For how many tokens each operator wrote numbers [..., V]."""
    vocabulary = model.model.config.vocab_size
    return [
        shape.numel() // vocabulary
        for each in operators
        for shape, written in each.written
        if written == dtype and shape[-1:] == (vocabulary,)
    ]


@contextmanager
def counted_passes(model):
    """Yields a list of the tokens in each forward pass."""
    fed = []
    hook = model.model.get_input_embeddings().register_forward_hook(
        lambda module, args, output: fed.append(args[0].numel())
    )
    yield fed
    hook.remove()


LONG = [
    Text((*PERSONA, *QUESTION), tuple(30 + n * n % 400 for n in range(90))),
    Text((*PERSONA, 50), tuple(40 + n * n % 300 for n in range(31))),
    *TEXTS,
]


@packed_and_padded
@pytest.mark.parametrize(
    ("tokens", "family"), [(1, "llama"), *((7, family) for family in FAMILIES), (30, "llama")]
)
def test_texts_whose_logits_exceed_the_memory_are_read_in_pieces(
    loaded, family, packs, tokens, monkeypatch
):
    model = replace(loaded(family), packs=packs)
    let_fit(monkeypatch, model, tokens)

    with counted_operators() as operators:
        found = list(log_probabilities(model, LONG, 64))

    assert_probable(model, found, LONG)
    # Each prompt has logits too.
    most = max(tokens, len(LONG))
    assert 0 < max(written_logits(operators, model, torch.float32)) <= most


@packed_and_padded
def test_less_free_memory_means_more_passes(loaded, packs, monkeypatch):
    model = replace(loaded("llama"), packs=packs)
    passes = {}

    for tokens in (10**6, 40, 10):
        let_fit(monkeypatch, model, tokens)
        with counted_passes(model) as fed:
            list(log_probabilities(model, LONG, 64))
        passes[tokens] = len(fed)

    assert passes[10] > passes[40] > passes[10**6]


@packed_and_padded
def test_a_pass_has_no_more_tokens_however_much_memory_is_free(loaded, packs, monkeypatch):
    model = replace(loaded("gemma2"), packs=packs)
    let_fit(monkeypatch, model, 10**6)
    monkeypatch.setattr(engine_module, "TOKENS_PER_PASS", 50)
    monkeypatch.setattr(texts_module, "TOKENS_PER_PASS", 50)

    with counted_passes(model) as fed:
        found = list(log_probabilities(model, LONG, 1))

    assert_probable(model, found, LONG)
    assert max(fed) <= 50


@packed_and_padded
def test_a_reader_sees_the_same_whatever_memory_is_free_for_logits(loaded, packs, monkeypatch):
    # A model that computes all logits, whether or not they are needed.
    model = replace(loaded("llama"), packs=packs, last_logits=False)
    let_fit(monkeypatch, model, 20)
    reader = MeanReader(model)

    list(read_texts(model, LONG, 64, reader))

    for index, text in enumerate(LONG):
        expected = two_pass_means(model, Request(text.prompt, 0), text.response)
        for position in POSITIONS:
            assert relative_error(reader.finished[index][position], expected[position]) < TOLERANCE


@packed_and_padded
@pytest.mark.parametrize("tokens", [1, 4, 1000])
def test_chunks_of_the_sum_over_a_vocabulary_change_nothing(loaded, packs, tokens, monkeypatch):
    model = replace(loaded("gemma2"), packs=packs)
    monkeypatch.setattr(texts_module, "_CHUNK", tokens * model.model.config.vocab_size)

    assert_probable(model, list(log_probabilities(model, LONG, 64)), LONG)


@pytest.fixture
def half_model(loaded, tmp_path):
    """A tiny Llama in bfloat16."""
    folder = make_model(tmp_path / "half", "llama", LLAMA_TEMPLATE, True)
    return load_model(ModelConfig(id=str(folder), device="cpu", dtype="bfloat16"))


@packed_and_padded
def test_logits_in_half_precision_are_never_all_copied_to_float32(half_model, packs, monkeypatch):
    model = replace(half_model, packs=packs)
    tokens, chunk = 40, 3
    let_fit(monkeypatch, model, tokens)
    monkeypatch.setattr(texts_module, "_CHUNK", chunk * model.model.config.vocab_size)

    with counted_operators() as operators:
        list(log_probabilities(model, LONG, 4))

    assert max(written_logits(operators, model, torch.float32)) == chunk
    assert chunk < max(written_logits(operators, model, torch.bfloat16)) <= tokens


@packed_and_padded
def test_half_precision_gives_log_probabilities_of_a_whole_pass_in_half(half_model, packs):
    model = replace(half_model, packs=packs)

    found = dict(log_probabilities(model, LONG, 64))

    errors = torch.cat(
        [found[index] - naive_log_probabilities(model, text) for index, text in enumerate(LONG)]
    )
    # Products round differently in another batch.
    assert errors.abs().max() < 0.1
    assert errors.mean().abs() < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_sum_over_a_vocabulary_is_in_float32_whatever_the_logits_are(dtype):
    random = torch.Generator().manual_seed(0)
    logits = (torch.randn(200, 50_000, generator=random) * 3).to(dtype)
    tokens = torch.randint(50_000, (200,), generator=random)

    found = texts_module._log_probability(logits, tokens)

    expected = logits.double().log_softmax(1)[range(200), tokens]
    assert logits.numel() > texts_module._CHUNK
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)


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
