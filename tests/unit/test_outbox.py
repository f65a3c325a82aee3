"""The outbox: order, waiting, errors of its thread, and what is on its way when a worker stops."""

from __future__ import annotations

import threading

import pytest

from traitcli.pipeline.messages import LogWritten
from traitcli.scheduling.outbox import Outbox


def messages(count):
    return [LogWritten(str(number)) for number in range(count)]


class Gate:
    """Delivers nothing before it is opened."""

    def __init__(self):
        self.delivered = []
        self.opened = threading.Event()

    def __call__(self, message):
        self.opened.wait()
        self.delivered.append(message)


def test_messages_are_delivered_in_order_before_close_returns():
    gate = Gate()
    outbox = Outbox(gate)
    for message in messages(20):
        outbox.send(message)
    on_their_way = list(gate.delivered)
    gate.opened.set()

    outbox.close()

    assert on_their_way == []
    assert gate.delivered == messages(20)
    assert outbox.waits == 0


def test_a_full_outbox_makes_the_sender_wait_and_counts_it():
    gate = Gate()
    outbox = Outbox(gate, limit=2)

    def send_all():
        for message in messages(6):
            outbox.send(message)

    sender = threading.Thread(target=send_all)
    sender.start()
    while not outbox.waits:
        threading.Event().wait(0.001)
    was_waiting = sender.is_alive()
    gate.opened.set()
    sender.join()
    outbox.close()

    assert was_waiting
    assert gate.delivered == messages(6)
    assert 1 <= outbox.waits <= 4


@pytest.mark.parametrize("error", [OSError("no room"), SystemExit(1)])
def test_an_error_of_the_thread_is_raised_where_the_worker_sends(error):
    failed = threading.Event()

    def fail(message):
        failed.set()
        raise error

    outbox = Outbox(fail)
    outbox.send(LogWritten("a"))
    failed.wait()

    with pytest.raises(type(error)) as raised:
        # At the latest when the queue is empty again.
        outbox.close()
    with pytest.raises(type(error)):
        outbox.send(LogWritten("b"))

    assert raised.value is error


def test_a_sender_that_waits_for_room_goes_on_after_an_error():
    gate = threading.Event()

    def fail(message):
        gate.wait()
        raise OSError("no room")

    outbox = Outbox(fail, limit=1)
    caught = []

    def send_all():
        try:
            for message in messages(9):
                outbox.send(message)
        except OSError as error:
            caught.append(error)

    sender = threading.Thread(target=send_all)
    sender.start()
    while not outbox.waits:
        threading.Event().wait(0.001)
    gate.set()
    sender.join(10)

    assert not sender.is_alive()
    assert len(caught) == 1
