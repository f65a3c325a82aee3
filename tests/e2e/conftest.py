"""Working folders in which the real command runs in its own processes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.e2e.fork_server import ForkedCommand, ForkServer
from tests.e2e.judge_server import Server

TIMEOUT = 120
"""Seconds after which a command counts as hanging."""
_READ_AT_START = ("HF_", "PYTHON", "OMP_", "CUDA_")
"""Variables that an interpreter or a library reads at its start; a forked process ignores them."""
TINY: dict[str, Any] = {
    "name": "tiny",
    "model": {"id": "model", "device": "cpu"},
    "extract": {
        "questions": 2,
        "evaluation_questions": 1,
        "batch_size": 6,
        "sampling": {"max_new_tokens": 8},
    },
    "judge": {"backend": "fake"},
    "monitor": {"sampling": {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 12}, "seed": 3},
}
"""Two extraction questions and one for evaluation.

That makes 2·5·2 + 1·5·2 = 30 rollouts for each trait; 20 of them are judged.
"""


ONE_BY_ONE = """
import contextlib, io, json, sys
from traitcli.__main__ import main
for arguments in json.load(sys.stdin):
    out, err, code, sys.argv = io.StringIO(), io.StringIO(), 0, ["traitcli", *arguments]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
    print(json.dumps([code, out.getvalue(), err.getvalue()]), flush=True)
"""
"""Runs command lines like the command and prints the exit code and output of each.

An uncaught error ends it.
"""


@dataclass(frozen=True)
class CommandResult:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """All of stdout, which must be one JSON document."""
        return json.loads(self.out)

    @property
    def json_lines(self) -> list[Any]:
        """All of stdout, one JSON document a line."""
        return [json.loads(line) for line in self.out.splitlines()]


class RunningCommand:
    """A command that has been started."""

    def __init__(self, process: subprocess.Popen[str] | ForkedCommand) -> None:
        self.process = process

    def end(self) -> CommandResult:
        out, err = self.process.communicate(timeout=TIMEOUT)
        return CommandResult(self.process.returncode, out, err)

    def wait_until(self, reached: Callable[[], bool]) -> None:
        """Return as soon as `reached()` is true; fail if the command ends before."""
        deadline = time.monotonic() + TIMEOUT
        while not reached():
            if self.process.poll() is not None:
                pytest.fail(f"the command ended too early:\n{self.end()}")
            if time.monotonic() > deadline:
                pytest.fail("the condition was not met in time")
            time.sleep(0.002)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> CommandResult:
        """Signal the command, not its process group."""
        self.process.send_signal(number)
        return self.end()


class Workspace:
    """A folder with `tiny.yaml` and the model folder `model`, in which commands run."""

    def __init__(
        self, folder: Path, model: Path, env: dict[str, str], server: ForkServer, **sections: Any
    ) -> None:
        self.folder = folder
        self._env = env
        self._server = server
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / "model").is_symlink():
            (folder / "model").symlink_to(model)
        self.configure(**sections)

    def start_from(self, server: ForkServer) -> Workspace:
        """Let a server that was started with other variables start the commands."""
        self._server = server
        return self

    def own_cache(self) -> None:
        """Use a new judge cache, so that replies of other tests are not found."""
        self._env = self._env | {"XDG_CACHE_HOME": str(self.folder / "cache")}

    def configure(self, **sections: Any) -> None:
        """Write `tiny.yaml`: the tiny config with these sections replaced."""
        (self.folder / "tiny.yaml").write_text(yaml.safe_dump(TINY | sections), encoding="utf-8")

    def start(
        self,
        command: str,
        *arguments: str,
        config: str = "tiny.yaml",
        stdin: bytes | None = None,
        **env: str,
    ) -> RunningCommand:
        """Start the command; the bytes of `stdin` come from a pipe."""
        line = [command, *arguments, "--config", config]
        read_at_start = {name for name in env if name.startswith(_READ_AT_START)}
        if any(env[name] != self._server.env.get(name) for name in read_at_start):
            return RunningCommand(_start_fresh(line, self.folder, self._env | env, stdin))
        return RunningCommand(self._server.start(line, self.folder, self._env | env, stdin))

    def run(
        self,
        command: str,
        *arguments: str,
        config: str = "tiny.yaml",
        stdin: bytes | None = None,
        **env: str,
    ) -> CommandResult:
        return self.start(command, *arguments, config=config, stdin=stdin, **env).end()

    def run_all(self, commands: Sequence[Sequence[str]]) -> list[CommandResult]:
        """Run commands one after another in a single process.

        Each command names its own config.
        """
        lines = json.dumps(list(map(list, commands))).encode()
        process = self._server.start_script(ONE_BY_ONE, self.folder, lines)
        ended = RunningCommand(process).end()
        assert ended.code == 0, ended.err
        return [CommandResult(*line) for line in ended.json_lines]

    def run_both(self, *arguments: str, **env: str) -> tuple[CommandResult, CommandResult]:
        """Run the command with and without `--json` at the same time."""
        with_tables = self.start(*arguments, **env)
        with_json = self.start(*arguments, "--json", **env)
        return with_tables.end(), with_json.end()

    def ledger(self, trait: str, name: str = "rollouts", run: str = "tiny") -> bytes:
        path = self.folder / "runs" / run / trait / f"{name}.jsonl"
        return path.read_bytes() if path.is_file() else b""

    def lines(self, trait: str, name: str = "rollouts", run: str = "tiny") -> list[dict[str, Any]]:
        """The records of a ledger; an incomplete line is an error."""
        return [json.loads(line) for line in self.ledger(trait, name, run).splitlines()]

    def tensors(self, trait: str, vectors: str = "vectors") -> dict[str, np.ndarray]:
        from safetensors.numpy import load_file

        return load_file(self.folder / vectors / "model" / f"{trait}.safetensors")

    def files(self, below: str = ".") -> dict[str, tuple[int, str]]:
        """Path -> (mtime in ns, digest) of every file."""
        return {
            str(path.relative_to(self.folder)): (
                path.stat().st_mtime_ns,
                hashlib.sha256(path.read_bytes()).hexdigest(),
            )
            for path in sorted((self.folder / below).rglob("*"))
            if path.is_file()
        }


@pytest.fixture(scope="session", autouse=True)
def obey_ctrl_c() -> None:
    """Restore Ctrl-C for commands: background jobs of a shell and their children ignore it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def command_env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables for no key, hub or GPU, an empty cache, one thread, and lines too long to wrap."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OPENAI_", "TRAITCLI_"))
    }
    cache = str(tmp_path_factory.mktemp("cache"))
    return inherited | {
        "XDG_CACHE_HOME": cache,
        "HF_HOME": cache,
        "HF_HUB_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
        "NO_PROXY": "127.0.0.1",
        "COLUMNS": "200",
    }


