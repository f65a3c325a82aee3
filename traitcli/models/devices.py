"""Chooses the device and the dtype of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from traitcli.errors import ModelError

if TYPE_CHECKING:
    import torch


def pick_device(wanted: str) -> str:
    """'auto' -> the first GPU, else Apple's, else the CPU; anything else must be there."""
    import torch

    if wanted == "auto":
        return (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    kind, _, index = wanted.partition(":")
    found = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }
    if not (index or "0").isdecimal() or int(index or 0) >= found.get(kind, 0):
        have = ", ".join(f"{number} {kind}" for kind, number in found.items())
        raise ModelError(
            f"no device {wanted}",
            cause=f"this machine has {have}",
            fix="name one that is there, or auto",
        )
    return wanted


def pick_dtype(wanted: str, device: str, own: torch.dtype | str | None = None) -> torch.dtype:
    """'auto' -> bfloat16 on GPUs that have it, else float16 for weights that are their `own`, else float32."""
    import torch

    if wanted != "auto":
        return getattr(torch, wanted)  # type: ignore[no-any-return]
    if not device.startswith("cuda"):
        return torch.float32
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float16 if own in (torch.float16, "float16") else torch.float32
