"""Runs on two devices, each with its own worker process, and workers that are killed."""

from __future__ import annotations

import random
import time
from contextlib import suppress
from typing import Any

import numpy as np
import psutil
import pytest

LARGER = {
    "extract": {
        "questions": 12,
        "evaluation_questions": 2,
        "batch_size": 4,
        "sampling": {"max_new_tokens": 8},
    }
}
TRAITS = ("evil", "refusal", "verbosity")
TWO = ("--devices", "cpu,cpu")


def workers_of(running: Any) -> list[psutil.Process]:
    """The worker processes of a command, without Python's resource tracker."""
    found: list[psutil.Process] = []
    try:
        children = psutil.Process(running.process.pid).children()
    except psutil.NoSuchProcess:
        return found  # The command has ended meanwhile.
    for child in children:
        with suppress(psutil.Error):  # The process has ended meanwhile.
            # A worker of a forked command has it as its name.
            named = "spawn_main" in " ".join([child.name(), *child.cmdline()])
            if named and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
    return found


def by_id(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort lines by id: several workers finish answers in a different order than one."""
    return sorted(lines, key=lambda line: line["id"])


def test_a_run_whose_workers_crash_on_every_device_fails_each_trait(open_workspace):
    workspace = open_workspace()
    running = workspace.start("extract", *TRAITS[:2], *TWO)
    while running.process.poll() is None:
        for worker in workers_of(running):
            with suppress(psutil.Error):
                worker.kill()
        time.sleep(0.01)

    ended = running.end()

    assert ended.code == 1
    for trait in TRAITS[:2]:
        assert f"{trait} failed at worker: {trait} is not finished" in ended.err
    assert ended.err.count("  cause: no worker is left: workers crashed on every device") == 2
    assert ended.err.splitlines()[-1].endswith("0 vectors built, 2 traits failed, in runs/tiny")


class HangingWorker:
    """A command of which one worker hangs, started before other tests: it must wait long."""

    def __init__(self, workspace: Any) -> None:
        self.running = workspace.start("extract", *TRAITS[:2], *TWO, "--json")
        self.running.wait_until(lambda: all(workspace.ledger(trait) for trait in TRAITS[:2]))
        self.worker = workers_of(self.running)[0]
        self.worker.suspend()


@pytest.fixture(scope="module")
def hanging(open_workspace) -> HangingWorker:
    # Longer than a busy machine takes to load the model: loading sends no heartbeats.
    return HangingWorker(open_workspace(workers={"heartbeat_timeout": 10.0}, **LARGER))


class KilledWorkers:
    """A command whose workers are killed at random moments, and an undisturbed one."""

    times = 6

    def __init__(self, workspace: Any, alone: Any) -> None:
        self.workspace, self.alone = workspace, alone
        undisturbed = alone.start("extract", *TRAITS[:2], "--json")
        running = workspace.start("extract", *TRAITS[:2], *TWO, "--json")
        self.kills = 0
        draw = random.Random(0)
        while self.kills < self.times and running.process.poll() is None:
            self._wait_to_kill(running, draw.uniform(0, 4))
            if running.process.poll() is None and (workers := workers_of(running)):
                with suppress(psutil.Error):
                    draw.choice(workers).kill()
                    self.kills += 1
        self.ended = running.end()
        self.expected = undisturbed.end()

    def _wait_to_kill(self, running: Any, longest: float) -> None:
        """Wait for at most two batches, so that work remains for every kill."""
        until, batches = time.monotonic() + longest, self._batches() + 2
        while (
            time.monotonic() < until
            and self._batches() < batches
            and running.process.poll() is None
        ):
            time.sleep(0.02)

    def _batches(self) -> int:
        return (
            sum(self.workspace.ledger(trait).count(b"\n") for trait in TRAITS[:2])
            // LARGER["extract"]["batch_size"]
        )


@pytest.fixture(scope="module")
def killed_workers(open_workspace, hanging) -> KilledWorkers:
    """It starts after `hanging`, whose worker hangs meanwhile."""
    sections = LARGER | {"judge": {"backend": "likelihood"}}
    return KilledWorkers(
        open_workspace(**sections, workers={"max_crashes": KilledWorkers.times + 1}),
        open_workspace(**sections),
    )


def test_workers_that_are_killed_many_times_lose_nothing(killed_workers):
    assert killed_workers.kills == killed_workers.times
    assert killed_workers.ended.code == killed_workers.expected.code == 0
    assert killed_workers.ended.json["failures"] == []


def test_killed_workers_give_the_same_rollouts_as_an_undisturbed_worker(killed_workers):
    for trait in TRAITS[:2]:
        made, expected = (
            by_id(workspace.lines(trait))
            for workspace in (killed_workers.workspace, killed_workers.alone)
        )
        # No rollout is stored twice.
        assert [line["id"] for line in made] == [line["id"] for line in expected]
        assert made == expected
        tensors = killed_workers.workspace.tensors(trait)
        for name, tensor in killed_workers.alone.tensors(trait).items():
            np.testing.assert_allclose(tensors[name], tensor, atol=1e-5, err_msg=name)


def test_each_worker_has_a_log_in_the_run_folder(killed_workers):
    logs = sorted((killed_workers.workspace.folder / "runs" / "tiny" / "logs").glob("*.log"))

    texts = [log.read_text(encoding="utf-8") for log in logs]

    assert [log.name for log in logs] == ["worker-0.log", "worker-1.log"]
    assert all("starts on cpu" in log for log in texts)
    assert any("has done" in log for log in texts)
    assert sum(log.count("is lost: its worker died (exit code -9)") for log in texts) >= 4


def test_a_worker_that_hangs_is_replaced(hanging):
    ended = hanging.running.end()

    assert ended.code == 0
    assert ended.json["failures"] == []
    assert "no heartbeat from its worker for" in ended.err
    assert not hanging.worker.is_running()


def test_workers_end_when_their_parent_is_killed(open_workspace):
    workspace = open_workspace(**LARGER)
    doomed = workspace.start("extract", *TRAITS, *TWO, "--json")
    # Both workers have started.
    doomed.wait_until(lambda: all(workspace.ledger(trait) for trait in TRAITS[:2]))
    orphans = workers_of(doomed)
    assert len(orphans) == 2

    parent = doomed.kill()
    _, alive = psutil.wait_procs(orphans, timeout=20)

    assert alive == []
    assert "Traceback" not in parent.err
