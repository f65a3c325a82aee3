"""The devices of a command and the threads of each worker."""

from __future__ import annotations

import pytest

from traitcli.config import ModelConfig
from traitcli.errors import ModelError, UserError
from traitcli.scheduling.devices import (
    choose_placement,
    group_devices,
    pick_gpus,
    place_on_cluster,
    threads_per_worker,
    visible_gpu_notes,
)
from traitcli.scheduling.placement import DeviceRequest, Placement


def model(device: str, device_map: str | None = None) -> ModelConfig:
    return ModelConfig(id="org/model", device=device, device_map=device_map)


@pytest.mark.parametrize(
    ("wanted", "found", "devices"),
    [(1, 1, ["cuda:0"]), (1, 8, ["cuda:0"]), (3, 8, ["cuda:0", "cuda:1", "cuda:2"])],
)
def test_the_first_gpus_are_taken(wanted, found, devices):
    assert pick_gpus(wanted, found) == (devices, [])


def test_without_any_gpu_the_cpu_is_used_with_a_note():
    assert pick_gpus(8, 0) == (["cpu"], ["no GPU found: --gpus 8 uses the CPU"])


def test_more_gpus_than_are_visible_are_refused():
    with pytest.raises(UserError) as caught:
        pick_gpus(8, 2)

    assert str(caught.value) == (
        "error: --gpus 8, but only 2 GPUs are visible\n"
        "cause: CUDA_VISIBLE_DEVICES may hide some\n"
        "fix:   --gpus 2"
    )


@pytest.mark.parametrize("wanted", [0, -1])
@pytest.mark.parametrize("found", [0, 2])
def test_fewer_gpus_than_one_are_refused(wanted, found):
    with pytest.raises(UserError) as caught:
        pick_gpus(wanted, found)

    assert str(caught.value) == (
        "error: --gpus must be at least 1\n"
        f"cause: it is {wanted}\n"
        "fix:   pass the number of GPUs to use, or leave the option out"
    )


def test_without_a_flag_the_configured_device_is_taken():
    assert choose_placement(DeviceRequest(), model("cuda:1")) == Placement(("cuda:1",))


@pytest.mark.parametrize(
    ("flag", "devices"),
    [("cpu", ["cpu"]), ("cpu,cpu", ["cpu", "cpu"]), (" cpu:0 , cpu,", ["cpu:0", "cpu"])],
)
def test_named_devices_are_taken_as_named(flag, devices):
    assert choose_placement(DeviceRequest(devices=flag), model("auto")).devices == tuple(devices)


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "cpu:1", "cpu:x"])
def test_a_device_that_does_not_exist_is_refused(device):
    with pytest.raises(ModelError) as caught:
        choose_placement(DeviceRequest(devices=f"cpu,{device}"), model("auto"))

    assert caught.value.problem == f"no device {device}"


@pytest.mark.parametrize("flag", ["", " , "])
def test_a_devices_flag_without_a_device_is_refused(flag):
    with pytest.raises(UserError) as caught:
        choose_placement(DeviceRequest(devices=flag), model("auto"))

    assert caught.value.problem == "--devices names no device"


def test_both_flags_at_once_are_refused():
    with pytest.raises(UserError) as caught:
        choose_placement(DeviceRequest(2, "cpu,cpu"), model("auto"))

    assert str(caught.value) == (
        "error: --gpus and --devices exclude each other\n"
        "cause: both choose the devices\n"
        "fix:   use one of them"
    )


@pytest.mark.parametrize(
    ("devices", "cores", "threads"),
    [
        (["cpu", "cpu"], 8, 4),
        (["cpu"] * 3, 8, 2),
        (["cpu", "cpu:0", "cuda:0"], 8, 4),
        (["cpu"] * 8, 2, 1),
    ],
)
def test_workers_on_the_cpu_share_its_cores(devices, cores, threads):
    assert threads_per_worker(devices, cores) == threads


@pytest.mark.parametrize("devices", [["cpu"], ["cuda:0", "cuda:1"], ["cpu", "cuda:0"]])
def test_a_worker_that_has_the_cpu_to_itself_keeps_its_default(devices):
    assert threads_per_worker(devices, 8) is None


