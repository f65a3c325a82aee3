"""Gives linear layers on a CPU a second copy of their weights, in oneDNN's packed format.

A step of decoding multiplies one row for each answer. For 1 to 20 rows, oneDNN takes 0.6 of the
time of torch's default library; for the vocabulary's layer it is faster with any number of rows.
For many rows through a block's layers the default is faster, and stays in use.
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

_MAX_ROWS = 64
"""Up to this many rows, all layers are faster packed."""
_WIDE_OUTPUTS = 8192
"""A layer with at least this many outputs is faster packed with any number of rows."""
_ROW_MULTIPLE = 4
"""Rows are padded to a multiple: oneDNN keeps 100 KB of code for each number of rows it meets."""
_MIN_WEIGHTS = 2**20
"""Models whose largest layer has fewer weights gain nothing."""
_MEMORY_SHARE = 0.25
"""Largest share of the free memory for the second copy."""
_TRIALS = 5
"""Runs of each kind in a trial."""
_FASTER_BY = 0.9
"""Packed weights are used if they take at most this share of the time in a trial."""


@torch.inference_mode()
def pack_weights(model: Any, is_faster: Callable[[torch.nn.Linear], bool] | None = None) -> bool:
    """Let linear layers use packed weights where that is faster; returns whether they do.

    Only float32 on a CPU, with plenty of memory, and if a trial on the largest layer is faster
    (`is_faster` replaces that trial). Results differ by rounding. Weights must not change
    afterwards: the packed copy would not.
    """
    layers = [module for module in model.modules() if _can_be_packed(module)]
    largest = max(layers, key=lambda layer: layer.weight.numel(), default=None)
    if largest is None or largest.weight.numel() < _MIN_WEIGHTS or not _has_onednn():
        return False
    copy_bytes = sum(layer.weight.nbytes for layer in layers)
    if copy_bytes > _MEMORY_SHARE * free_bytes(largest.weight.device):
        return False

    try:
        if not (is_faster or _is_faster_packed)(largest):
            return False
        # In the instance, not a new class: hooks and type checks of other libraries still work.
        for layer in layers:
            layer.__dict__["forward"] = packed_forward(layer)
    # The operators are not public: a torch may lack them, or fail on this CPU.
    except (AttributeError, NotImplementedError, RuntimeError):
        for layer in layers:
            layer.__dict__.pop("forward", None)
        return False
    return True


def packed_forward(layer: torch.nn.Linear) -> Callable[[Tensor], Tensor]:
    """A forward function for a layer that uses packed weights where they are faster."""
    weight, bias = layer.weight, layer.bias
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, _MAX_ROWS)
    max_numbers = float("inf") if len(weight) >= _WIDE_OUTPUTS else _MAX_ROWS * weight.shape[1]

    def forward(rows: Tensor) -> Tensor:
        # The copy was packed for few rows; with more, the default library is faster.
        if not 0 < rows.numel() <= max_numbers:
            return linear(rows, weight, bias)
        flat = rows.flatten(0, -2)
        # Up to four rows stay as they are: padding would multiply their work.
        missing = -len(flat) % _ROW_MULTIPLE if len(flat) > _ROW_MULTIPLE else 0
        padded = pad(flat, (0, 0, 0, missing)) if missing else flat
        product: Tensor = torch.ops.mkldnn._linear_pointwise(padded, packed, bias, "none", [], "")
        return product[: len(flat)].view(*rows.shape[:-1], -1)

    return forward


def _can_be_packed(module: Any) -> bool:
    """A plain linear layer in float32 on the CPU, with its own forward.

    Quantization and adapter libraries replace classes or forwards: theirs are left alone.
    """
    if type(module) is not torch.nn.Linear or "forward" in module.__dict__:
        return False
    return module.weight.device.type == "cpu" and module.weight.dtype == torch.float32


def _has_onednn() -> bool:
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available


def _is_faster_packed(layer: torch.nn.Linear) -> bool:
    """Whether one row is clearly faster when packed."""
    row, forward = layer.weight.new_ones(1, layer.in_features), packed_forward(layer)
    packed_seconds = _best_seconds(lambda: forward(row))
    default_seconds = _best_seconds(lambda: linear(row, layer.weight, layer.bias))
    return packed_seconds < _FASTER_BY * default_seconds


def _best_seconds(run: Callable[[], object]) -> float:
    """The fastest of several runs: the others were disturbed by something."""
    seconds = []
    for _ in range(_TRIALS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
