"""Commands and workers that are killed while many rollouts are on their way to the disk."""

from __future__ import annotations

import random
import signal
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from benchmarks.stand_in import value_of
from tests.e2e.fork_server import ForkServer
from tests.e2e.forked_workers import NAME
from traitcli.records import POSITIONS
from traitcli.runs.run import Run

TRAITS, ROLLOUTS = ("evil", "refusal"), 600
"""Six questions, five pairs, two sides, ten repeats of each trait."""
COMMAND = """
import sys
from pathlib import Path
from benchmarks.stand_in import StandIn, run_stand_ins
from traitcli.config import Config
from traitcli.traits.definitions import find_traits, load_trait

config = Config.model_validate({{
    "name": "run",
    "model": {{"id": "stand-in", "device": "cpu"}},
    "extract": {{"questions": 6, "evaluation_questions": 0, "repeats": 10}},
    "judge": {{"backend": "fake"}},
    "paths": {{"runs": Path.cwd(), "vectors": Path.cwd() / "vectors"}},
    "workers": {{"max_crashes": 100}},
}})
paths = find_traits(Path("nowhere"))
made = StandIn((3, 8), "{precision}" == "half", 0.03, 4)
traits = [load_trait(paths[name]) for name in ("evil", "refusal")]
failures = run_stand_ins(made, config, traits, lambda event: None)
sys.exit(str(failures) if failures else 0)
"""


class Command:
    """A command with four workers in real processes."""

    def __init__(self, server: ForkServer, folder: Path, precision: str) -> None:
        code = COMMAND.format(precision=precision)
        self.folder = folder
        self.process = server.start_script(code, folder, has_workers=True)

    @property
    def runs(self) -> bool:
        return self.process.poll() is None

    def wait_for(self, lines: int) -> None:
        while self.runs and count_lines(self.folder) < lines:
            time.sleep(0.001)

    def workers(self) -> list[psutil.Process]:
        with suppress(psutil.Error):
            children = psutil.Process(self.process.pid).children()
            return [child for child in children if child.name() == NAME]
        return []

    def kill(self) -> None:
        workers = self.workers()
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()
        psutil.wait_procs(workers, timeout=20)

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=60)

    def end(self) -> None:
        _, err = self.process.communicate(timeout=120)
        assert self.process.returncode == 0, err


def count_lines(folder: Path) -> int:
    ledgers = folder.glob("run/*/rollouts.jsonl")
    return sum(ledger.read_bytes().count(b"\n") for ledger in ledgers)


def check(folder: Path) -> None:
    """Each rollout is stored once, with its own states and those of its prompt."""
    for trait in TRAITS:
        files = Run(folder / "run").trait(trait)
        ids = [rollout.id for rollout in files.rollouts()]
        assert len(ids) == len(set(ids)) == ROLLOUTS
        prompts = [name.rpartition("-")[0] for name in ids]
        for position in POSITIONS:
            expected = map(value_of, ids if position == "response_avg" else prompts)
            found = files.activations(ids, position)
            assert found[:, 2, 7].tolist() == list(expected)


@pytest.mark.slow
def test_a_command_killed_again_and_again_loses_and_repeats_nothing(fork_server, tmp_path):
    draw, kills, before = random.Random(0), 0, []
    while True:
        command = Command(fork_server, tmp_path, "half")
        at = count_lines(tmp_path)
        command.wait_for(at + draw.randrange(1, 300))
        if not command.runs or kills == 5:
            break
        command.kill()
        kills += 1
        before = [path.read_bytes() for path in sorted(tmp_path.glob("run/*/rollouts.jsonl"))]
    command.end()

    assert kills >= 4
    check(tmp_path)
    after = [path.read_bytes() for path in sorted(tmp_path.glob("run/*/rollouts.jsonl"))]
    for earlier, later in zip(before, after, strict=True):
        # What was stored stays stored; only a line that a kill has torn is cut.
        assert later.startswith(earlier[: earlier.rfind(b"\n") + 1])


@pytest.mark.slow
def test_workers_killed_while_they_deliver_lose_and_repeat_nothing(fork_server, tmp_path):
    draw, kills = random.Random(1), 0
    command = Command(fork_server, tmp_path, "float32")
    while command.runs and kills < 8:
        command.wait_for(count_lines(tmp_path) + draw.randrange(1, 120))
        if workers := command.workers():
            with suppress(psutil.Error):
                draw.choice(workers).kill()
                kills += 1
    command.end()

    assert kills >= 5
    check(tmp_path)


@pytest.mark.slow
def test_ctrl_c_stores_what_workers_had_finished_and_the_next_command_makes_the_rest(
    fork_server, tmp_path
):
    command = Command(fork_server, tmp_path, "half")
    command.wait_for(200)
    at = count_lines(tmp_path)
    command.interrupt()
    kept = count_lines(tmp_path)

    Command(fork_server, tmp_path, "half").end()

    assert at <= kept < 2 * ROLLOUTS
    check(tmp_path)


def test_an_error_of_a_writing_thread_ends_the_command(fork_server, tmp_path):
    # No folder can be made where a file is.
    (tmp_path / "run" / "evil").mkdir(parents=True)
    (tmp_path / "run" / "evil" / "activations").touch()
    command = Command(fork_server, tmp_path, "half")

    _, err = command.process.communicate(timeout=60)

    assert command.process.returncode == 1
    assert "StorageError: error: cannot write" in err
    assert count_lines(tmp_path) < 2 * ROLLOUTS
    assert not (tmp_path / "run" / "evil" / "rollouts.jsonl").exists()
