"""Which devices a command works on, and how many threads each worker gets."""

from __future__ import annotations

import pytest

from traitcli.config import ModelConfig
from traitcli.errors import ModelError, UserError
from traitcli.scheduling.devices import (
    assign_gpus,
    choose_site,
    join_devices,
    mapping_told,
    place_on_cluster,
    threads_per_worker,
)
from traitcli.scheduling.placement import DeviceRequest, Placement


def model(device: str, device_map: str | None = None) -> ModelConfig:
    return ModelConfig(id="org/model", device=device, device_map=device_map)


@pytest.mark.parametrize(
    ("wanted", "found", "devices"),
    [(1, 1, ["cuda:0"]), (1, 8, ["cuda:0"]), (3, 8, ["cuda:0", "cuda:1", "cuda:2"])],
)
def test_the_first_gpus_are_taken(wanted, found, devices):
    assert assign_gpus(wanted, found) == (devices, [])


def test_without_any_gpu_the_cpu_does_the_work_and_that_is_said():
    assert assign_gpus(8, 0) == (["cpu"], ["no GPU found: --gpus 8 works on the CPU"])


def test_more_gpus_than_there_are_is_refused():
    with pytest.raises(UserError) as caught:
        assign_gpus(8, 2)

    assert str(caught.value) == (
        "error: --gpus 8, and there are 2\ncause: CUDA_VISIBLE_DEVICES may hide some\nfix:   --gpus 2"
    )


@pytest.mark.parametrize("wanted", [0, -1])
@pytest.mark.parametrize("found", [0, 2])
def test_no_gpus_cannot_be_asked_for(wanted, found):
    with pytest.raises(UserError) as caught:
        assign_gpus(wanted, found)

    assert str(caught.value) == (
        f"error: --gpus {wanted} asks for none\ncause: it is a number of GPUs\nfix:   leave it out, or give 1 or more"
    )


def test_without_a_flag_the_configured_device_is_taken():
    assert choose_site(DeviceRequest(), model("cuda:1")) == Placement(("cuda:1",))


@pytest.mark.parametrize(
    ("flag", "devices"),
    [("cpu", ["cpu"]), ("cpu,cpu", ["cpu", "cpu"]), (" cpu:0 , cpu,", ["cpu:0", "cpu"])],
)
def test_named_devices_are_taken_as_named(flag, devices):
    assert choose_site(DeviceRequest(devices=flag), model("auto")).places == tuple(devices)


@pytest.mark.parametrize("device", ["cuda:99", "tpu", "cpu:1", "cpu:x"])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(ModelError) as caught:
        choose_site(DeviceRequest(devices=f"cpu,{device}"), model("auto"))

    assert caught.value.problem == f"no device {device}"


@pytest.mark.parametrize("flag", ["", " , "])
def test_a_devices_flag_without_a_device_is_refused(flag):
    with pytest.raises(UserError) as caught:
        choose_site(DeviceRequest(devices=flag), model("auto"))

    assert caught.value.problem == "--devices names no device"


def test_both_flags_at_once_are_refused():
    with pytest.raises(UserError) as caught:
        choose_site(DeviceRequest(2, "cpu,cpu"), model("auto"))

    assert str(caught.value) == (
        "error: --gpus and --devices exclude each other\ncause: both say where to work\nfix:   give one of them"
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
    with pytest.raises(UserError, match=f"{flag} does not go with model.device_map"):
        choose_site(DeviceRequest(gpus, devices), model("auto", "auto"))

    assert choose_site(DeviceRequest(), model("auto", "auto")) == Placement(("auto",))


@pytest.mark.parametrize(
    ("count", "each", "places"),
    [
        (4, 1, ["cuda:0", "cuda:1", "cuda:2", "cuda:3"]),
        (4, 2, ["cuda:0+cuda:1", "cuda:2+cuda:3"]),
        (0, 3, []),
    ],
)
def test_a_worker_may_have_several_devices(count, each, places):
    assert join_devices([f"cuda:{index}" for index in range(count)], each) == places


def test_devices_that_do_not_come_out_even_are_refused():
    with pytest.raises(UserError) as caught:
        join_devices(["cuda:0", "cuda:1", "cuda:2"], 2)

    assert (caught.value.cause, caught.value.fix) == ("1 would be left over", "--gpus 2")


@pytest.mark.parametrize(
    ("devices", "visible", "told"),
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
def test_which_gpus_are_meant_is_told_where_they_are_renamed(devices, visible, told):
    assert mapping_told(devices, visible) == told


@pytest.mark.parametrize(
    ("wish", "cpus", "gpus", "places", "gpus_each", "cpus_each"),
    [
        (DeviceRequest(), (32, 32), 16, 16, 1, 1),
        (DeviceRequest(gpus=4), (32, 32), 16, 4, 1, 1),
        (DeviceRequest(gpus=4, each=2), (32, 32), 16, 2, 2, 1),
        (DeviceRequest(), (8, 32, 8), 0, 3, 0, 8),
        (DeviceRequest(devices="cpu,cpu"), (8,), 8, 2, 0, 4),
        (DeviceRequest(devices="cpu,cpu"), (1,), 0, 2, 0, 1),
    ],
)
def test_a_cluster_has_a_worker_for_each_gpu_or_for_each_machine(
    wish, cpus, gpus, places, gpus_each, cpus_each
):
    site = place_on_cluster(wish, cpus, gpus)

    assert (len(site.places), site.gpus_each, site.cpus_each) == (places, gpus_each, cpus_each)
    assert site.scheduler == "ray"


def test_a_cluster_without_gpus_says_so():
    assert place_on_cluster(DeviceRequest(gpus=4), (1, 1), 0).notes == (
        "no GPU in the cluster: one worker on the CPU of each of its 2 machines",
    )


def test_which_gpu_of_a_cluster_is_not_ours_to_say():
    with pytest.raises(UserError, match="--devices cuda:1 does not go with --scheduler ray"):
        place_on_cluster(DeviceRequest(devices="cuda:1"), (8, 8), 16)
