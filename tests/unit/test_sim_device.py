"""The pretend accelerator behaves like CUDA where tests rely on it."""

from __future__ import annotations

import pytest
import torch

from tests.sim_device import simulated


@pytest.fixture
def log():
    with simulated() as log:
        yield log


def test_results_are_those_of_the_cpu(log):
    rows = torch.arange(12.0).view(3, 4)

    found = torch.softmax(rows.to("sim:0") @ rows.T.to("sim:0"), 1)

    assert found.device == torch.device("sim:0")
    assert torch.equal(found.cpu(), torch.softmax(rows @ rows.T, 1))


@pytest.mark.parametrize("other", ["cpu", "sim:1"])
def test_devices_do_not_mix(log, other):
    here, there = torch.ones(3, device="sim:0"), torch.ones(3, device=other)

    with pytest.raises(RuntimeError, match="to be on the same device"):
        here + there
    with pytest.raises(RuntimeError, match="to be on the same device"):
        torch.cat([here, there])


def test_a_single_number_of_the_cpu_mixes_with_everything(log):
    found = torch.ones(3, device="sim:1") * torch.tensor(2.0)

    assert found.tolist() == [2, 2, 2]


@pytest.mark.parametrize("other", ["cpu", "sim:0"])
def test_an_index_may_be_on_the_cpu_but_not_on_another_device(log, other):
    rows, index = torch.arange(4.0, device="sim:1"), torch.tensor([2, 0], device=other)
    log.take()

    if other == "cpu":
        found = rows[index]
        assert log.take().count("upload") == 1
        assert found.tolist() == [2, 0]
    else:
        with pytest.raises(RuntimeError, match="to be on the same device"):
            rows[index]


def test_numpy_needs_a_copy_first(log):
    with pytest.raises(TypeError, match="can't convert sim:0 device type tensor"):
        torch.ones(2, device="sim:0").numpy()


def test_a_view_shares_its_numbers(log):
    rows = torch.zeros(2, 3, device="sim:0")

    rows[1][:2] = 7

    assert rows.tolist() == [[0, 0, 0], [7, 7, 0]]


EVENTS = {
    "make a tensor from numbers": (lambda x: torch.tensor([1], device="sim:0"), "upload"),
    "copy to the device": (lambda x: torch.ones(2).to("sim:0"), "upload"),
    "copy to another device": (lambda x: x.to("sim:1"), "launch"),
    "add": (lambda x: x + x, "launch"),
    "fill": (lambda x: torch.zeros(3, device="sim:0"), "launch"),
    "multiply matrices": (lambda x: torch.matmul(x, x), "launch"),
    "look at a number": (lambda x: x[0].item(), "download"),
    "decide": (lambda x: bool(x[0] > 0), "download"),
    "list": (lambda x: x.tolist(), "download"),
    "copy to the CPU": (lambda x: x.cpu(), "download"),
    "choose by a mask": (lambda x: x[x > 0], "wait"),
    "find unique numbers": (torch.unique_consecutive, "wait"),
    "repeat by numbers of the device": (lambda x: x.repeat_interleave(x.long()), "wait"),
    "make no tensor": (lambda x: x[:2].view(2), None),
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("what", EVENTS)
def test_what_takes_time_is_logged(log, what, inference):
    run, kind = EVENTS[what]
    numbers = torch.ones(4, device="sim:0")
    log.take()

    with torch.inference_mode(inference):
        run(numbers)

    counts = {kind: log.count(kind) for kind in ("upload", "download", "wait") if log.count(kind)}
    if kind in ("upload", "download", "wait"):
        assert counts == {kind: 1}
        assert log.waits == (kind != "upload")
    else:
        assert counts == {}
        assert log.count("launch") == (kind == "launch")
