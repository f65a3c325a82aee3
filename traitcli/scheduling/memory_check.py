"""Compares the memory that workers need with what their devices have, before a model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from traitcli.config import Config
from traitcli.errors import ModelError
from traitcli.models.devices import pick_device
from traitcli.models.memory import free_bytes
from traitcli.scheduling.placement import Placement

_PROMPT_TOKENS = 256
"""A rough guess; the weights take nearly all of the memory."""


@dataclass(frozen=True, slots=True)
class Fit:
    """The memory of one worker, in bytes.

    device  a device, or several joined by +
    needed  the least that the worker needs
    found   what is free for it; None if only another machine could tell
    """

    device: str
    needed: int
    found: int | None

    @property
    def fits(self) -> bool:
        return self.found is None or self.needed <= self.found


def measure_fit(config: Config, placement: Placement, trust_remote_code: bool = False) -> list[Fit]:
    """What every worker needs and has; workers on the CPU divide its free memory."""
    from traitcli.models.footprint import find_footprint

    on_ray = placement.scheduler == "ray"
    workers = _devices(placement)
    capacity = _PROMPT_TOKENS + config.extract.sampling.max_new_tokens
    footprint = find_footprint(config.model, workers[0][0], trust_remote_code)
    on_cpu = sum(devices == ["cpu"] for devices in workers)
    fits = []
    for name, devices in zip(placement.devices, workers, strict=True):
        found = None if on_ray else _free_bytes(config, devices, on_cpu)
        fits.append(Fit(name, footprint.minimum_bytes(devices[0], capacity), found))
    return fits


def first_device(placement: Placement) -> str:
    """The device that decides the model's dtype."""
    return _devices(placement)[0][0]


def check_fit(config: Config, placement: Placement, trust_remote_code: bool = False) -> None:
    """Raise ModelError if the model does not fit on a device."""
    refuse_unfit(config, measure_fit(config, placement, trust_remote_code))


def refuse_unfit(config: Config, fits: Sequence[Fit]) -> None:
    """Raise ModelError if a worker needs more memory than is free."""
    short = [fit for fit in fits if not fit.fits]
    if not short:
        return
    needed = max(fit.needed for fit in short)
    devices = ", ".join(dict.fromkeys(fit.device for fit in short))
    free = ", ".join(f"{(fit.found or 0) / 2**30:.1f} GiB on {fit.device}" for fit in short)
    raise ModelError(
        f"{config.model.name} does not fit on {devices}",
        cause=f"a worker needs at least {needed / 2**30:.1f} GiB; free: {free}",
        fix="use fewer CPU workers, --gpus-per-worker K, model.dtype bfloat16, or a smaller model",
    )


def _devices(placement: Placement) -> list[list[str]]:
    """The devices of each worker."""
    if placement.scheduler == "ray":
        # Ray has not chosen machines yet. Each actor checks its own memory when it starts.
        kind = "cuda" if placement.gpus_per_worker else "cpu"
        return [[kind] for _ in placement.devices]
    return [[pick_device(name) for name in names.split("+")] for names in placement.devices]


def _free_bytes(config: Config, devices: Sequence[str], on_cpu: int) -> int | None:
    """Free bytes on all devices of a worker."""
    import torch

    if config.model.device_map:
        return None  # accelerate spreads the model, also to disk, so it always fits
    if list(devices) == ["cpu"]:
        return free_bytes(torch.device("cpu")) // max(1, on_cpu)
    return sum(free_bytes(torch.device(device)) for device in devices)
