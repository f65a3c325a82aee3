"""Messages through a pipe: arrays arrive as they were, and are not part of the pickled text."""

from __future__ import annotations

import multiprocessing
import os
import threading

import numpy as np
import pytest

from traitcli.pipeline.messages import Heartbeat, ResponsesRead
from traitcli.runs.states import stack_neutral
from traitcli.scheduling import transport
from traitcli.scheduling.transport import receive_message, send_message


@pytest.fixture(params=[True, False], autouse=True)
def reads_into_memory(request, monkeypatch):
    """Both ways to read a pipe: that of Windows works here too."""
    monkeypatch.setattr(transport, "_READS_INTO_MEMORY", request.param)


def carried(message):
    ours, theirs = multiprocessing.Pipe()
    sender = threading.Thread(target=send_message, args=(theirs, message))
    sender.start()
    received = receive_message(ours)
    sender.join()
    return received


def test_a_message_without_arrays_arrives():
    assert carried(Heartbeat(1, 2, 3)) == Heartbeat(1, 2, 3)


@pytest.mark.parametrize("half", [False, True])
def test_states_arrive_as_they_were(half):
    rng = np.random.default_rng(0)
    states = {f"r{n}": rng.normal(size=(33, 512)).astype(np.float32) for n in range(5)}
    sent = stack_neutral("evil", states, half).pack()

    received = carried(ResponsesRead(sent.ids, sent))

    assert received.ids == sent.ids
    assert received.states.tensors.keys() == sent.tensors.keys()
    for name, tensor in sent.tensors.items():
        np.testing.assert_array_equal(received.states.tensors[name], tensor)


def test_empty_arrays_and_arrays_that_are_not_contiguous_arrive():
    sent = {"empty": np.zeros((0, 3)), "columns": np.arange(12).reshape(3, 4)[:, 1]}

    received = carried(sent)

    assert received["empty"].shape == (0, 3)
    assert received["columns"].tolist() == [1, 5, 9]


def test_arrays_travel_beside_the_pickled_message():
    ours, theirs = multiprocessing.Pipe()
    states = np.zeros((16, 33, 64), np.float32)
    sender = threading.Thread(target=send_message, args=(theirs, states))
    sender.start()

    pickled, sizes = ours.recv()

    assert sizes == [states.nbytes]
    assert len(pickled) < 500
    rest = states.nbytes
    while rest > 0:
        rest -= len(os.read(ours.fileno(), rest))
    sender.join()


def test_a_sender_that_ends_in_the_middle_of_a_message_is_noticed():
    ours, theirs = multiprocessing.Pipe()
    theirs.send((b"", [1000]))
    theirs.close()

    with pytest.raises((EOFError, OSError)):
        receive_message(ours)
