"""Long texts attend in parts: the same states, with masks and scores that stay small."""

from __future__ import annotations

import pytest
import torch

import traitcli.models.packed_attention as packed_module
from tests.conftest import FAMILIES
from tests.unit.test_decode import TOLERANCE, relative_error
from tests.unit.test_read_texts import TEXTS
from traitcli.generation.mean_activations import MeanReader
from traitcli.models.read_texts import Text, log_probabilities, read_texts
from traitcli.records import POSITIONS

LONG = [
    Text(tuple(20 + n % 500 for n in range(150)), tuple(30 + n * n % 500 for n in range(200))),
    Text(tuple(20 + n % 500 for n in range(160)), tuple(40 + n * n % 500 for n in range(90))),
    *TEXTS,
]

each_family = pytest.mark.parametrize("family", FAMILIES)


class Sizes:
    """Remembers the bytes of all masks, and of the scores that are kept."""

    def __init__(self, monkeypatch):
        self.masks, self.scores = [], []
        make, matmul = packed_module.as_mask, packed_module.matmul_attention

        def as_mask(*options):
            self.masks.append(make(*options))
            return self.masks[-1]

        def attend(query, keys, *options):
            self.scores.append(4 * query.shape[:3].numel() * keys.shape[2])
            return matmul(query, keys, *options)

        monkeypatch.setattr(packed_module, "as_mask", as_mask)
        monkeypatch.setattr(packed_module, "matmul_attention", attend)

    @property
    def largest(self):
        return max([mask.nbytes for mask in self.masks] + self.scores)


def means(model):
    reader = MeanReader(model)
    list(read_texts(model, LONG, 64, reader))
    return reader.finished


@each_family
@pytest.mark.parametrize("limit", [1, 10_000, 100_000])
def test_attention_in_parts_gives_the_same_states(loaded, family, monkeypatch, limit):
    model = loaded(family)
    expected = means(model)
    monkeypatch.setattr(packed_module, "ATTENTION_BYTES", limit)

    found = means(model)

    for index in range(len(LONG)):
        for position in POSITIONS:
            error = relative_error(found[index][position], expected[index][position])
            assert error < TOLERANCE


@each_family
def test_attention_in_parts_gives_the_same_probabilities(loaded, family, monkeypatch):
    model = loaded(family)
    expected = dict(log_probabilities(model, LONG, 64))
    monkeypatch.setattr(packed_module, "ATTENTION_BYTES", 10_000)

    found = dict(log_probabilities(model, LONG, 64))

    for index in range(len(LONG)):
        torch.testing.assert_close(found[index], expected[index], rtol=1e-3, atol=1e-3)


@each_family
def test_masks_and_scores_of_a_long_text_stay_below_the_limit(loaded, family, monkeypatch):
    model = loaded(family)
    sizes = Sizes(monkeypatch)
    list(read_texts(model, LONG[:1], 1, MeanReader(model)))
    assert sizes.largest > 50_000
    monkeypatch.setattr(packed_module, "ATTENTION_BYTES", 20_000)
    sizes.masks.clear()
    sizes.scores.clear()

    list(read_texts(model, LONG[:1], 1, MeanReader(model)))

    assert 0 < sizes.largest <= 20_000
