"""Counts what operators read and write, to test how much memory and how many passes code needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

NO_PASS = {"empty", "new_empty", "empty_like", "empty_strided", "detach"}
"""They neither read nor write numbers."""
READS_FEW = {"gather", "index", "index_select"}
"""They read as many numbers as they write, however many there are."""


@dataclass(frozen=True, slots=True)
class Operator:
    """What an operator did.

    name     as "softmax"
    size     numbers of its largest tensor, read or written
    written  shape and dtype of what it wrote
    """

    name: str
    size: int
    written: tuple[tuple[torch.Size, torch.dtype], ...]


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operators: list[Operator] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        written = _tensors(found)
        name = func._schema.name.removeprefix("aten::")
        returned = [one.alias_info for one in func._schema.returns]
        # `to` may return its argument or a copy: whether it is a view shows in the memory.
        given = {one.data_ptr() for one in _tensors([*args, *(kwargs or {}).values()])}
        is_view = any(alias is not None and not alias.is_write for alias in returned) and (
            name != "to" or all(one.data_ptr() in given for one in written)
        )
        if is_view or name in NO_PASS:
            return found
        read = [] if name in READS_FEW else _tensors([*args, *(kwargs or {}).values()])
        size = max((one.numel() for one in [*read, *written]), default=0)
        kinds = tuple((one.shape, one.dtype) for one in written)
        self.operators.append(Operator(name, size, kinds))
        return found


class _Memory(TorchDispatchMode):
    """Bytes of the tensors that exist at once, of those that operators make.

    peak  the most so far
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._made: list[tuple[StorageWeakRef, int]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = {
            one.untyped_storage()._cdata for one in _tensors([*args, *(kwargs or {}).values()])
        }
        found = func(*args, **(kwargs or {}))
        for one in _tensors(found):
            storage = one.untyped_storage()
            if storage._cdata not in given:
                self._made.append((StorageWeakRef(storage), storage.nbytes()))
        self._made = [(ref, size) for ref, size in self._made if not ref.expired()]
        self.peak = max(self.peak, sum(size for _, size in self._made))
        return found


def _tensors(values: Any) -> list[torch.Tensor]:
    listed = values if isinstance(values, tuple | list) else [values]
    return [one for one in listed if isinstance(one, torch.Tensor)]


@contextmanager
def counted_operators() -> Iterator[list[Operator]]:
    """Yields a list that grows with each operator.

    Views are not among them, and of a gather only what it takes counts.
    """
    with _Counting() as mode:
        yield mode.operators


@contextmanager
def measured_memory() -> Iterator[_Memory]:
    """Yields what counts the bytes of tensors that exist at once, without those before."""
    with _Memory() as mode:
        yield mode