@pytest.fixture(scope="session")
def fork_server(
    tmp_path_factory: pytest.TempPathFactory, command_env: dict[str, str]
) -> Iterator[ForkServer]:
    """Starts commands from a process that has imported torch once."""
    # The path of a Unix socket has at most 108 characters; this one has about 60.
    server = ForkServer(tmp_path_factory.mktemp("fork"), command_env)
    yield server
    server.close()


def _start_fresh(
    line: Sequence[str], folder: Path, env: dict[str, str], stdin: bytes | None
) -> subprocess.Popen[str]:
    """Start a command in a new interpreter; the bytes of `stdin` come from a pipe."""
    process = subprocess.Popen(
        [sys.executable, "-m", "traitcli", *line],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )
    if stdin is not None:
        process.stdin.buffer.write(stdin)
        process.stdin.close()
        process.stdin = None
    return process


@pytest.fixture(scope="session")
def open_workspace(
    tmp_path_factory: pytest.TempPathFactory,
    model_folders: dict[str, Path],
    command_env: dict[str, str],
    fork_server: ForkServer,
) -> Callable[..., Workspace]:
    """Makes a new working folder from config sections."""
    return lambda **sections: Workspace(
        tmp_path_factory.mktemp("workspace"),
        model_folders["llama"],
        command_env,
        fork_server,
        **sections,
    )


@pytest.fixture
def workspace(open_workspace: Callable[..., Workspace]) -> Workspace:
    return open_workspace()


@pytest.fixture(scope="session")
def finished(open_workspace: Callable[..., Workspace]) -> tuple[Workspace, CommandResult]:
    """A finished `extract evil refusal --json`. It is read-only: to change it, use `copied`."""
    workspace = open_workspace()
    return workspace, workspace.run("extract", "evil", "refusal", "--json")


@pytest.fixture
def copied(finished: tuple[Workspace, CommandResult], workspace: Workspace) -> Workspace:
    """A copy of the finished run of evil and refusal."""
    for name in ("runs", "vectors"):
        shutil.copytree(finished[0].folder / name, workspace.folder / name)
    return workspace


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A running judge endpoint; call `reset` first."""
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="session")
def open_unjudged(
    open_workspace: Callable[..., Workspace], finished: tuple[Workspace, CommandResult]
) -> Callable[..., Workspace]:
    """Makes a folder with unjudged rollouts of evil and refusal, and a new judge cache."""

    def make(**sections: Any) -> Workspace:
        workspace = open_workspace(**sections)
        workspace.own_cache()
        for name in ("evil", "refusal"):
            shutil.copytree(
                finished[0].folder / "runs" / "tiny" / name,
                workspace.folder / "runs" / "tiny" / name,
            )
            for later in ("judgements", "vectors"):
                (workspace.folder / "runs" / "tiny" / name / f"{later}.jsonl").unlink()
        shutil.copy(
            finished[0].folder / "runs" / "tiny" / "run.json", workspace.folder / "runs" / "tiny"
        )
        return workspace

    return make
