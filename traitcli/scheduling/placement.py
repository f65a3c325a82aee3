"""Which devices a command was asked to use, and which devices its workers get."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """The device options of a command.

    gpus             how many GPUs in all
    devices          device names, separated by commas
    gpus_per_worker  GPUs that one worker uses
    ray_address      the cluster: auto, local or HOST:PORT
    """

    gpus: int | None = None
    devices: str | None = None
    gpus_per_worker: int = 1
    scheduler: Literal["local", "ray"] = "local"
    ray_address: str = "auto"


@dataclass(frozen=True, slots=True)
class Placement:
    """The devices that a command works on.

    devices  one entry for each worker: a device, or several joined by +
    notes    what the user should know about the choice
    """

    devices: tuple[str, ...]
    notes: tuple[str, ...] = ()
    scheduler: Literal["local", "ray"] = "local"
    gpus_per_worker: int = 1
    cpus_per_worker: int = 1
