"""Compares what workers need with what their devices have, before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from traitcli.config import Config
from traitcli.errors import ModelError
from traitcli.models.devices import pick_device
from traitcli.models.memory import free_bytes
from traitcli.scheduling.placement import Placement

_PROMPT = 256
"""Tokens of a prompt, roughly; what counts is the model."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A place, the bytes that its worker needs at least, and those that are there for it.

    found  none where only the machine itself could tell
    """

    place: str
    needed: int
    found: int | None

    @property
    def fits(self) -> bool:
        return self.found is None or self.needed <= self.found


def measure_fit(config: Config, site: Placement, trust_remote_code: bool = False) -> list[Fit]:
    """What every place needs and has; workers on the CPU share what is free."""
    from traitcli.models.footprint import find_footprint

    capacity = _PROMPT + config.extract.sampling.max_new_tokens
    if site.scheduler == "ray":
        places = [["cuda" if site.gpus_each else "cpu"] for _ in site.places]
    else:
        places = [[pick_device(device) for device in place.split("+")] for place in site.places]
    footprint = find_footprint(config.model, places[0][0], trust_remote_code)
    sharing = sum(devices == ["cpu"] for devices in places)
    fits = []
    for place, devices in zip(site.places, places, strict=True):
        needed = footprint.least(devices[0], capacity)
        fits.append(
            Fit(place, needed, None if site.scheduler == "ray" else _free(config, devices, sharing))
        )
    return fits


def check_fit(config: Config, site: Placement, trust_remote_code: bool = False) -> None:
    """Raise ModelError when a model cannot fit where it is to be loaded."""
    refuse_unfit(config, measure_fit(config, site, trust_remote_code))


def refuse_unfit(config: Config, fits: Sequence[Fit]) -> None:
    """Raise ModelError when something does not fit."""
    short = [fit for fit in fits if not fit.fits]
    if not short:
        return
    needed = max(fit.needed for fit in short)
    raise ModelError(
        f"{config.model.name} does not fit on {', '.join(dict.fromkeys(fit.place for fit in short))}",
        cause=f"a worker needs {needed / 2**30:.1f} GiB at least, and there are "
        + ", ".join(f"{(fit.found or 0) / 2**30:.1f} for {fit.place}" for fit in short),
        fix="fewer workers on the CPU, --gpus-per-worker K, model.dtype bfloat16, or a smaller model",
    )


def _free(config: Config, devices: Sequence[str], sharing: int) -> int | None:
    """Bytes on all devices of a place; none where accelerate spreads the model, to disk if it must."""
    import torch

    if config.model.device_map:
        return None
    if list(devices) == ["cpu"]:
        return free_bytes(torch.device("cpu")) // max(1, sharing)
    return sum(free_bytes(torch.device(device)) for device in devices)
