"""Lays a model's weights out for one token at a time, where this CPU is faster with it."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import linear

from traitcli.models.load import LoadedModel

if TYPE_CHECKING:
    from torch import Tensor

_TRIALS = 7
_WORTH = 0.9
"""Of the time, or less, must be left for a change to be worth it."""


@torch.inference_mode()
def lay_out_for_one(loaded: LoadedModel) -> bool:
    """Store the weights of linear layers column by column if that is faster here; returns whether it was done.

    One row times a matrix takes as long as reading the matrix does, and how fast that goes depends on the
    layout and on the library. The largest layer is tried. Values stay, results differ by rounding, and
    batches would become slower. It takes as long as forty tokens, on a CPU; elsewhere nothing is done.
    """
    layers = [module for module in loaded.model.modules() if isinstance(module, torch.nn.Linear)]
    if loaded.device.type != "cpu" or not layers:
        return False
    largest = max((layer.weight for layer in layers), key=torch.numel)
    turned = _turn(largest)
    if _seconds(turned) > _WORTH * _seconds(largest):
        return False
    for weight in {id(layer.weight): layer.weight for layer in layers}.values():  # those that are tied, once
        weight.data = turned if weight is largest else _turn(weight)
    return True


def _turn(weight: Tensor) -> Tensor:
    """The same [out, in], in memory column by column."""
    return weight.data.t().contiguous().t()


def _seconds(weight: Tensor) -> float:
    """One row's median."""
    row, taken = weight.new_ones(1, weight.shape[1]), []
    for _ in range(_TRIALS):
        start = time.perf_counter()
        linear(row, weight)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)
