"""Measures a device's memory, and recognizes and explains errors when it runs out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from traitcli.errors import TraitError

if TYPE_CHECKING:
    import torch

_MESSAGES = (
    "out of memory",  # torch, CUDA, Triton, MPS, HIP, XPU
    "STATUS_ALLOC_FAILED",  # cuBLAS, cuDNN, cuSOLVER
    "can't allocate memory",  # torch on a CPU
    "could not create a primitive",  # oneDNN
    "could not create a memory",  # oneDNN
    "std::bad_alloc",
)
"""What the messages of failed allocations contain."""


def free_bytes(device: torch.device) -> int:
    """Free memory of a device, with what torch has reserved and does not use."""
    import torch

    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # torch keeps freed memory for itself, and CUDA counts that as used.
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free + unused)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    import psutil

    return int(psutil.virtual_memory().available)


def used_bytes(devices: Iterable[torch.device]) -> int:
    """Memory that this process uses on the GPUs among `devices`, else all its main memory."""
    import torch

    gpus = {device for device in devices if device.type == "cuda"}
    if gpus:
        # Reserved, not only allocated: no other process can use it either.
        return sum(torch.cuda.memory_reserved(device) for device in gpus)
    import psutil

    return int(psutil.Process().memory_info().rss)


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch, or of a library inside it, means that memory ran out."""
    import torch
    from accelerate.utils.memory import should_reduce_batch_size

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    # accelerate knows the messages of rarer devices.
    return any(text in str(error) for text in _MESSAGES) or should_reduce_batch_size(error)


@contextmanager
def memory_explained(device: torch.device | str, fix: str) -> Iterator[None]:
    """Raise TraitError with `fix` if memory runs out inside; let other errors pass."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out_of_memory(error):
            raise
        cause, *_ = str(error).splitlines() or [type(error).__name__]
        raise TraitError(f"out of memory on {device}", cause=cause, fix=fix) from error
