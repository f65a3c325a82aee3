"""Judge backends: one file each, chosen by name from the config."""

from __future__ import annotations

from traitcli.config import JudgeConfig
from traitcli.judging.backend import LABELLED, Answer, Judge, ModelProvider, OnJudged, judge_id
from traitcli.judging.budget import Budget
from traitcli.judging.provided import ProvidedJudge

__all__ = [
    "LABELLED",
    "Answer",
    "Budget",
    "Judge",
    "ModelProvider",
    "OnJudged",
    "ProvidedJudge",
    "judge_id",
    "open_judge",
]


def open_judge(config: JudgeConfig, models: ModelProvider, budget: Budget | None = None) -> Judge:
    """Return the configured judge. If it needs a model, the first answer loads it."""
    if config.backend == "openai":
        from traitcli.judging.openai.judge import OpenAIJudge

        return OpenAIJudge(config.openai, budget)
    if config.backend == "fake":
        from traitcli.judging.fake import FakeJudge

        return FakeJudge()
    if config.backend == "local":
        from traitcli.judging.local.judge import LocalJudge

        return LocalJudge(config.local, models)
    from traitcli.judging.likelihood import LikelihoodJudge

    return LikelihoodJudge(config.likelihood, models)
