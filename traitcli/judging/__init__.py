"""Judges: each backend in a file of its own, chosen by name from the config."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from traitcli.config import JudgeConfig
from traitcli.judging.backend import Answer, Judge, judge_id

if TYPE_CHECKING:
    from traitcli.models.load import LoadedModel

__all__ = ["Answer", "Judge", "judge_id", "open_judge"]


def open_judge(config: JudgeConfig, name: str, model: Callable[[], LoadedModel]) -> Judge:
    """The configured judge; `model` loads the run's own model, called `name`, for a backend that reads with it."""
    if config.backend == "openai":
        from traitcli.judging.openai import OpenAIJudge

        return OpenAIJudge(config.openai)
    if config.backend == "fake":
        from traitcli.judging.fake import FakeJudge

        return FakeJudge()
    from traitcli.judging.likelihood import LikelihoodJudge

    return LikelihoodJudge(config.likelihood, name, model)
