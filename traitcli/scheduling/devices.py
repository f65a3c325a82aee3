"""Chooses the devices of a command and divides them among its workers."""

from __future__ import annotations

import os
from collections.abc import Sequence

from traitcli.config import ModelConfig
from traitcli.errors import UserError
from traitcli.models.devices import pick_device
from traitcli.scheduling.placement import DeviceRequest, Placement


def choose_placement(request: DeviceRequest, model: ModelConfig) -> Placement:
    """Find the devices for a command; with Ray, join the cluster.

    Raises UserError if options contradict each other or a device does not exist.
    """
    _check_request(request, model)
    if request.scheduler == "ray":
        from traitcli.scheduling.ray import join_cluster

        cluster = join_cluster(request.ray_address)
        return place_on_cluster(request, cluster.cpus, cluster.gpus)

    notes: list[str] = []
    if request.devices is not None:
        devices = [pick_device(name) for name in _split_names(request.devices)]
    # No option names a device, so the config decides.
    elif request.gpus is None and request.gpus_per_worker == 1:
        return Placement((model.device,))
    else:
        found = _count_gpus()
        # --gpus-per-worker alone means all GPUs.
        wanted = request.gpus if request.gpus is not None else found or 1
        devices, notes = pick_gpus(wanted, found)

    each = request.gpus_per_worker
    # A machine without a GPU has one CPU worker, whatever --gpus-per-worker asks for.
    workers = devices if devices == ["cpu"] else group_devices(devices, each)
    renamed = visible_gpu_notes(devices, os.environ.get("CUDA_VISIBLE_DEVICES"))
    return Placement(tuple(workers), (*notes, *renamed), gpus_per_worker=each)


def place_on_cluster(request: DeviceRequest, cpus: Sequence[int], gpus: int) -> Placement:
    """One entry for each worker of a cluster; Ray chooses its machine and device later.

    cpus  the number of CPUs of each machine

    Without --gpus and --devices all GPUs are used; without a GPU, the CPU of every machine.
    """
    if request.devices is not None:
        names = _split_names(request.devices)
        if set(names) != {"cpu"}:
            raise UserError(
                f"--devices {request.devices} cannot be used with --scheduler ray",
                cause="Ray chooses the GPU of each worker",
                fix="use --gpus N, or name one cpu for each worker: --devices cpu,cpu",
            )
        return _place_on_cluster_cpus(len(names), cpus, ())
    if gpus == 0:
        machines = len(cpus)
        note = f"no GPU in the cluster: one worker on the CPU of each of its {machines} machines"
        return _place_on_cluster_cpus(machines, cpus, (note,))

    each = request.gpus_per_worker
    devices, notes = pick_gpus(gpus if request.gpus is None else request.gpus, gpus)
    workers = len(group_devices(devices, each))
    return Placement(_ray_names(workers), tuple(notes), "ray", each)


def _place_on_cluster_cpus(workers: int, cpus: Sequence[int], notes: tuple[str, ...]) -> Placement:
    """Divide the cores evenly; a worker cannot have more than the smallest machine has."""
    each = max(1, min(*cpus, sum(cpus) // workers))
    return Placement(_ray_names(workers), notes, "ray", 0, each)


def _ray_names(workers: int) -> tuple[str, ...]:
    return tuple(f"ray-{index}" for index in range(workers))


def pick_gpus(wanted: int, found: int) -> tuple[list[str], list[str]]:
    """The first `wanted` of `found` GPUs and no notes; without a GPU, the CPU and a note."""
    if wanted < 1:
        raise UserError(
            "--gpus must be at least 1",
            cause=f"it is {wanted}",
            fix="pass the number of GPUs to use, or leave the option out",
        )

    # Only a note, so that a command for a GPU machine also runs on a laptop.
    if found == 0:
        return ["cpu"], [f"no GPU found: --gpus {wanted} uses the CPU"]
    if wanted > found:
        raise UserError(
            f"--gpus {wanted}, but only {found} GPUs are visible",
            cause="CUDA_VISIBLE_DEVICES may hide some",
            fix=f"--gpus {found}",
        )
    return [f"cuda:{index}" for index in range(wanted)], []


def group_devices(devices: Sequence[str], each: int) -> list[str]:
    """Join neighboring devices, `each` for one worker; raises UserError if some are left over."""
    left_over = len(devices) % each
    if left_over:
        raise UserError(
            f"{len(devices)} devices cannot be divided into workers of {each}",
            cause=f"{left_over} would be left over",
            fix=f"--gpus {len(devices) - left_over or each}",
        )
    return ["+".join(devices[start : start + each]) for start in range(0, len(devices), each)]


def visible_gpu_notes(devices: Sequence[str], visible: str | None) -> list[str]:
    """Say which GPUs of the machine are used if CUDA_VISIBLE_DEVICES renumbers them."""
    names = [name.strip() for name in (visible or "").split(",") if name.strip()]
    renamed = []
    for device in devices:
        kind, _, index = device.partition(":")
        if kind == "cuda" and int(index or 0) < len(names):
            renamed.append(f"cuda:{int(index or 0)} is GPU {names[int(index or 0)]}")
    return [f"CUDA_VISIBLE_DEVICES={visible}: {', '.join(renamed)}"] if renamed else []


def threads_per_worker(devices: Sequence[str], cores: int) -> int | None:
    """CPU workers divide the cores; None if each can keep torch's default."""
    # By default each process uses all cores, so several would compete for them.
    workers = sum(device.startswith("cpu") for device in devices)
    return max(1, cores // workers) if workers > 1 else None


def _check_request(request: DeviceRequest, model: ModelConfig) -> None:
    if model.device_map:
        _check_device_map(request)

    if request.gpus is not None and request.devices is not None:
        raise UserError(
            "--gpus and --devices exclude each other",
            cause="both choose the devices",
            fix="use one of them",
        )

    if request.gpus_per_worker < 1:
        raise UserError(
            "--gpus-per-worker must be at least 1",
            cause=f"it is {request.gpus_per_worker}",
            fix="pass the number of GPUs that one worker uses, or leave the option out",
        )

    if request.gpus_per_worker > 1 and request.devices is not None and "cpu" in request.devices:
        raise UserError(
            "--gpus-per-worker cannot be used with CPUs",
            cause=f"--devices is {request.devices}",
            fix="name only GPUs, or leave --gpus-per-worker out",
        )


def _check_device_map(request: DeviceRequest) -> None:
    option = None
    if request.scheduler == "ray":
        option = "--scheduler ray"
    elif request.gpus is not None:
        option = "--gpus"
    elif request.devices is not None:
        option = "--devices"
    if option:
        raise UserError(
            f"{option} cannot be used with model.device_map",
            cause="model.device_map spreads one model over all devices, so there is one worker",
            fix="remove model.device_map; --gpus-per-worker K gives every worker K devices",
        )


def _split_names(devices: str) -> list[str]:
    names = [name.strip() for name in devices.split(",") if name.strip()]
    if not names:
        raise UserError(
            "--devices names no device",
            cause=f"it is {devices!r}",
            fix="for example --devices cuda:0,cuda:1 or --devices cpu,cpu",
        )
    return names


def _count_gpus() -> int:
    # Imported here: torch takes two seconds to import.
    import torch

    return torch.cuda.device_count()
