"""Runs on two devices at once, each with a worker process of its own."""

from __future__ import annotations

import os
import signal
from typing import Any

import psutil
import pytest

LARGER = {"extract": {"questions": 12, "batch_size": 4, "sampling": {"max_new_tokens": 8}}}
TRAITS = ("evil", "refusal", "verbosity")
TWO = ("--devices", "cpu,cpu")


def workers_of(running: Any) -> list[psutil.Process]:
    """The worker processes of a command; Python's resource tracker is a child too."""
    children = psutil.Process(running.process.pid).children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def both_at_work(desk: Any) -> bool:
    return sum(bool(desk.ledger(trait)) for trait in TRAITS) == 2


class Killed:
    """A command of which a worker was killed, the same command again, and elsewhere one that was killed itself."""

    def __init__(self, desk: Any, elsewhere: Any) -> None:
        self.desk = desk
        running, doomed = (one.start("extract", *TRAITS, *TWO, "--json") for one in (desk, elsewhere))
        running.wait_until(lambda: both_at_work(desk))
        workers_of(running)[0].kill()
        doomed.wait_until(lambda: both_at_work(elsewhere))
        self.orphans = workers_of(doomed)
        self.parent = doomed.kill()
        self.ended = running.end()
        self.then = {trait: desk.ledger(trait) for trait in TRAITS}
        self.again = desk.run("extract", *TRAITS, *TWO, "--json")


@pytest.fixture(scope="module")
def killed(open_desk) -> Killed:
    return Killed(open_desk(), open_desk(**LARGER))


def test_a_killed_worker_fails_its_trait_and_the_others_are_finished(killed):
    ended = killed.ended

    [failure] = ended.json["failures"]

    assert ended.code == 1
    assert failure["problem"] == f"{failure['trait']} was not finished"
    assert failure["cause"] == "its worker died (exit code -9)"
    assert {vector["trait"] for vector in ended.json["vectors"]} == set(TRAITS) - {failure["trait"]}
    assert "Traceback" not in ended.err


def test_the_same_command_again_finishes_what_a_killed_worker_left(killed):
    assert killed.again.code == 0
    assert {vector["trait"] for vector in killed.again.json["vectors"]} == set(TRAITS)
    for trait in TRAITS:
        assert len(killed.desk.lines(trait)) == 30
        assert killed.desk.ledger(trait).startswith(killed.then[trait])


def by_id(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was resumed is in another order than what was made at once: answers end at different times."""
    return sorted(lines, key=lambda line: line["id"])


def test_two_workers_make_the_rollouts_that_one_makes(killed, finished):
    alone, _ = finished

    for trait in ("evil", "refusal"):
        assert by_id(killed.desk.lines(trait)) == by_id(alone.lines(trait))


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
