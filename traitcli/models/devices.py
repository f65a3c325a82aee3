"""Chooses the device and the dtype of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from traitcli.errors import ModelError

if TYPE_CHECKING:
    import torch


def pick_device(wanted: str) -> str:
    """'auto' -> the first GPU, else Apple's, else the CPU; another name is checked and returned.

    Raises ModelError if this machine does not have the device.
    """
    import torch

    if wanted == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"

    kind, _, index = wanted.partition(":")
    counts = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    if not (index or "0").isdecimal() or int(index or 0) >= counts.get(kind, 0):
        available = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        raise ModelError(
            f"no device {wanted}",
            cause=f"this machine has {available}",
            fix="name one of these, or auto",
        )
    return wanted


def use_device(device: str) -> None:
    """Make a numbered GPU the current one of this thread; does nothing for other devices.

    Some libraries launch their kernels on the current GPU, wherever their tensors are.
    """
    import torch

    kind, _, index = device.partition(":")
    if kind == "cuda" and index.isdecimal():
        torch.cuda.set_device(int(index))


def pick_dtype(wanted: str, device: str, own: torch.dtype | str | None = None) -> torch.dtype:
    """The dtype named, or for 'auto' the best one that the device is fast with.

    Args:
        wanted: the name of a torch dtype, or 'auto'.
        device: as `pick_device` returns it.
        own: the dtype of the stored weights.

    Returns:
        For 'auto': bfloat16 on GPUs that have it, else float16 for float16 weights, else float32.
    """
    import torch

    if wanted != "auto":
        return getattr(torch, wanted)  # type: ignore[no-any-return]
    if not device.startswith("cuda"):
        return torch.float32
    # GPUs before Ampere only emulate bfloat16, which is slow.
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    # Other weights may exceed the range of float16.
    return torch.float16 if own in (torch.float16, "float16") else torch.float32
