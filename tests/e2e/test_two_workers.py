"""Runs on two devices at once, each with a worker process of its own, and workers that are lost."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from typing import Any

import numpy as np
import psutil
import pytest

LARGER = {"extract": {"questions": 12, "batch_size": 4, "sampling": {"max_new_tokens": 8}}}
TRAITS = ("evil", "refusal", "verbosity")
TWO = ("--devices", "cpu,cpu")


def workers_of(running: Any) -> list[psutil.Process]:
    """The worker processes of a command; Python's resource tracker is a child too."""
    found = []
    for child in psutil.Process(running.process.pid).children():
        with suppress(psutil.Error):  # it has ended meanwhile
            if "spawn_main" in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
    return found


def both_at_work(desk: Any) -> bool:
    return sum(bool(desk.ledger(trait)) for trait in TRAITS) == 2


class Killed:
    """A command of which a worker was killed, and elsewhere one that was killed itself."""

    def __init__(self, desk: Any, elsewhere: Any) -> None:
        self.desk = desk
        running, doomed = (one.start("extract", *TRAITS, *TWO, "--json") for one in (desk, elsewhere))
        running.wait_until(lambda: both_at_work(desk))
        workers_of(running)[0].kill()
        doomed.wait_until(lambda: both_at_work(elsewhere))
        self.orphans = workers_of(doomed)
        self.parent = doomed.kill()
        self.ended = running.end()


@pytest.fixture(scope="module")
def killed(open_desk) -> Killed:
    return Killed(open_desk(), open_desk(**LARGER))


def by_id(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Several workers finish answers in another order than one."""
    return sorted(lines, key=lambda line: line["id"])


def test_what_a_killed_worker_left_is_made_by_others(killed):
    ended = killed.ended

    assert ended.code == 0
    assert ended.json["failures"] == []
    assert {vector["trait"] for vector in ended.json["vectors"]} == set(TRAITS)
    assert "its worker died (exit code -9); another one goes on" in ended.err
    assert "Traceback" not in ended.err
    for trait in TRAITS:
        assert len(killed.desk.lines(trait)) == 30


def test_two_workers_make_the_rollouts_that_one_makes(killed, finished):
    alone, _ = finished

    for trait in ("evil", "refusal"):
        assert by_id(killed.desk.lines(trait)) == by_id(alone.lines(trait))


def test_each_worker_keeps_a_log_in_the_run_directory(killed):
    logs = sorted((killed.desk.folder / "runs" / "tiny" / "logs").glob("*.log"))

    told = [log.read_text(encoding="utf-8") for log in logs]

    assert [log.name for log in logs] == ["worker-0.log", "worker-1.log"]
    assert all("is started on cpu" in log for log in told)
    assert any("has done" in log for log in told)
    assert sum("is lost: its worker died (exit code -9)" in log for log in told) == 1


def test_workers_that_die_everywhere_end_the_command_with_a_table(open_desk):
    desk = open_desk()
    running = desk.start("extract", *TRAITS[:2], *TWO)
    while running.process.poll() is None:
        for worker in workers_of(running):
            with suppress(psutil.Error):
                worker.kill()
        time.sleep(0.01)

    ended = running.end()

    assert ended.code == 1
    for trait in TRAITS[:2]:
        assert f"{trait} failed at worker: {trait} was not finished" in ended.err
    assert ended.err.count("  cause: no worker is left: on every device they died") == 2
    assert ended.err.splitlines()[-1].endswith("0 vectors built, 2 traits failed, in runs/tiny")


class Harassed:
    """A command whose workers are killed again and again at random moments, and the same one left alone."""

    times = 20

    def __init__(self, desk: Any, alone: Any) -> None:
        self.desk, self.alone = desk, alone
        undisturbed = alone.start("extract", *TRAITS[:2], "--json")
        running = desk.start("extract", *TRAITS[:2], *TWO, "--json")
        self.kills = 0
        draw = random.Random(0)
        while self.kills < self.times and running.process.poll() is None:
            time.sleep(draw.uniform(0, 5))
            if running.process.poll() is None and (workers := workers_of(running)):
                with suppress(psutil.Error):
                    draw.choice(workers).kill()
                    self.kills += 1
        self.ended = running.end()
        self.expected = undisturbed.end()


@pytest.fixture(scope="module")
def harassed(open_desk) -> Harassed:
    sections = LARGER | {"judge": {"backend": "likelihood"}}
    return Harassed(open_desk(**sections, workers={"tries": Harassed.times + 1}), open_desk(**sections))


def test_workers_that_are_killed_again_and_again_lose_nothing(harassed):
    assert harassed.kills == harassed.times
    assert harassed.ended.code == harassed.expected.code == 0
    assert harassed.ended.json["failures"] == []
    assert harassed.ended.err.count("its worker died (exit code -9); another one goes on") >= 3


def test_what_they_made_is_what_one_makes_that_is_left_alone(harassed):
    for trait in TRAITS[:2]:
        made, expected = (by_id(desk.lines(trait)) for desk in (harassed.desk, harassed.alone))
        assert [line["id"] for line in made] == [line["id"] for line in expected]  # no rollout twice
        assert made == expected
        tensors = harassed.desk.tensors(trait)
        for name, tensor in harassed.alone.tensors(trait).items():
            np.testing.assert_allclose(tensors[name], tensor, atol=1e-5, err_msg=name)


def test_a_worker_that_hangs_is_replaced(open_desk):
    desk = open_desk(workers={"patience": 8.0}, **LARGER)
    running = desk.start("extract", *TRAITS[:2], *TWO, "--json")
    running.wait_until(lambda: all(desk.ledger(trait) for trait in TRAITS[:2]))
    hanging = workers_of(running)[0]
    hanging.suspend()

    ended = running.end()

    assert ended.code == 0
    assert ended.json["failures"] == []
    assert "its worker said nothing for" in ended.err
    assert not hanging.is_running()


def test_ctrl_c_ends_the_workers_too(open_desk):
    desk = open_desk()
    running = desk.start("extract", *TRAITS, *TWO)
    running.wait_until(lambda: len(workers_of(running)) == 2)
    workers = workers_of(running)

    os.killpg(running.process.pid, signal.SIGINT)  # as a terminal does
    ended = running.end()

    assert ended.code == 130
    assert "Traceback" not in ended.err
    assert not any(worker.is_running() for worker in workers)


def test_workers_do_not_outlive_a_parent_that_was_killed(killed):
    _, alive = psutil.wait_procs(killed.orphans, timeout=10)

    assert len(killed.orphans) == 2
    assert alive == []
    assert "Traceback" not in killed.parent.err
