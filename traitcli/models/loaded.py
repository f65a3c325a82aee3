"""A loaded model: its weights, its tokenizer, and what the rest of traitcli must know of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import torch


# Compared by identity: comparing weights would take long and mean nothing.
@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A model ready to read and write with.

    device       where its inputs go
    blocks       number of transformer blocks, L
    hidden_size  width of the residual stream, H
    context      most tokens of a prompt and its answer
    persona_in   the message that the persona sentence goes into
    stop_ids     token ids that end an answer
    last_logits  whether its forward pass can skip all logits but the last
    packs        whether it reads packed sequences; see `find_packing_problem`
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
        # transformers notes here which device each part is on; on a single device it may not.
        device_map = getattr(self.model, "hf_device_map", None) or {}
        return len(set(device_map.values())) > 1

    @property
    def layer_count(self) -> int:
        """Layers of a vector, L + 1."""
        return self.blocks + 1
