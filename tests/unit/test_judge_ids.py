"""Judge ids and reply-cache keys do not change, because users have paid for the replies."""

from __future__ import annotations

import pytest

from traitcli.config import LikelihoodConfig, LocalJudgeConfig, ModelConfig, OpenAIConfig
from traitcli.judging import judge_id
from traitcli.judging.likelihood import LikelihoodJudge
from traitcli.judging.local.judge import LocalJudge
from traitcli.judging.openai.cache import cache_key
from traitcli.judging.openai.judge import OpenAIJudge
from traitcli.records import Contrast, Trait

TRAIT = Trait(
    name="grumpy",
    description="",
    meaning=Contrast("grumbles", "is cheerful"),
    adjectives=Contrast("grumpy", "cheerful"),
    pairs=(),
    questions=(),
    evaluation_questions=(),
    judge_prompt="How grumpy is {answer} to {question}? From 0 to 100.",
)


class Models:
    """A model provider that only knows the name of the run's model."""

    config = ModelConfig(id="org/tiny", device="cpu")

    def load(self, config):
        raise AssertionError("an id needs no model")


@pytest.fixture(autouse=True)
def no_endpoint_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


def test_the_id_of_the_openai_judge_keeps_its_value():
    judge = OpenAIJudge(OpenAIConfig(model="gpt-4.1-mini"))

    assert (
        judge_id(judge, TRAIT)
        == "openai:gpt-4.1-mini@api.openai.com:0_100+coherence#f5918272~5b16d9"
    )


def test_the_id_of_the_local_judge_keeps_its_value():
    judge = LocalJudge(LocalJudgeConfig(), Models())

    assert judge_id(judge, TRAIT) == "local:tiny:0_100+coherence#3eba78d9~5b16d9"


def test_the_id_of_the_likelihood_judge_keeps_its_value():
    judge = LikelihoodJudge(LikelihoodConfig(pairs=2, sharpness=4.0), Models())

    assert judge_id(judge, TRAIT) == "likelihood:tiny:pairs=2:sharpness=4"


def test_the_key_of_a_cached_reply_keeps_its_value():
    body = {
        "model": "gpt-4.1-mini",
        "messages": [{"role": "user", "content": "How grumpy is “Hm”?"}],
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 20,
    }

    key = cache_key("https://api.openai.com/v1/", body, sample=0)

    assert key == "728ca36b0487929ac2c3eb90a9fa974901e395eba665501a4859c6ad3b347505"
