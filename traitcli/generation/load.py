"""Loads a model with the decode loop that its configuration asks for."""

from __future__ import annotations

from typing import Any

from traitcli.config import ModelConfig
from traitcli.events import Listener, Warned
from traitcli.models import load
from traitcli.models.borrowed import using
from traitcli.models.loaded import LoadedModel


def load_model(
    config: ModelConfig, on_event: Listener = lambda event: None, trust_remote_code: bool = False
) -> LoadedModel:
    """Load the configured model for inference.

    A graph of the decode step is compared with the step itself here, before an answer needs it.

    Raises ModelError if the model cannot be found, is not a causal language model, does not load,
    or is one that traitcli cannot read correctly.
    """
    return _with_loop(load.load_model(config, on_event, trust_remote_code), config, on_event)


def wrap_model(
    model: Any, tokenizer: Any, config: ModelConfig, on_event: Listener = lambda event: None
) -> LoadedModel:
    """Make a model of the user ready; see `models.load.wrap_model`, whose errors it raises."""
    loaded = load.wrap_model(model, tokenizer, config, on_event)
    with using(loaded):
        return _with_loop(loaded, config, on_event)


def _with_loop(loaded: LoadedModel, config: ModelConfig, on_event: Listener) -> LoadedModel:
    from traitcli.generation.graph_test import choose_loop

    loaded, notes = choose_loop(loaded, config.decode_loop)
    for note in notes:
        on_event(Warned("", note))
    return loaded
