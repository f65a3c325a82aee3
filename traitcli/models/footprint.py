"""What a model takes on a device, from its configuration alone: nothing of it is loaded."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from traitcli.config import ModelConfig
from traitcli.models.devices import pick_dtype
from traitcli.models.engine import TOKENS_PER_PASS
from traitcli.models.load import locate_model, not_loadable

_CONTEXT = 2**29
"""Bytes that CUDA takes for itself."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """A model's size.

    rows, hidden_size  of a vector: L + 1 and H
    weights            bytes of all parameters; 0 where they are quantised, or cannot be counted unloaded
    text               the configuration of its language part
    item               bytes of a number
    """

    layer_count: int
    hidden_size: int
    weights: int
    text: Any
    item: int

    def least(self, device: str, capacity: int) -> int:
        """Bytes that it takes on a device at least: with one sequence of so many tokens."""
        own = _CONTEXT if device.startswith("cuda") else 0
        return (
            own
            + self.weights
            + pass_bytes(self.text, self.item)
            + sequence_bytes(self.text, self.item, capacity)
        )


def find_footprint(
    config: ModelConfig, device: str = "cpu", trust_remote_code: bool = False
) -> Footprint:
    """The configured model's, in the numbers that the device would hold; raises ModelError like `load_model`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    source, where = locate_model(config)
    try:
        whole = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code, **where)
    except (OSError, ValueError) as error:
        raise not_loadable(config, error) from error
    text = whole.get_text_config()
    item = pick_dtype(config.dtype, device, text.dtype).itemsize
    parameters = 0
    if not getattr(whole, "quantization_config", None):
        with (
            suppress(Exception),
            torch.device("meta"),
        ):  # code of the model's own may need more than shapes
            model = AutoModelForCausalLM.from_config(whole, trust_remote_code=trust_remote_code)
            parameters = sum(parameter.numel() for parameter in model.parameters())
    return Footprint(text.num_hidden_layers + 1, text.hidden_size, parameters * item, text, item)


def sequence_bytes(text: Any, item: int, capacity: int) -> int:
    """Of one sequence: keys and values, sums of all rows, and a step's logits, scores and inner layer."""
    heads = text.num_attention_heads
    kept = getattr(text, "num_key_value_heads", None) or heads
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    keys = 2 * capacity * text.num_hidden_layers * kept * width * item
    sums = 3 * (text.num_hidden_layers + 1) * text.hidden_size * 4
    step = text.vocab_size * (item + 3 * 4) + 2 * 4 * heads * capacity + _inner_bytes(text, item)
    return int(keys + sums + step)


def pass_bytes(text: Any, item: int) -> int:
    """What a full pass over prompts holds at once."""
    return TOKENS_PER_PASS * _inner_bytes(text, item)


def _inner_bytes(text: Any, item: int) -> int:
    """Of one token: the widest that a block holds."""
    inner = getattr(text, "intermediate_size", None) or 4 * text.hidden_size
    return int(3 * inner + 6 * text.hidden_size) * item
