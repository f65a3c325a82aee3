"""Worker processes that start processes of their own: all end together, however they end."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.unit.worker_child import open_pool
from traitcli.pipeline.messages import WorkerGone

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="vLLM does not run on Windows")


def child_of(folder: Path, command: subprocess.Popen[str] | None = None) -> psutil.Process:
    """The process that the worker has started."""
    while not (folder / "child").exists():
        assert command is None or command.poll() is None
        time.sleep(0.02)
    found = (folder / "child").read_text()
    assert found.isdecimal(), found
    return psutil.Process(int(found))


def has_ended(processes: list[psutil.Process]) -> bool:
    """Whether they end before a minute is over; one that nobody waits for counts as ended."""
    _, alive = psutil.wait_procs(processes, timeout=60)
    return all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


def test_a_worker_and_what_it_has_started_end_when_the_command_is_killed(tmp_path):
    command = subprocess.Popen([sys.executable, "-m", "tests.unit.worker_child", str(tmp_path)])
    child = child_of(tmp_path, command)
    worker = child.parent()
    assert worker.ppid() == command.pid

    command.kill()
    command.wait()

    assert has_ended([worker, child])


def test_what_a_worker_has_started_ends_when_the_worker_is_ended(tmp_path):
    pool = open_pool(tmp_path)
    child = child_of(tmp_path)

    pool.end(0)

    assert has_ended([child])


def test_what_a_worker_has_started_ends_when_the_worker_is_killed(tmp_path):
    pool = open_pool(tmp_path)
    child = child_of(tmp_path)
    messages = []

    child.parent().kill()
    pool.poll(lambda worker, message: messages.append(message), 60)

    assert messages == [WorkerGone("its worker died (exit code -9)")]
    assert has_ended([child])
