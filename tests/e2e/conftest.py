"""Working folders in which the real command runs, in processes of its own."""

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

PATIENCE = 120
"""Seconds after which a command counts as hanging."""
_READ_AT_START = ("HF_", "PYTHON", "OMP_", "CUDA_")
"""Variables that an interpreter or a library reads when it starts: no forked process sees them."""
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
"""Two extraction questions and one for evaluation: 2·5·2 + 1·5·2 = 30 rollouts a trait, 20 of them judged."""


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
"""Runs command lines as the command does, and tells how each has ended; an error that is not told ends it."""


@dataclass(frozen=True)
class Ended:
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


class Running:
    """A command at work."""

    def __init__(self, process: subprocess.Popen[str] | ForkedCommand) -> None:
        self.process = process

    def end(self) -> Ended:
        out, err = self.process.communicate(timeout=PATIENCE)
        return Ended(self.process.returncode, out, err)

    def wait_until(self, reached: Callable[[], bool]) -> None:
        """Return as soon as something has happened; the command must be at work still."""
        deadline = time.monotonic() + PATIENCE
        while not reached():
            if self.process.poll() is not None:
                pytest.fail(f"the command ended too early:\n{self.end()}")
            if time.monotonic() > deadline:
                pytest.fail("it did not happen in time")
            time.sleep(0.002)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> Ended:
        """Signal the command alone, not its group."""
        self.process.send_signal(number)
        return self.end()


class Workspace:
    """A folder with `tiny.yaml` and the model's folder `model` in it, and the command to run there."""

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

    def own_cache(self) -> None:
        """Let its commands know nothing that others have asked a judge."""
        self._env = self._env | {"XDG_CACHE_HOME": str(self.folder / "cache")}

    def configure(self, **sections: Any) -> None:
        """Write the config: the tiny one, with sections replaced."""
        (self.folder / "tiny.yaml").write_text(yaml.safe_dump(TINY | sections), encoding="utf-8")

    def start(
        self,
        command: str,
        *arguments: str,
        config: str = "tiny.yaml",
        said: bytes | None = None,
        **env: str,
    ) -> Running:
        """Start the command; what is `said` comes from a pipe."""
        line = [command, *arguments, "--config", config]
        if any(name.startswith(_READ_AT_START) for name in env):
            return Running(_start_fresh(line, self.folder, self._env | env, said))
        return Running(self._server.start(line, self.folder, self._env | env, said))

    def run(
        self,
        command: str,
        *arguments: str,
        config: str = "tiny.yaml",
        said: bytes | None = None,
        **env: str,
    ) -> Ended:
        return self.start(command, *arguments, config=config, said=said, **env).end()

    def run_all(self, commands: Sequence[Sequence[str]]) -> list[Ended]:
        """Commands one after another in a single process, which imports torch once; each with its own config."""
        process = subprocess.run(
            [sys.executable, "-c", ONE_BY_ONE],
            cwd=self.folder,
            env=self._env,
            input=json.dumps(list(map(list, commands))),
            stdout=subprocess.PIPE,
            encoding="utf-8",
            timeout=PATIENCE,
            check=True,
        )
        return [Ended(*json.loads(line)) for line in process.stdout.splitlines()]

    def run_both(self, *arguments: str, **env: str) -> tuple[Ended, Ended]:
        """The command as people and as programs call it, at the same time."""
        shown, counted = self.start(*arguments, **env), self.start(*arguments, "--json", **env)
        return shown.end(), counted.end()

    def ledger(self, trait: str, name: str = "rollouts", run: str = "tiny") -> bytes:
        path = self.folder / "runs" / run / trait / f"{name}.jsonl"
        return path.read_bytes() if path.is_file() else b""

    def lines(self, trait: str, name: str = "rollouts", run: str = "tiny") -> list[dict[str, Any]]:
        """The records of a ledger; a torn one is a fault."""
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
def heeds_ctrl_c() -> None:
    """Background jobs of a shell ignore Ctrl-C, and so do their children; commands here heed it wherever we run."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def command_env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """No key, no hub, no GPU, a cache of its own, one thread, lines long enough not to be folded."""
    mine = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OPENAI_", "TRAITCLI_"))
    }
    cache = str(tmp_path_factory.mktemp("cache"))
    return mine | {
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
    """Starts commands without importing torch anew for each."""
    # The path of a Unix socket has at most 108 characters; this one has about 60.
    server = ForkServer(tmp_path_factory.mktemp("fork"), command_env)
    yield server
    server.close()


def _start_fresh(
    line: Sequence[str], folder: Path, env: dict[str, str], said: bytes | None
) -> subprocess.Popen[str]:
    """Start a command in a new interpreter; what is `said` comes from a pipe."""
    process = subprocess.Popen(
        [sys.executable, "-m", "traitcli", *line],
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL if said is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )
    if said is not None:
        process.stdin.buffer.write(said)
        process.stdin.close()
        process.stdin = None
    return process


@pytest.fixture(scope="session")
def open_desk(
    tmp_path_factory: pytest.TempPathFactory,
    model_folders: dict[str, Path],
    command_env: dict[str, str],
    fork_server: ForkServer,
) -> Callable[..., Workspace]:
    """Config sections -> a new working folder."""
    return lambda **sections: Workspace(
        tmp_path_factory.mktemp("desk"),
        model_folders["llama"],
        command_env,
        fork_server,
        **sections,
    )


@pytest.fixture
def desk(open_desk: Callable[..., Workspace]) -> Workspace:
    return open_desk()


@pytest.fixture(scope="session")
def finished(open_desk: Callable[..., Workspace]) -> tuple[Workspace, Ended]:
    """A finished `extract evil refusal --json`, only to be read; `copied` is for what changes it."""
    desk = open_desk()
    return desk, desk.run("extract", "evil", "refusal", "--json")


@pytest.fixture
def copied(finished: tuple[Workspace, Ended], desk: Workspace) -> Workspace:
    """A finished run of evil and refusal in a folder of its own."""
    for name in ("runs", "vectors"):
        shutil.copytree(finished[0].folder / name, desk.folder / name)
    return desk


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A judge's endpoint at work; `reset` it first."""
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="session")
def open_unjudged(
    open_desk: Callable[..., Workspace], finished: tuple[Workspace, Ended]
) -> Callable[..., Workspace]:
    """Config sections -> a folder with the rollouts of evil and refusal, not judged yet, and a cache of its own."""

    def make(**sections: Any) -> Workspace:
        desk = open_desk(**sections)
        desk.own_cache()
        for name in ("evil", "refusal"):
            shutil.copytree(
                finished[0].folder / "runs" / "tiny" / name, desk.folder / "runs" / "tiny" / name
            )
            for made_since in ("judgements", "vectors"):
                (desk.folder / "runs" / "tiny" / name / f"{made_since}.jsonl").unlink()
        shutil.copy(
            finished[0].folder / "runs" / "tiny" / "run.json", desk.folder / "runs" / "tiny"
        )
        return desk

    return make
