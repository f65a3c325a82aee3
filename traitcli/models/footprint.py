"""Estimates the memory of a model on a device from its configuration, without loading weights."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from traitcli.config import ModelConfig
from traitcli.models.devices import pick_dtype
from traitcli.models.engine import TOKENS_PER_PASS
from traitcli.models.load_faults import library_errors
from traitcli.models.weights import hub_options, locate

_CUDA_CONTEXT_BYTES = 2**29
"""Memory that CUDA takes for itself in every process."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """A model's size.

    layer_count, hidden_size  shape of its vectors: L + 1 and H
    weights                   bytes of all parameters; 0 if they are quantized or cannot be counted
    text                      transformers' configuration of its language part
    item                      bytes of a number in the dtype it will have
    """

    layer_count: int
    hidden_size: int
    weights: int
    text: Any
    item: int

    def minimum_bytes(self, device: str, capacity: int) -> int:
        """Memory it needs to write one sequence of `capacity` tokens, prompt included."""
        context = _CUDA_CONTEXT_BYTES if device.startswith("cuda") else 0
        one_pass = pass_bytes(self.text, self.item)
        one_sequence = sequence_bytes(self.text, self.item, capacity)
        return context + self.weights + one_pass + one_sequence


def find_configuration(config: ModelConfig, trust_remote_code: bool = False) -> Any:
    """transformers' configuration of the model; raises ModelError like `load_model`."""
    from transformers import AutoConfig

    source, _ = locate(config)
    with library_errors(config):
        return AutoConfig.from_pretrained(
            source, trust_remote_code=trust_remote_code, **hub_options(config, source)
        )


def find_footprint(
    config: ModelConfig, device: str = "cpu", trust_remote_code: bool = False
) -> Footprint:
    """The footprint of the configured model; raises ModelError like `load_model`."""
    import torch
    from transformers import AutoModelForCausalLM

    whole = find_configuration(config, trust_remote_code)
    text = whole.get_text_config()
    item = pick_dtype(config.dtype, device, text.dtype).itemsize
    # The bytes of quantized weights do not follow from their number and the dtype.
    parameters = 0
    if not getattr(whole, "quantization_config", None):
        # A model's own code may need more than shapes. Any error only means: size unknown.
        with suppress(Exception), torch.device("meta"):
            model = AutoModelForCausalLM.from_config(whole, trust_remote_code=trust_remote_code)
            parameters = sum(parameter.numel() for parameter in model.parameters())
    return Footprint(text.num_hidden_layers + 1, text.hidden_size, parameters * item, text, item)


def sequence_bytes(text: Any, item: int, capacity: int) -> int:
    """Memory of one sequence of `capacity` tokens while it is written.

    It covers keys and values, float32 sums of all layers (see `MeanReader`), and one step's
    logits, sampling copies, attention scores and inner states.
    """
    heads = text.num_attention_heads
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    head_size = getattr(text, "head_dim", None) or text.hidden_size // heads
    keys_and_values = 2 * capacity * text.num_hidden_layers * kv_heads * head_size * item
    sums = 5 * (text.num_hidden_layers + 1) * text.hidden_size * 4
    # Sampling needs two float32 copies of the logits, and a mask; attention two of its scores.
    logits = text.vocab_size * (item + 2 * 4 + 1)
    scores = 2 * 4 * heads * capacity
    return int(keys_and_values + sums + logits + scores + _token_bytes(text, item))


def pass_bytes(text: Any, item: int) -> int:
    """Memory of the states inside the blocks during a full pass over prompts."""
    return TOKENS_PER_PASS * _token_bytes(text, item)


def _token_bytes(text: Any, item: int) -> int:
    """Memory of one token where a block is widest."""
    inner = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    return int(3 * inner + 6 * text.hidden_size) * item
