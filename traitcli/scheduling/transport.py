"""Sends messages through a pipe; arrays in them are neither pickled nor copied on their way."""

from __future__ import annotations

import pickle
from typing import Any


def send_message(pipe: Any, message: Any) -> None:
    """Send a message; raises ConnectionError if nobody reads. One thread may send at a time."""
    buffers: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    pipe.send((pickled, [view.nbytes for view in views]))
    for view in views:
        if view.nbytes:
            pipe.send_bytes(view)


def receive_message(pipe: Any) -> Any:
    """Wait for a message; raises EOFError or OSError if the sender has ended."""
    pickled, sizes = pipe.recv()
    buffers = [bytearray(size) for size in sizes]
    for buffer in buffers:
        if buffer:
            pipe.recv_bytes_into(buffer)
    return pickle.loads(pickled, buffers=buffers)  # noqa: S301 - from a process of our own
