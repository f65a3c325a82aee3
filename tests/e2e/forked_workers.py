"""Starts the worker processes of a forked command without importing torch again.

`multiprocessing` starts a worker as a new interpreter, which imports torch for seconds. In a
forked command, a process forked from it at its start, when it has one thread, forks the workers
instead. A worker gets the same descriptors, arguments, variables and blocked signals, runs the
same `spawn_main`, and is a child of the command. Commands in a fresh interpreter start real ones.

    command  -- request + descriptors -->  forker  -- fork twice -->  worker
    command  <------------- pid ---------  forker                     (the command adopts it)
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import sys
from collections.abc import Sequence
from multiprocessing import util

NAME = "spawn_main"
"""The process name of a forked worker; a real one has it in its command line."""
_PR_SET_NAME, _PR_SET_CHILD_SUBREAPER = 15, 36
_LONGEST_REQUEST = 2**20
_ABOVE_ALL = 500
"""No descriptor of a test's command has so large a number."""


def fork_workers_from_here() -> bool:
    """Let this process start its workers by a fork of what it is now.

    Returns whether this is such a worker, which then must call `run_worker`.
    """
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        return _fork_for_each_request(theirs)
    theirs.close()
    # Orphans of its children become its own, so that it can wait for its workers.
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    start_interpreter = util.spawnv_passfds

    def start(path: bytes, command: Sequence[str | bytes], descriptors: Sequence[int]) -> int:
        arguments = list(map(os.fsdecode, command))
        if not any(NAME in argument for argument in arguments):
            return start_interpreter(path, command, descriptors)
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        request = {
            "arguments": arguments,
            "descriptors": list(descriptors),
            "blocked": list(map(int, blocked)),
            "env": dict(os.environ),
        }
        socket.send_fds(ours, [json.dumps(request).encode()], list(descriptors))
        return int(ours.recv(64))

    util.spawnv_passfds = start
    return False


def run_worker() -> None:
    """Run the line of code that the interpreter of a worker is started with."""
    code, sys.argv = sys.argv[1], ["-c", *sys.argv[2:]]
    exec(code, {"__name__": "__main__"})


def _fork_for_each_request(requests: socket.socket) -> bool:
    """Fork a worker for each request until the command ends; return in the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        request, received, _, _ = socket.recv_fds(requests, _LONGEST_REQUEST, 64)
        if not request:
            os._exit(0)
        reader, writer = os.pipe()
        between = os.fork()
        if between == 0:
            _prctl(_PR_SET_NAME, NAME.encode())
            worker = os.fork()
            if worker:
                os.write(writer, str(worker).encode())
                os._exit(0)
            requests.close()
            _become_worker(json.loads(request), received)
            return True
        os.waitpid(between, 0)
        for descriptor in (writer, *received):
            os.close(descriptor)
        requests.send(os.read(reader, 64))
        os.close(reader)


def _become_worker(request: dict[str, object], received: Sequence[int]) -> None:
    """Take over the descriptors, under their numbers, the variables and the blocked signals."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, request["blocked"])
    numbers = request["descriptors"]
    for number, descriptor in enumerate(received, _ABOVE_ALL):
        os.dup2(descriptor, number)
    os.closerange(3, _ABOVE_ALL)
    for number, target in enumerate(numbers, _ABOVE_ALL):
        os.dup2(number, target)
    os.closerange(_ABOVE_ALL, _ABOVE_ALL + len(numbers))
    os.environ.clear()
    os.environ.update(request["env"])
    arguments = request["arguments"]
    sys.argv = arguments[arguments.index("-c") :]


def _prctl(option: int, value: int | bytes) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
