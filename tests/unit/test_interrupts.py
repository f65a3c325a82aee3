"""Signals that arrive while a frame is drawn."""

from __future__ import annotations

import signal

import pytest

from traitcli.views.interrupts import postponed_interrupts


@pytest.fixture
def done():
    """What a block has done when it is interrupted."""
    return []


def interrupt(done, times=1):
    with postponed_interrupts():
        for _ in range(times):
            signal.raise_signal(signal.SIGINT)
        done.append("block")


def test_a_signal_waits_for_the_end_of_the_block(done):
    with pytest.raises(KeyboardInterrupt):
        interrupt(done)

    assert done == ["block"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_signal_does_not_wait(done):
    with pytest.raises(KeyboardInterrupt):
        interrupt(done, times=2)

    assert done == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_inner_block_does_not_interrupt_the_outer_one(done):
    def nested():
        with postponed_interrupts():
            interrupt(done)
            done.append("outer block")

    with pytest.raises(KeyboardInterrupt):
        nested()

    assert done == ["block", "outer block"]
