"""Gives linear layers on a CPU a second copy of their weights, packed for oneDNN, which few rows are faster with.

A step of decoding multiplies one row for each answer. For 1 to 20 rows oneDNN takes 0.6 of the time that
the default library takes, and for a vocabulary's layer of any number; where many rows meet a block's
layers, the default is faster and is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import linear, pad

from traitcli.models.memory import free_bytes

if TYPE_CHECKING:
    from torch import Tensor

_FEW = 64
"""Rows, up to which all layers are faster packed."""
_WIDE = 8192
"""Outputs, from which a layer is faster packed with any number of rows."""
_ROUND = 4
"""Rows are filled up to a multiple of so many: oneDNN keeps code for every number it has met, 100 KB each."""
_SMALL = 2**20
"""Weights of the largest layer, below which nothing is gained."""
_SHARE = 0.25
"""Of the free memory, which the second copy may take at most."""
_TRIALS = 5
_CLEARLY = 0.9


@torch.inference_mode()
def pack_weights(model: Any) -> bool:
    """Let linear layers use packed weights where that is faster; returns whether they do.

    Only float32 on a CPU, where memory is plentiful, and where a trial on the largest layer is faster.
    Results differ by rounding. The packed copy is not written to: weights must not change afterwards.
    """
    layers = [module for module in model.modules() if _can_be_packed(module)]
    largest = max(layers, key=lambda layer: layer.weight.numel(), default=None)
    if largest is None or largest.weight.numel() < _SMALL or not _has_onednn():
        return False
    if sum(layer.weight.nbytes for layer in layers) > _SHARE * free_bytes(largest.weight.device):
        return False
    try:
        if not _is_faster(largest):
            return False
        for layer in layers:
            layer.__dict__["forward"] = _packed_forward(layer)
    except (
        AttributeError,
        NotImplementedError,
        RuntimeError,
    ):  # a torch whose oneDNN does not do this
        for layer in layers:
            layer.__dict__.pop("forward", None)
        return False
    return True


def _can_be_packed(module: Any) -> bool:
    """A plain linear layer in float32 on the CPU, whose forward nobody else has replaced."""
    if type(module) is not torch.nn.Linear or "forward" in module.__dict__:
        return False
    return module.weight.device.type == "cpu" and module.weight.dtype == torch.float32


def _has_onednn() -> bool:
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available


def _packed_forward(layer: torch.nn.Linear) -> Callable[[Tensor], Tensor]:
    weight, bias = layer.weight, layer.bias
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, _FEW)
    most = float("inf") if len(weight) >= _WIDE else _FEW * weight.shape[1]

    def forward(rows: Tensor) -> Tensor:
        if not 0 < rows.numel() <= most:
            return linear(rows, weight, bias)
        flat = rows.flatten(0, -2)
        short = -len(flat) % _ROUND if len(flat) > _ROUND else 0
        filled = pad(flat, (0, 0, 0, short)) if short else flat
        mixed: Tensor = torch.ops.mkldnn._linear_pointwise(filled, packed, bias, "none", [], "")
        return mixed[: len(flat)].view(*rows.shape[:-1], -1)

    return forward


def _is_faster(layer: torch.nn.Linear) -> bool:
    """Whether one row's fastest of some trials is clearly faster when packed."""
    row, forward = layer.weight.new_ones(1, layer.in_features), _packed_forward(layer)
    return _seconds(lambda: forward(row)) < _CLEARLY * _seconds(
        lambda: linear(row, layer.weight, layer.bias)
    )


def _seconds(run: Callable[[], object]) -> float:
    taken = []
    for _ in range(_TRIALS):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return min(taken)
