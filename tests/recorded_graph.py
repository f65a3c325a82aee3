"""What a CUDA graph does, on any device: a recorded run is repeated on the same memory.

Recording has no effect, as on CUDA: all that it changes is put back. A run that looks at numbers on
the device cannot be recorded. A replay runs the recorded operators only, no line of Python.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

aten = torch.ops.aten
LOOKS_AT_NUMBERS = {
    aten._local_scalar_dense.default,
    aten.is_nonzero.default,
    aten.item.default,
    aten.nonzero.default,
    aten.equal.default,
    aten.masked_select.default,
}


class CaptureError(RuntimeError):
    """As CUDA raises when a captured function waits for the device."""


def record(run: Callable[[], None]) -> Callable[[], None]:
    """Record what a function does, without doing it; returns what repeats it."""
    recorder = _Recorder()
    with recorder:
        run()
    recorder.put_back()
    return recorder.replay


def _tensors(values: Any) -> list[torch.Tensor]:
    return [one for one in tree_flatten(values)[0] if isinstance(one, torch.Tensor)]


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self._steps: list[tuple[Any, Any, Any, Any]] = []
        self._made: set[int] = set()
        self._before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in LOOKS_AT_NUMBERS:
            raise CaptureError("operation not permitted when stream is capturing")
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self._keep(value)
        for argument in func._schema.arguments:
            info = argument.alias_info
            if argument.name in kwargs and info is not None and info.is_write:
                self._keep(kwargs[argument.name])
        found = func(*args, **kwargs)
        known = {_memory(one) for one in _tensors((args, kwargs))}
        self._made |= {_memory(one) for one in _tensors(found)} - known
        self._steps.append((func, args, kwargs, found))
        return found

    def _keep(self, value: Any) -> None:
        """Remember what is in memory that was there before."""
        for tensor in _tensors(value):
            memory = _memory(tensor)
            if memory not in self._made and memory not in self._before:
                whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
                self._before[memory] = whole, whole.clone()

    def put_back(self) -> None:
        for whole, kept in self._before.values():
            whole.copy_(kept)

    def replay(self) -> None:
        for func, args, kwargs, recorded in self._steps:
            found = func(*args, **kwargs)
            known = {_memory(one) for one in _tensors((args, kwargs))}
            for old, new in zip(_tensors(recorded), _tensors(found), strict=True):
                if _memory(new) not in known:
                    old.copy_(new)
