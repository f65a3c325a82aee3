"""What a device's memory holds, and what is said when it holds no more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from traitcli.errors import TraitError

if TYPE_CHECKING:
    import torch

_ONEDNN = ("could not create a primitive", "could not create a memory", "std::bad_alloc")
"""How oneDNN says that an allocation failed."""


def free_bytes(device: torch.device) -> int:
    """Memory that a device has left, what torch keeps in reserve included."""
    import torch

    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    import psutil

    return int(psutil.virtual_memory().available)


def used_bytes(devices: Iterable[torch.device]) -> int:
    """Memory that this process takes on devices; on a CPU, all that it takes."""
    import torch

    taken = {device for device in devices if device.type == "cuda"}
    if taken:
        return sum(torch.cuda.memory_reserved(device) for device in taken)
    import psutil

    return int(psutil.Process().memory_info().rss)


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch, or of oneDNN inside it, says that a device has no memory left."""
    from accelerate.utils.memory import should_reduce_batch_size

    if isinstance(error, RuntimeError):
        return should_reduce_batch_size(error) or str(error).startswith(_ONEDNN)
    return isinstance(error, MemoryError)


@contextmanager
def memory_explained(device: torch.device | str, fix: str) -> Iterator[None]:
    """Raise TraitError with `fix` where memory runs out."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out_of_memory(error):
            raise
        cause, *_ = str(error).splitlines() or [type(error).__name__]
        raise TraitError(f"out of memory on {device}", cause=cause, fix=fix) from error