@pytest.mark.parametrize(
    ("gpus", "devices", "flag"), [(2, None, "--gpus"), (None, "cpu,cpu", "--devices")]
)
def test_a_model_that_is_spread_over_all_devices_has_one_worker(gpus, devices, flag):
    with pytest.raises(UserError, match=f"{flag} cannot be used with model.device_map"):
        choose_placement(DeviceRequest(gpus, devices), model("auto", "auto"))

    assert choose_placement(DeviceRequest(), model("auto", "auto")) == Placement(("auto",))


@pytest.mark.parametrize(
    ("count", "each", "workers"),
    [
        (4, 1, ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        (4, 2, ["cuda:0+cuda:1", "cuda:2+cuda:3"]),
        (0, 3, []),
    ],
)
def test_a_worker_may_have_several_devices(count, each, workers):
    assert group_devices([f"cuda:{index}" for index in range(count)], each) == workers


def test_devices_that_cannot_be_divided_evenly_are_refused():
    with pytest.raises(UserError) as caught:
        group_devices(["cuda:0", "cuda:1", "cuda:2"], 2)

    assert (caught.value.cause, caught.value.fix) == ("1 would be left over", "--gpus 2")


@pytest.mark.parametrize(
    ("devices", "visible", "notes"),
    [
        (
            ["cuda:0", "cuda:1"],
            "3,5",
            ["CUDA_VISIBLE_DEVICES=3,5: cuda:0 is GPU 3, cuda:1 is GPU 5"],
        ),
        (["cuda:1"], "3, 5", ["CUDA_VISIBLE_DEVICES=3, 5: cuda:1 is GPU 5"]),
        (["cuda"], "7", ["CUDA_VISIBLE_DEVICES=7: cuda:0 is GPU 7"]),
        (["cuda:0"], None, []),
        (["cuda:0"], "", []),
        (["cpu", "cpu"], "3,5", []),
    ],
)
def test_renumbered_gpus_have_a_note_with_their_numbers(devices, visible, notes):
    assert visible_gpu_notes(devices, visible) == notes


@pytest.mark.parametrize(
    ("asked", "cpus", "gpus", "workers", "gpus_per_worker", "cpus_per_worker"),
    [
        (DeviceRequest(), (32, 32), 16, 16, 1, 1),
        (DeviceRequest(gpus=4), (32, 32), 16, 4, 1, 1),
        (DeviceRequest(gpus=4, gpus_per_worker=2), (32, 32), 16, 2, 2, 1),
        (DeviceRequest(), (8, 32, 8), 0, 3, 0, 8),
        (DeviceRequest(devices="cpu,cpu"), (8,), 8, 2, 0, 4),
        (DeviceRequest(devices="cpu,cpu"), (1,), 0, 2, 0, 1),
    ],
)
def test_a_cluster_has_a_worker_for_each_gpu_or_for_each_machine(
    asked, cpus, gpus, workers, gpus_per_worker, cpus_per_worker
):
    placement = place_on_cluster(asked, cpus, gpus)

    assert (len(placement.devices), placement.gpus_per_worker, placement.cpus_per_worker) == (
        workers,
        gpus_per_worker,
        cpus_per_worker,
    )
    assert placement.scheduler == "ray"


def test_a_cluster_without_gpus_has_a_note():
    assert place_on_cluster(DeviceRequest(gpus=4), (1, 1), 0).notes == (
        "no GPU in the cluster: one worker on the CPU of each of its 2 machines",
    )


def test_the_gpu_of_a_cluster_cannot_be_chosen():
    with pytest.raises(UserError, match="--devices cuda:1 cannot be used with --scheduler ray"):
        place_on_cluster(DeviceRequest(devices="cuda:1"), (8, 8), 16)


@pytest.mark.parametrize("count", [0, -2])
def test_a_worker_with_no_gpus_is_refused(count):
    with pytest.raises(UserError) as caught:
        choose_placement(DeviceRequest(gpus_per_worker=count), model("auto"))

    assert (caught.value.problem, caught.value.cause) == (
        "--gpus-per-worker must be at least 1",
        f"it is {count}",
    )
