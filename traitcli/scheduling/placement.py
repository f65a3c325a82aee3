"""Which devices were asked for, and where the workers run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """What a command is told of where to work.

    gpus         how many GPUs in all
    devices      their names, with commas between
    each         GPUs that one worker has
    ray_address  a cluster: auto, local, HOST:PORT
    """

    gpus: int | None = None
    devices: str | None = None
    each: int = 1
    scheduler: Literal["local", "ray"] = "local"
    ray_address: str = "auto"


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a command works: a place for each worker, a device or several joined by +, and what is worth saying."""

    places: tuple[str, ...]
    notes: tuple[str, ...] = ()
    scheduler: Literal["local", "ray"] = "local"
    gpus_each: int = 1
    cpus_each: int = 1
