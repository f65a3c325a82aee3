"""Ctrl-C in a real terminal, a full disk, and a read-only folder."""

from __future__ import annotations

import json
import resource
import time
from contextlib import suppress

import psutil
import pytest

from tests.e2e.terminal import CTRL_C, Terminal
from tests.e2e.test_two_workers import TRAITS, workers_of

ENDLESS = {"extract": {"questions": 12, "batch_size": 4, "sampling": {"max_new_tokens": 60}}}
FEW = {
    "extract": {
        "questions": 5,
        "evaluation_questions": 1,
        "batch_size": 2,
        "sampling": {"max_new_tokens": 20},
    }
}
"""Sixty rollouts of a trait in several batches."""


def seconds_to_end(terminal):
    start = time.monotonic()
    while terminal.process.poll() is None and time.monotonic() - start < 30:
        terminal.read_screen(0.05)
    return time.monotonic() - start


def test_ctrl_c_in_a_terminal_stops_all_workers_and_keeps_rollouts(open_workspace):
    workspace = open_workspace(**ENDLESS)
    terminal = Terminal(workspace, "extract", *TRAITS, "--devices", "cpu,cpu", fresh=True)
    terminal.wait_until(
        lambda screen: screen.count(" rollouts ") >= 2 and any(map(workspace.ledger, TRAITS))
    )
    shown = terminal.read_screen()
    started = [terminal.process, *workers_of(terminal)]
    before = sum(len(workspace.lines(trait)) for trait in TRAITS)

    terminal.type(CTRL_C)

    assert seconds_to_end(terminal) < 5
    assert terminal.process.returncode == 130
    assert "doing" in shown
    assert "memory" in shown
    assert "Traceback" not in terminal.read_screen()
    assert len(started) == 3
    assert not any(psutil.pid_exists(process.pid) for process in started[1:])
    assert sum(len(workspace.lines(trait)) for trait in TRAITS) >= before
    assert not (workspace.folder / "runs" / "tiny" / "lock").exists()


@pytest.mark.parametrize(("times", "limit"), [(1, 5), (2, 1.5)])
def test_suspended_workers_are_killed_in_time_or_at_once_by_a_second_ctrl_c(
    open_workspace, times, limit
):
    workspace = open_workspace(**ENDLESS)
    terminal = Terminal(workspace, "extract", *TRAITS, "--devices", "cpu,cpu")
    terminal.wait_until(lambda screen: any(map(workspace.ledger, TRAITS)))
    workers = workers_of(terminal)
    for worker in workers:
        worker.suspend()

    terminal.type(CTRL_C)
    if times == 2:
        terminal.read_screen(0.5)
        assert all(worker.is_running() for worker in workers)
        terminal.type(CTRL_C)
    start = time.monotonic()
    while (
        any(psutil.pid_exists(worker.pid) for worker in workers) and time.monotonic() - start < 30
    ):
        terminal.read_screen(0.02)
    ended_after = time.monotonic() - start

    assert len(workers) == 2
    assert ended_after < limit  # Without the second Ctrl-C, they would end after 2.5 seconds.
    assert seconds_to_end(terminal) < 5
    assert terminal.process.returncode == 130


def test_a_full_disk_ends_the_command_with_an_error_and_corrupts_no_file(open_workspace):
    workspace = open_workspace(**FEW)
    running = workspace.start("extract", "evil", "refusal")
    running.wait_until(lambda: any(map(workspace.ledger, TRAITS)))
    with suppress(ProcessLookupError):  # No file may grow from here on, as on a full disk.
        resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))

    ended = running.end()

    assert ended.code == 1
    assert "error: cannot write " in ended.err
    assert "fix:   free disk space or choose another folder; finished work is kept" in ended.err
    assert "Traceback" not in ended.err
    for trait in ("evil", "refusal"):
        whole = workspace.ledger(trait)
        for line in whole[: whole.rfind(b"\n") + 1].splitlines():
            json.loads(line)
    again = workspace.run("extract", "evil", "refusal", "--json")
    assert again.code == 0
    assert {len(workspace.lines(trait)) for trait in ("evil", "refusal")} == {60}


def test_a_run_folder_that_cannot_be_written_fails_before_any_work(workspace):
    (workspace.folder / "runs").write_text("not a folder")

    ended = workspace.run("extract", "evil")

    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: cannot write to runs")
    assert "Traceback" not in ended.err
