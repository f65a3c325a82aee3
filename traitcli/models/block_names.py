"""Finds the name of a model's list of blocks, by which other tools address a block."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from traitcli.config import ModelConfig
from traitcli.errors import TraitError
from traitcli.models.footprint import find_configuration
from traitcli.models.hooks import find_blocks

USUAL = "layers"
"""The name in Llama, Qwen, Gemma, Mistral and most others."""


def path_of_blocks(config: ModelConfig) -> str:
    """The name of the list of blocks below `base_model`, such as `layers` or `h`.

    Args:
        config: The model; only its configuration is read, no weights.

    Returns:
        The name; `USUAL` if the configuration cannot be found, or needs the model's own code.
    """
    import torch
    from transformers import AutoModelForCausalLM

    # A vector can be exported without its model: then the name is a guess, and a wrong one is an
    # error of the other tool, not a wrong result.
    with suppress(TraitError, ValueError), torch.device("meta"):
        return path_in(AutoModelForCausalLM.from_config(find_configuration(config)))
    return USUAL


def path_in(model: Any) -> str:
    """The same for a model of transformers in memory; raises ModelError if it has no blocks."""
    blocks = find_blocks(model)
    names = (name for name, module in model.base_model.named_modules() if module is blocks)
    return next(names, USUAL)
