"""Finds tokens whose hidden state is many times longer than usual: massive activations.

See Sun et al., "Massive Activations in Large Language Models", 2024.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from traitcli.models.hooks import tap

if TYPE_CHECKING:
    from torch import Tensor

    from traitcli.models.loaded import LoadedModel

FACTOR = 4.0
"""A state that is longer than this many times the median length at its layer is massive."""
_MOST_TOKENS = 256
_TEXT = """\
The town lies where a small river meets the sea. In the morning the fishing boats come back, and \
people walk down to the harbor to see what was caught. Some buy bread on the way; others only want \
to hear the news. On Tuesdays there is a market, with vegetables from the valley, cheese, honey, \
and cloth that is dyed by hand.

Most houses were built after the flood of 1911. They have thick walls, narrow windows and two \
floors, and the kitchen is always at the back. A school with about 140 children stands near the \
bridge. Its teachers say that the best lessons are held outside: how to read a map, how to measure \
the height of a tree, and why the tide is late by some fifty minutes each day.

How long does it take to walk from the harbor to the old mill? That depends on the weather. When \
it is dry, the path along the river is the shortest, and half an hour is enough. After rain, take \
the road instead: it is longer, but it does not flood. Bring water, good shoes, and something to \
eat. At the mill you can rest, look at the wheel, and ask the owner to show you the stones. He \
does it gladly, he explains every part, and he never asks for money.
"""
"""Ordinary prose: each model is measured on the same words."""


def measure_massive(loaded: LoadedModel) -> tuple[float, ...]:
    """The length above which a hidden state is massive, for layers 0 to L, in activation units.

    It is `FACTOR` times the median length over the tokens of one fixed text, in one plain pass.
    """
    ids = list(loaded.tokenizer(_TEXT, add_special_tokens=False)["input_ids"]) or [0]
    ids = ids[: min(_MOST_TOKENS, loaded.context)]
    medians = [math.inf] * loaded.layer_count

    def measure(layer: int, hidden: Tensor) -> None:
        medians[layer] = float(lengths(hidden[0]).median())

    with torch.inference_mode(), tap(loaded.model, range(loaded.layer_count), measure):
        loaded.model(input_ids=torch.tensor([ids], device=loaded.device), use_cache=False)
    return tuple(FACTOR * median for median in medians)


def lengths(hidden: Tensor) -> Tensor:
    """Euclidean length of each hidden state [N, H]: float32 [N]."""
    found: Tensor = torch.linalg.vector_norm(hidden, dim=-1, dtype=torch.float32)
    return found


def is_massive(loaded: LoadedModel, layer: int, hidden: Tensor) -> Tensor:
    """Which of the hidden states [N, H] of a layer are massive: bool [N], on their device.

    None is where the model was not measured.
    """
    bound = loaded.massive_above[layer] if loaded.massive_above else math.inf
    return lengths(hidden) > bound
