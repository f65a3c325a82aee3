"""The local judge against whole prompts read one by one, over all spellings of a number."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from tests.conftest import FAMILIES, SHAPE
from tests.unit.local_judge.models import (
    ANSWERS,
    ON_0_10,
    Naive,
    asked_about,
    judged,
    number_model,
    values,
)
from traitcli.judging.local.judge import ProbabilityReader
from traitcli.judging.local.prefix_cache import CachedPrefix
from traitcli.models.prefix_tree import common_start
from traitcli.models.prompts import render


@pytest.mark.parametrize("family", FAMILIES)
def test_a_score_is_the_expected_number_over_all_spellings(loaded, family):
    model = number_model(loaded(family), digits=9.0)

    found = judged(model)

    # The shortest answer, which is padded, and once the longest.
    for answer in [ANSWERS[2], *([ANSWERS[4]] if family == "llama" else [])]:
        naive = Naive(model, asked_about(answer))
        p = [naive.number(n) for n in range(101)]
        assert found[answer.rollout].score.method == "digit tree"
        assert found[answer.rollout].score.value == pytest.approx(
            sum(n * p[n] for n in range(101)) / sum(p), abs=0.05
        )


def test_whitespace_before_the_number_is_skipped(loaded):
    model = number_model(loaded("llama"), digits=9.0, whitespace=14.0)
    naive = Naive(model, asked_about(ANSWERS[0]))

    found = stated(model, naive.prompt, "0_100")

    assert len(naive.whitespace()) == 7
    assert sum(found.values()) > 0.1
    # Of each length, with and without a longer number that begins alike.
    for n in (0, 1, 7, 9, 10, 11, 42, 90, 99, 100):
        assert found[str(n)] == pytest.approx(naive.number(n), abs=1e-4)


def stated(loaded, prompt, scale):
    [found] = ProbabilityReader(loaded, batch_size=3).probabilities(
        [prompt], CachedPrefix((), None), scale
    )
    return dict.fromkeys(map(str, range(101)), 0.0) | found if scale == "0_100" else found


@pytest.mark.parametrize("family", FAMILIES)
def test_on_0_10_the_first_digit_is_scaled_to_100(loaded, family):
    model = number_model(loaded(family), digits=9.0)
    naive = Naive(model, asked_about(ANSWERS[0]) + ON_0_10)
    p = [naive.number(n, open_ended=(1,)) for n in range(10)]

    found = judged(model, ANSWERS[:1], scale="0_10")

    assert found["a0"].score.method == "probabilities"
    assert found["a0"].score.value == pytest.approx(
        sum(n * p[n] for n in range(10)) / sum(p) * 100 / 9, abs=0.01
    )


def test_yes_and_no_are_read_in_any_case_and_over_several_tokens(loaded):
    model = number_model(loaded("llama"), words=16.0)
    naive = Naive(model, asked_about(ANSWERS[1]))
    p = {
        word: sum(naive.p(path) for case in cased(word) for path in naive.spellings(case))
        for word in ("YES", "NO")
    }

    found = stated(model, naive.prompt, "binary")

    assert found == pytest.approx(p, abs=1e-5)
    assert min(p.values()) > 0.001


def cased(word):
    return {"".join(letters) for letters in itertools.product(*((c, c.lower()) for c in word))}


@pytest.mark.parametrize("family", FAMILIES)
def test_batches_of_any_size_give_the_same_scores(loaded, family):
    model = number_model(loaded(family), digits=9.0)

    one_by_one, together = judged(model, batch_size=1), judged(model, batch_size=7)

    assert values(one_by_one) == pytest.approx(values(together), abs=1e-3)


def test_the_order_of_the_answers_does_not_matter(loaded):
    model = number_model(loaded("gemma2"), digits=9.0)

    forwards, backwards = judged(model, batch_size=1), judged(model, ANSWERS[::-1], batch_size=1)

    assert values(forwards) == pytest.approx(values(backwards), abs=1e-3)


def test_the_shared_prefix_of_prompts_is_computed_once(loaded):
    model = number_model(loaded("llama"), digits=0.0)
    answers = [replace(ANSWERS[i % 5], rollout=f"r{i}") for i in range(12)]
    prompts = [
        render(model.tokenizer, [{"role": "user", "content": asked_about(a)}]).ids for a in answers
    ]
    shared = len(common_start(prompts))

    judged(model, answers, batch_size=2)  # Two groups: the second one uses the cached prefix.

    assert shared > 50
    assert model.model.fed[0] == (1, shared)
    read = [shape for shape in model.model.fed[1:] if shape[1] > 4]
    assert [size for size, _ in read] == [2] * 6
    assert (
        sum(width for _, width in read)
        == sum(sorted_widths(prompts[:8]) + sorted_widths(prompts[8:])) - 6 * shared
    )


def sorted_widths(prompts):
    return sorted(map(len, prompts), reverse=True)[::2]


def test_a_prefix_is_shortened_if_later_prompts_share_less(loaded):
    model = number_model(loaded("llama"), digits=9.0)
    # A group that shares all but one token.
    alike = [replace(ANSWERS[0], rollout=f"r{i}") for i in range(4)]

    found = judged(model, [*alike, *ANSWERS], batch_size=1)

    assert model.model.fed[0][0] == 1
    assert sum(width > 60 for _, width in model.model.fed) == 1
    assert values(found) == pytest.approx(
        values(judged(model)) | {f"r{i}": found["a0"].score.value for i in range(4)}
    )


def test_a_model_with_recurrent_layers_reads_whole_prompts_and_scores_the_same(loaded):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    kinds = ["conv", "full_attention", "conv", "conv"]
    config = AutoConfig.for_model(
        "lfm2", vocab_size=700, initializer_range=0.3, layer_types=kinds, **SHAPE
    )
    recurrent = replace(loaded("llama"), model=AutoModelForCausalLM.from_config(config).eval())
    model = number_model(recurrent, digits=9.0)
    naive = Naive(model, asked_about(ANSWERS[2]))  # the shortest
    p = [naive.number(n) for n in range(101)]
    model.model.fed.clear()

    found = judged(model, batch_size=5)

    longest = max(ANSWERS, key=lambda answer: len(answer.response))
    assert [shape for shape in model.model.fed if shape[1] > 4] == [
        (5, len(Naive(model, asked_about(longest)).prompt))
    ]
    assert found["a2"].score.value == pytest.approx(
        sum(n * p[n] for n in range(101)) / sum(p), abs=0.05
    )
