"""What a worker has at hand for every task: its device, its model and its judge."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from traitcli.config import Config, ModelConfig
from traitcli.errors import ConfigError, JudgeError, ModelError, StorageError
from traitcli.events import Listener
from traitcli.judging import Budget, Judge, open_judge

if TYPE_CHECKING:
    from traitcli.generation.external_engine import Writer
    from traitcli.models.loaded import LoadedModel


FATAL = (ConfigError, JudgeError, ModelError, StorageError)
"""Errors that no trait could go on after."""


class Worker:
    """Works on one device; a model is loaded once, at the first rollout or answer that needs it.

    config  the run's model, on this worker's device
    """

    def __init__(
        self,
        config: Config,
        device: str,
        on_event: Listener,
        trust_remote_code: bool = False,
        budget: Budget | None = None,
    ) -> None:
        self.config: ModelConfig = config.model.model_copy(update={"device": device})
        self.settings = config
        self._budget = budget
        self._on_event = on_event
        self._trust = trust_remote_code
        self._models: dict[ModelConfig, LoadedModel] = {}

    @property
    def device(self) -> str:
        return self.config.device

    def model(self) -> LoadedModel:
        """The run's model."""
        return self.load(self.config)

    def load(self, config: ModelConfig) -> LoadedModel:
        """A model that this worker works with, the judge's perhaps."""
        if config not in self._models:
            from traitcli.models.load import load_model

            self._models[config] = load_model(config, self._on_event, self._trust)
        return self._models[config]

    def memory(self) -> int:
        """Bytes that it takes on its device; of a CPU, what its process takes."""
        from traitcli.models.memory import used_bytes

        return used_bytes([loaded.device for loaded in self._models.values()])

    @cached_property
    def writer(self) -> Writer:
        """vLLM with the run's model; started once for all traits."""
        from traitcli.generation.vllm import VllmWriter

        return VllmWriter(self.model(), self._trust)

    @cached_property
    def judge(self) -> Judge:
        return open_judge(self.settings.judge, self, self._budget)
