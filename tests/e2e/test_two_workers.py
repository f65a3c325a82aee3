"""Runs on two devices at once, each with a worker process of its own."""

from __future__ import annotations

import os
import signal
from typing import Any

import psutil
import pytest

SMALL = {"extract": {"questions": 3, "evaluation_questions": 1, "batch_size": 2, "sampling": {"max_new_tokens": 8}}}
"""Forty rollouts a trait in twenty batches."""
TRAITS = ("evil", "refusal", "verbosity")
TWO = ("--devices", "cpu,cpu")


def workers_of(running: Any) -> list[psutil.Process]:
    """The worker processes of a command; Python's resource tracker is a child too."""
    children = psutil.Process(running.process.pid).children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def both_at_work(desk: Any) -> bool:
    return sum(bool(desk.ledger(trait)) for trait in TRAITS) == 2


def test_two_workers_make_the_rollouts_that_one_makes(finished, desk):
    ended = desk.run("extract", "evil", "refusal", *TWO, "--json")

    assert ended.code == 0
    for trait in ("evil", "refusal"):
        assert desk.lines(trait) == finished[0].lines(trait)
    assert [vector["trait"] for vector in ended.json["vectors"]] == ["evil", "refusal"]


class WorkerKilled:
    """A command one of whose two workers was killed, and the same command again."""

    def __init__(self, desk: Any) -> None:
        self.desk = desk
        running = desk.start("extract", *TRAITS, *TWO, "--json")
        running.wait_until(lambda: both_at_work(desk))
        workers_of(running)[0].kill()
        self.ended = running.end()
        self.then = {trait: desk.ledger(trait) for trait in TRAITS}
        self.again = desk.run("extract", *TRAITS, *TWO, "--json")


@pytest.fixture(scope="module")
def worker_killed(open_desk) -> WorkerKilled:
    return WorkerKilled(open_desk(**SMALL))


def test_a_killed_worker_fails_its_trait_and_the_others_are_finished(worker_killed):
    ended = worker_killed.ended

    [failure] = ended.json["failures"]

    assert ended.code == 1
    assert failure["problem"] == f"{failure['trait']} was not finished"
    assert failure["cause"] == "its worker died (exit code -9)"
    assert {vector["trait"] for vector in ended.json["vectors"]} == set(TRAITS) - {failure["trait"]}
    assert "Traceback" not in ended.err


def test_the_same_command_again_finishes_what_a_killed_worker_left(worker_killed):
    assert worker_killed.again.code == 0
    assert {vector["trait"] for vector in worker_killed.again.json["vectors"]} == set(TRAITS)
    for trait in TRAITS:
        ids = [line["id"] for line in worker_killed.desk.lines(trait)]
        assert len(ids) == len(set(ids)) == 40
        assert worker_killed.desk.ledger(trait).startswith(worker_killed.then[trait])


def test_ctrl_c_ends_the_workers_too(open_desk):
    desk = open_desk(**SMALL)
    running = desk.start("extract", *TRAITS, *TWO)
    running.wait_until(lambda: len(workers_of(running)) == 2)
    workers = workers_of(running)

    os.killpg(running.process.pid, signal.SIGINT)  # as a terminal does
    ended = running.end()

    assert ended.code == 130
    assert "Traceback" not in ended.err
    assert not any(worker.is_running() for worker in workers)


def test_workers_do_not_outlive_a_parent_that_was_killed(open_desk):
    desk = open_desk(**SMALL)
    running = desk.start("extract", *TRAITS, *TWO)
    running.wait_until(lambda: both_at_work(desk))
    workers = workers_of(running)

    ended = running.kill()

    _, alive = psutil.wait_procs(workers, timeout=10)
    assert alive == []
    assert "Traceback" not in ended.err
