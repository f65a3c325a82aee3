"""Decides which devices a command works on."""

from __future__ import annotations

from collections.abc import Sequence

from traitcli.config import ModelConfig
from traitcli.errors import UserError
from traitcli.models.load import pick_device


def choose_devices(gpus: int | None, devices: str | None, model: ModelConfig) -> tuple[list[str], list[str]]:
    """The devices for `--gpus N`, `--devices a,b` or the config, and notes worth saying.

    Raises UserError when both flags are given, or a device is asked for that is not there.
    """
    if model.device_map and (gpus is not None or devices is not None):
        raise UserError(
            f"{'--devices' if gpus is None else '--gpus'} does not go with model.device_map",
            cause="one model takes all devices, so there is one worker",
            fix="leave the option out; CUDA_VISIBLE_DEVICES says which GPUs are taken",
        )
    if gpus is not None and devices is not None:
        raise UserError(
            "--gpus and --devices exclude each other", cause="both say where to work", fix="give one of them"
        )
    if devices is not None:
        named = [name.strip() for name in devices.split(",") if name.strip()]
        if not named:
            raise UserError(
                "--devices names no device",
                cause="nothing stands between its commas",
                fix="for example --devices cuda:0,cuda:1 or --devices cpu,cpu",
            )
        return [pick_device(name) for name in named], []
    if gpus is None:
        return [model.device], []
    return assign_gpus(gpus, _count_gpus())


def assign_gpus(wanted: int, found: int) -> tuple[list[str], list[str]]:
    """The first `wanted` of `found` GPUs; with none at all, the CPU, and a note that says so."""
    if wanted < 1:
        raise UserError(
            f"--gpus {wanted} asks for none", cause="it is a number of workers", fix="leave it out, or give 1 or more"
        )
    if found == 0:
        return ["cpu"], [f"no GPU found: --gpus {wanted} works on the CPU"]
    if wanted > found:
        raise UserError(
            f"--gpus {wanted}, and there are {found}", cause="CUDA_VISIBLE_DEVICES may hide some", fix=f"--gpus {found}"
        )
    return [f"cuda:{index}" for index in range(wanted)], []


def threads_per_worker(devices: Sequence[str], cores: int) -> int | None:
    """CPU workers share the cores; None where each may keep its default."""
    workers = sum(device.startswith("cpu") for device in devices)
    return max(1, cores // workers) if workers > 1 else None


def _count_gpus() -> int:
    import torch

    return torch.cuda.device_count()
