"""What one worker holds while it works: its device, its model and its judge, loaded when needed."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from traitcli.config import Config
from traitcli.events import Listener
from traitcli.judging import Judge, open_judge

if TYPE_CHECKING:
    from traitcli.models.load import LoadedModel


class Worker:
    """Works on one device; the model is loaded once, at the first rollout or answer that needs it."""

    def __init__(self, config: Config, device: str, on_event: Listener, trust_remote_code: bool = False) -> None:
        model = config.model.model_copy(update={"device": device})
        self._config = config.model_copy(update={"model": model})
        self._on_event = on_event
        self._trust = trust_remote_code

    @property
    def device(self) -> str:
        return self._config.model.device

    def model(self) -> LoadedModel:
        return self._loaded

    @cached_property
    def judge(self) -> Judge:
        return open_judge(self._config.judge, self._config.model.name, self.model)

    @cached_property
    def _loaded(self) -> LoadedModel:
        from traitcli.models.load import load_model

        return load_model(self._config.model, self._on_event, self._trust)
