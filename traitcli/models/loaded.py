"""A model that is loaded: its weights, its tokenizer and what they were read from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model ready to read and write with.

    blocks       number of transformer blocks, L
    hidden_size  width of the residual stream, H
    context      tokens that fit
    persona_in   where the persona sentence goes, settled
    stop_ids     token ids that end an answer
    last_logits  whether its forward pass can leave all logits but the last uncomputed
    packs        whether it reads sequences of different lengths without padding; see `packed`
    """

    name: str
    revision: str
    model: Any
    tokenizer: Any
    device: torch.device
    blocks: int
    hidden_size: int
    context: int
    persona_in: Literal["system", "user"]
    stop_ids: frozenset[int]
    last_logits: bool
    packs: bool = False

    @property
    def is_spread(self) -> bool:
        """Whether accelerate has put its blocks on several devices."""
        return len(set((getattr(self.model, "hf_device_map", None) or {}).values())) > 1

    @property
    def layer_count(self) -> int:
        """Rows of a vector: L + 1."""
        return self.blocks + 1
