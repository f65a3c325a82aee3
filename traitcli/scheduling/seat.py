"""Puts a worker at its place, whatever crew it is of."""

from __future__ import annotations

from traitcli.config import Config
from traitcli.stages.tasks import Tell
from traitcli.stages.worker import Worker


def renumber(gpus: int) -> str:
    """The place of a process that sees so many GPUs and no others; without one it is the CPU."""
    return "+".join(f"cuda:{index}" for index in range(gpus)) or "cpu"


def seat_worker(config: Config, place: str, trust_remote_code: bool, tell: Tell) -> Worker:
    """A worker on its device, or with its model spread over all that its process sees, where they are several."""
    if "+" not in place:
        return Worker(config, place, tell, trust_remote_code)
    model = config.model.model_copy(update={"device_map": "auto"})
    return Worker(config.model_copy(update={"model": model}), "auto", tell, trust_remote_code)
