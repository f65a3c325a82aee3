"""Starts commands from a process that has imported torch, which saves seconds for each command.

Each command is a separate process with its own group, pipes or terminal, signals and exit code.
Only the imports are shared. Some tests of the terminal and of workers, and those of the wheel and
of the embedded model, start a fresh interpreter instead, so that the real start-up is tested too.

    test  -- connect, request + pipes -->  server  -- fork -->  command
    test  <-- pid, later exit status ----  server  <- SIGCHLD - command
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from types import ModuleType
from typing import IO, Any

import traitcli
from tests.e2e.forked_workers import fork_workers_from_here, run_worker

_PRELOADED = (
    "torch",
    "torch.multiprocessing",
    "transformers",
    "transformers.models.llama.modeling_llama",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "accelerate",
    "openai",
    "scipy.stats",
    "sklearn.linear_model",
    "rich.console",
    "rich.live",
    "uvicorn.protocols.http.h11_impl",
    "matplotlib.backends.backend_agg",
)
_LONGEST_REQUEST = 2**20


class ForkedCommand:
    """A running command, used like a `subprocess.Popen` with text pipes."""

    def __init__(
        self, connection: socket.socket, pid: int, pipes: tuple[IO[str], IO[str]] | tuple[()] = ()
    ) -> None:
        self.pid = pid
        self.returncode: int | None = None
        if pipes:
            self.stdout, self.stderr = pipes
        self._connection = connection

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while the command runs."""
        return self._receive(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._receive(timeout)
        if code is None:
            raise subprocess.TimeoutExpired("traitcli", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for the end of the command; return its remaining stdout and stderr."""
        found: dict[IO[str], str] = {}
        # Two threads read, because a full pipe would block the command forever.
        readers = [
            threading.Thread(
                target=lambda pipe=pipe: found.update({pipe: pipe.read()}), daemon=True
            )
            for pipe in (self.stdout, self.stderr)
        ]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join(timeout)
        for pipe in (self.stdout, self.stderr):
            pipe.close()
        return found[self.stdout], found[self.stderr]

    def _receive(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._connection], [], [], timeout)[0]:
            message = self._connection.recv(64)
            assert message, "the fork server has ended"
            self.returncode = os.waitstatus_to_exitcode(int(message))
            self._connection.close()
        return self.returncode


class ForkServer:
    """A process that forks a command for each request."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        self.env = env
        self._address = str(folder / "fork-server")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.fork_server", self._address],
            env=env | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        # The address appears when the server can be reached.
        while not Path(self._address).exists():
            assert self._process.poll() is None, "the fork server has ended"
            time.sleep(0.02)

    def start(
        self, arguments: Sequence[str], folder: Path, env: dict[str, str], stdin: bytes | None
    ) -> ForkedCommand:
        """Start `traitcli ARGUMENTS` in a folder; the bytes of `stdin` come from a pipe."""
        request = {"arguments": list(arguments), "folder": str(folder), "env": env}
        return self._start_with_pipes(request, stdin)

    def start_script(
        self, code: str, folder: Path, stdin: bytes | None = None, *, has_workers: bool = False
    ) -> ForkedCommand:
        """Start Python code in a folder; the bytes of `stdin` come from a pipe."""
        request = {"code": code, "folder": str(folder), "env": self.env, "has_workers": has_workers}
        return self._start_with_pipes(request, stdin)

    def start_in_terminal(
        self, arguments: Sequence[str], folder: Path, env: dict[str, str], terminal: int
    ) -> ForkedCommand:
        """Start `traitcli ARGUMENTS` in a folder, with a pseudo-terminal as its terminal."""
        request = {"arguments": list(arguments), "folder": str(folder), "env": env}
        return ForkedCommand(*self._send(request | {"in_terminal": True}, [terminal] * 3))

    def _send(
        self, request: dict[str, Any], descriptors: Sequence[int]
    ) -> tuple[socket.socket, int]:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(self._address)
        socket.send_fds(connection, [json.dumps(request).encode()], descriptors)
        return connection, int(connection.recv(64))

    def _start_with_pipes(self, request: dict[str, Any], stdin: bytes | None) -> ForkedCommand:
        stdout, write_stdout = os.pipe()
        stderr, write_stderr = os.pipe()
        if stdin is None:
            read_stdin = os.open(os.devnull, os.O_RDONLY)
        else:
            read_stdin, write_stdin = os.pipe()
        connection, pid = self._send(request, [read_stdin, write_stdout, write_stderr])
        # The command has its own copies. Reading would never end while ours are open.
        for descriptor in (read_stdin, write_stdout, write_stderr):
            os.close(descriptor)
        if stdin is not None:
            with os.fdopen(write_stdin, "wb") as pipe:
                pipe.write(stdin)
        pipes = (os.fdopen(stdout, encoding="utf-8"), os.fdopen(stderr, encoding="utf-8"))
        return ForkedCommand(connection, pid, pipes)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()


def serve(address: str) -> dict[str, Any]:
    """Import what commands import, then fork one for each request until SIGTERM.

    It returns the request in the forked process, which then becomes the command.
    """
    for name in (*_PRELOADED, *_own_modules()):
        # Some need a package that is not there.
        with suppress(ImportError):
            import_module(name)
    # Objects that the collector never visits are never copied into a command's memory.
    gc.collect()
    gc.freeze()
    wake_up, wake_up_writer = socket.socketpair()
    for end in (wake_up, wake_up_writer):
        end.setblocking(False)
    signal.set_wakeup_fd(wake_up_writer.fileno())
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    listener = socket.socket(socket.AF_UNIX)
    # A bound socket refuses connections until it listens, so it gets its name last.
    listener.bind(f"{address}.new")
    listener.listen(16)
    Path(f"{address}.new").rename(address)
    running: dict[int, socket.socket] = {}
    while True:
        readable, _, _ = select.select([listener, wake_up], [], [])
        if wake_up in readable:
            wake_up.recv(4096)
            _report_ended(running)
        if listener in readable:
            connection, _ = listener.accept()
            request, pipes, _, _ = socket.recv_fds(connection, _LONGEST_REQUEST, 3)
            pid = os.fork()
            if pid == 0:
                _become_command(asked := json.loads(request), pipes)
                return asked
            for pipe in pipes:
                os.close(pipe)
            running[pid] = connection
            connection.send(str(pid).encode())


def _own_modules() -> Iterator[str]:
    """The modules of traitcli and the stand-ins, but not what only another program starts."""
    for module in walk_packages(traitcli.__path__, "traitcli."):
        if not module.name.startswith(("traitcli.__main__", "traitcli.inspect_scanner")):
            yield module.name
    yield "benchmarks.stand_in"


def _report_ended(running: dict[int, socket.socket]) -> None:
    for pid in list(running):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            connection = running.pop(pid)
            # A test that failed may have dropped its command.
            with suppress(OSError):
                connection.send(str(status).encode())
            connection.close()


def _become_command(request: dict[str, Any], pipes: Sequence[int]) -> None:
    """Take over the streams, signals, folder, environment and arguments of a command."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for descriptor, pipe in enumerate(pipes):
        os.dup2(pipe, descriptor)
    # The server's own stdout was a file: its object believes that it can seek.
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    # Close every other descriptor: a reader waits until all copies of a pipe are closed.
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["folder"])
    sys.path[0] = request["folder"]
    sys.argv = ["traitcli", *request.get("arguments", ())]
    if request.get("in_terminal"):
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _run(request: dict[str, Any]) -> None:
    has_workers = request.get("has_workers", "--devices" in sys.argv)
    if has_workers and fork_workers_from_here():
        run_worker()
    elif "code" in request:
        main = sys.modules["__main__"] = ModuleType("__main__")
        exec(request["code"], vars(main))
    else:
        # The name matters: a worker process imports the main module of its parent again.
        runpy.run_module("traitcli", run_name="__main__", alter_sys=True)


def _end(code: object) -> None:
    """End as the interpreter does, but without freeing every object of torch one by one.

    Returns if it takes more than that to tell how the command has ended.
    """
    if code is not None and not isinstance(code, int):
        return
    threading._shutdown()
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        return
    os._exit((code or 0) & 0xFF)


if __name__ == "__main__":
    try:
        _run(serve(sys.argv[1]))
    except SystemExit as ended:
        _end(ended.code)
        raise
    _end(0)
