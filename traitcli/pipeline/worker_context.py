"""What a worker needs for every task: its device, its models and its judge."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from typing import TYPE_CHECKING

from traitcli.config import Config, ModelConfig
from traitcli.errors import ConfigError, JudgeError, ModelError, StorageError
from traitcli.events import Listener
from traitcli.judging import Budget, Judge, open_judge
from traitcli.pipeline.flush import Packer

if TYPE_CHECKING:
    from traitcli.generation.writer import Writer
    from traitcli.models.loaded import LoadedModel


FATAL = (ConfigError, JudgeError, ModelError, StorageError)
"""Errors that end the run: no trait can continue after them."""


class Worker:
    """Holds the models of one device; each is loaded when it is first needed, and only once.

    config    the run's model, on this worker's device
    settings  the whole config of the run
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
        self._adopted: LoadedModel | None = None
        self._sent_prompts: dict[str, set[str]] = defaultdict(set)

    @property
    def device(self) -> str:
        return self.config.device

    def model(self) -> LoadedModel:
        """The run's model."""
        return self.load(self.config)

    def load(self, config: ModelConfig) -> LoadedModel:
        """Load a model, the run's or a judge's, or return it if it is loaded."""
        if config not in self._models:
            # Imported here: it loads torch, which takes two seconds and no endpoint needs.
            from traitcli.generation.load import load_model
            from traitcli.models.load import loaded_event

            if self._adopted and config == self.config:
                self._models[config] = self._adopted
                # When it is first needed, as if it were loaded: the run's log says what was used.
                self._on_event(loaded_event(self._adopted, str(self._adopted.device)))
                return self._adopted
            self._models[config] = load_model(config, self._on_event, self._trust)
        return self._models[config]

    def adopt(self, loaded: LoadedModel) -> None:
        """Use a model that is in memory already as the run's model."""
        self._adopted = loaded

    def packer(self, trait: str) -> Packer:
        """Makes the messages that deliver rollouts of a trait."""
        # More digits than the model's states have would only take room.
        half = self.model().model.dtype.itemsize == 2
        return Packer(trait, half, self._sent_prompts[trait])

    def memory(self) -> int:
        """Bytes in use on the device; on a CPU, of the process."""
        from traitcli.models.memory import used_bytes

        return used_bytes([loaded.device for loaded in self._models.values()])

    @cached_property
    def writer(self) -> Writer:
        """vLLM with the run's model. Starting it is slow, so all traits share it."""
        from traitcli.generation.vllm import VllmWriter, gpus_of

        return VllmWriter(self.model(), gpus_of(self.config), self._trust)

    def check_writer(self) -> None:
        """Raise ModelError if vLLM cannot write with the run's model here. Loads no weights."""
        from traitcli.generation.vllm import check_vllm

        check_vllm(self.config, self._trust)

    # Opened on first use: workers of an endpoint's judge never score, so they open none.
    @cached_property
    def judge(self) -> Judge:
        return open_judge(self.settings.judge, self, self._budget)
