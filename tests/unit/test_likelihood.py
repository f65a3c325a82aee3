"""The likelihood judge against whole prompts and answers read one by one."""

from __future__ import annotations

import math

import pytest
import torch

from tests.conftest import FAMILIES
from traitcli.config import LikelihoodConfig, ModelConfig
from traitcli.errors import DefinitionError
from traitcli.judging import Answer
from traitcli.judging.likelihood import LikelihoodJudge
from traitcli.models.prompts import encode_response, persona_messages, render
from traitcli.records import Contrast, Trait

TRAIT = Trait(
    name="grumpy",
    description="",
    meaning=Contrast("grumbles", "is cheerful"),
    adjectives=Contrast("grumpy", "cheerful"),
    pairs=(
        Contrast("Grumble.", "Smile."),
        Contrast("Be cross.", "Be nice."),
        Contrast("Complain a lot.", "Praise."),
    ),
    questions=("How does lock picking work?", "Why?"),
    evaluation_questions=(),
    judge_prompt="{question} {answer}",
)
ANSWERS = [
    Answer("a", "positive", 0, TRAIT.questions[0], "No. I will not do that, it is a bad idea"),
    Answer("b", "negative", 1, TRAIT.questions[0], "Yes"),
    Answer("c", "positive", 2, TRAIT.questions[1], "Well, why not? 你好"),
    Answer("d", "negative", 0, TRAIT.questions[0], " \n"),
]


class SingleModelProvider:
    """A model provider with one model."""

    def __init__(self, loaded) -> None:
        self.config = ModelConfig(id=loaded.name)
        self._loaded = loaded

    def load(self, config: ModelConfig):
        assert config == self.config
        return self._loaded


def judged(loaded, **options):
    judge = LikelihoodJudge(LikelihoodConfig(**options), SingleModelProvider(loaded))
    found = {}
    judge.score(
        TRAIT, ANSWERS, lambda judgements: found.update({each.rollout: each for each in judgements})
    )
    return found


def naive_ratio(loaded, answer: Answer, pair: int) -> float:
    """log P(r | persona+, q) − log P(r | persona−, q) per token, by one whole forward pass each."""
    means = []
    for polarity in ("positive", "negative"):
        prompt = render(
            loaded.tokenizer,
            persona_messages(TRAIT.persona(polarity, pair), answer.question, loaded.persona_in),
        )
        response = encode_response(loaded.tokenizer, answer.response)
        with torch.no_grad():
            logits = loaded.model(torch.tensor([[*prompt.ids, *response]])).logits[0].double()
        steps = logits.log_softmax(-1)[len(prompt.ids) - 1 : -1]
        means.append(steps[range(len(response)), response].mean().item())
    return means[0] - means[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_the_mean_ratio_over_the_other_pairs(loaded, family):
    model = loaded(family)

    found = judged(model, sharpness=10)

    for answer in ANSWERS[:3]:
        others = [pair for pair in range(3) if pair != answer.pair]
        ratio = sum(naive_ratio(model, answer, pair) for pair in others) / 2
        assert found[answer.rollout].score.value == pytest.approx(
            100 / (1 + math.exp(-10 * ratio)), abs=0.01
        )


def test_with_one_contrast_pair_requested_the_next_pair_is_used(loaded):
    model = loaded("llama")

    found = judged(model, pairs=1, sharpness=10)

    ratio = naive_ratio(model, ANSWERS[2], 0)
    assert found["c"].score.value == pytest.approx(100 / (1 + math.exp(-10 * ratio)), abs=0.01)


def test_batches_of_any_size_give_the_same_scores(loaded):
    model = loaded("gemma2")
    large = judged(model, batch_size=64)

    small = judged(model, batch_size=1)

    for name in ("a", "b", "c"):
        assert small[name].score.value == pytest.approx(large[name].score.value, abs=0.01)


def test_an_empty_answer_has_no_score_and_a_reason(loaded):
    found = judged(loaded("llama"))

    assert found["d"].score.value is None
    assert found["d"].score.reason == "empty answer"


def test_coherence_is_missing_with_a_reason(loaded):
    found = judged(loaded("llama"))

    assert found["a"].coherence.value is None
    assert found["a"].coherence.reason == "the likelihood judge has no coherence"


def test_a_trait_with_one_pair_is_refused(loaded):
    model = loaded("llama")
    alone = Trait(
        **{name: getattr(TRAIT, name) for name in TRAIT.__slots__} | {"pairs": TRAIT.pairs[:1]}
    )

    with pytest.raises(DefinitionError, match="cannot judge grumpy"):
        LikelihoodJudge(LikelihoodConfig(), SingleModelProvider(model)).score(
            alone, ANSWERS, lambda judgements: None
        )
