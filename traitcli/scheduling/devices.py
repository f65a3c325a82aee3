"""Decides where a command works: which devices, how many of them a worker has, and what is said of it."""

from __future__ import annotations

import os
from collections.abc import Sequence

from traitcli.config import ModelConfig
from traitcli.errors import UserError
from traitcli.models.devices import pick_device
from traitcli.scheduling.placement import DeviceRequest, Placement


def choose_site(wish: DeviceRequest, model: ModelConfig) -> Placement:
    """Find what a command is to work on; for Ray, the cluster is joined.

    Raises UserError when options contradict each other, or a device is asked for that is not there.
    """
    _check(wish, model)
    if wish.scheduler == "ray":
        from traitcli.scheduling.ray import join_cluster

        cluster = join_cluster(wish.ray_address)
        return place_on_cluster(wish, cluster.cpus, cluster.gpus)
    if wish.devices is not None:
        devices = [pick_device(name) for name in _named(wish.devices)]
        notes: list[str] = []
    elif wish.gpus is None and wish.each == 1:
        return Placement((model.device,))
    else:
        found = _count_gpus()
        devices, notes = assign_gpus(found or 1 if wish.gpus is None else wish.gpus, found)
    places = join_devices(devices, wish.each) if devices != ["cpu"] else devices
    mapped = mapping_told(devices, os.environ.get("CUDA_VISIBLE_DEVICES"))
    return Placement(tuple(places), (*notes, *mapped), gpus_each=wish.each)


def place_on_cluster(wish: DeviceRequest, cpus: Sequence[int], gpus: int) -> Placement:
    """A place for each worker of a cluster; its machine and device are known when its actor is there.

    cpus  of each machine

    With neither --gpus nor --devices all GPUs are used, or where there are none, every machine's CPU.
    """
    if wish.devices is not None:
        named = _named(wish.devices)
        if set(named) != {"cpu"}:
            raise UserError(
                f"--devices {wish.devices} does not go with --scheduler ray",
                cause="which GPU a worker has is Ray's to say",
                fix="--gpus N, or one cpu for each worker: --devices cpu,cpu",
            )
        return _cluster_cpus(len(named), cpus, ())
    if gpus == 0:
        told = f"no GPU in the cluster: one worker on the CPU of each of its {len(cpus)} machines"
        return _cluster_cpus(len(cpus), cpus, (told,))
    devices, notes = assign_gpus(gpus if wish.gpus is None else wish.gpus, gpus)
    workers = len(join_devices(devices, wish.each))
    return Placement(tuple(f"ray-{i}" for i in range(workers)), tuple(notes), "ray", wish.each)


def _cluster_cpus(workers: int, cpus: Sequence[int], notes: tuple[str, ...]) -> Placement:
    """Workers that share the cores, none more than the smallest machine has."""
    each = max(1, min(*cpus, sum(cpus) // workers))
    return Placement(tuple(f"ray-{i}" for i in range(workers)), notes, "ray", 0, each)


def assign_gpus(wanted: int, found: int) -> tuple[list[str], list[str]]:
    """The first `wanted` of `found` GPUs; with none at all, the CPU, and a note that says so."""
    if wanted < 1:
        raise UserError(
            f"--gpus {wanted} asks for none",
            cause="it is a number of GPUs",
            fix="leave it out, or give 1 or more",
        )
    if found == 0:
        return ["cpu"], [f"no GPU found: --gpus {wanted} works on the CPU"]
    if wanted > found:
        raise UserError(
            f"--gpus {wanted}, and there are {found}",
            cause="CUDA_VISIBLE_DEVICES may hide some",
            fix=f"--gpus {found}",
        )
    return [f"cuda:{index}" for index in range(wanted)], []


def join_devices(devices: Sequence[str], each: int) -> list[str]:
    """Neighbours together, `each` for one worker; raises UserError when that does not come out even."""
    if len(devices) % each:
        raise UserError(
            f"{len(devices)} devices cannot be shared out, {each} for each worker",
            cause=f"{len(devices) % each} would be left over",
            fix=f"--gpus {len(devices) // each * each or each}",
        )
    return ["+".join(devices[start : start + each]) for start in range(0, len(devices), each)]


def mapping_told(devices: Sequence[str], visible: str | None) -> list[str]:
    """Which GPUs of the machine are meant, where CUDA_VISIBLE_DEVICES renames them."""
    named = [name.strip() for name in (visible or "").split(",") if name.strip()]
    indices = [
        int(device.partition(":")[2] or 0) for device in devices if device.startswith("cuda")
    ]
    known = [f"cuda:{index} is GPU {named[index]}" for index in indices if index < len(named)]
    return [f"CUDA_VISIBLE_DEVICES={visible}: {', '.join(known)}"] if known else []


def threads_per_worker(places: Sequence[str], cores: int) -> int | None:
    """CPU workers share the cores; None where each may keep its default."""
    workers = sum(place.startswith("cpu") for place in places)
    return max(1, cores // workers) if workers > 1 else None


def _check(wish: DeviceRequest, model: ModelConfig) -> None:
    flag = "--devices" if wish.gpus is None else "--gpus"
    if model.device_map and (
        wish.gpus is not None or wish.devices is not None or wish.scheduler == "ray"
    ):
        raise UserError(
            f"{flag if wish.scheduler == 'local' else '--scheduler ray'} does not go with model.device_map",
            cause="one model takes all devices, so there is one worker",
            fix="leave model.device_map out; --gpus-per-worker K gives every worker K devices",
        )
    if wish.gpus is not None and wish.devices is not None:
        raise UserError(
            "--gpus and --devices exclude each other",
            cause="both say where to work",
            fix="give one of them",
        )
    if wish.each < 1:
        raise UserError(
            f"--gpus-per-worker {wish.each} is no number of devices",
            cause="a worker needs one",
            fix="give 1 or more",
        )
    if wish.each > 1 and wish.devices is not None and "cpu" in wish.devices:
        raise UserError(
            "--gpus-per-worker does not go with CPUs",
            cause="a model is spread over GPUs",
            fix="name GPUs only, or leave it out",
        )


def _named(devices: str) -> list[str]:
    named = [name.strip() for name in devices.split(",") if name.strip()]
    if not named:
        raise UserError(
            "--devices names no device",
            cause="nothing stands between its commas",
            fix="for example --devices cuda:0,cuda:1 or --devices cpu,cpu",
        )
    return named


def _count_gpus() -> int:
    import torch

    return torch.cuda.device_count()
