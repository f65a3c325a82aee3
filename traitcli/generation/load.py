"""Loads a model with the decode loop that its configuration asks for."""

from __future__ import annotations

from traitcli.config import ModelConfig
from traitcli.events import Listener, Warned
from traitcli.models import load
from traitcli.models.loaded import LoadedModel


def load_model(
    config: ModelConfig, on_event: Listener = lambda event: None, trust_remote_code: bool = False
) -> LoadedModel:
    """Load the configured model for inference.

    A graph of the decode step is compared with the step itself here, before an answer needs it.

    Raises ModelError if the model cannot be found, is not a causal language model, does not load,
    or is one that traitcli cannot read correctly.
    """
    from traitcli.generation.graph_test import choose_loop

    loaded, notes = choose_loop(
        load.load_model(config, on_event, trust_remote_code), config.decode_loop
    )
    for note in notes:
        on_event(Warned("", note))
    return loaded
