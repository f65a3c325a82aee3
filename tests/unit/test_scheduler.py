"""The scheduler with scripted workers that work, release, fail, hang and crash."""

from __future__ import annotations

from collections import Counter, deque
from pathlib import Path

import numpy as np
import pytest

from traitcli.config import Config
from traitcli.errors import ConfigError, TraitError
from traitcli.events import Progressed, StageFinished, TraitFailed, Warned, WorkerSeen
from traitcli.judging.fake import FakeJudge
from traitcli.pipeline.ledgers import RunLedgers
from traitcli.pipeline.messages import (
    GenerateTask,
    Heartbeat,
    ReleaseRequest,
    RolloutsJudged,
    RolloutsMade,
    RolloutsReleased,
    RunFailed,
    StopRequest,
    TaskEnded,
    TaskStarted,
    WorkerGone,
    WorkerReady,
)
from traitcli.pipeline.snapshot import TraitSnapshot
from traitcli.pipeline.trait_pipeline import Job
from traitcli.records import POSITIONS, Rollout
from traitcli.runs.run import Run
from traitcli.runs.states import stack_states
from traitcli.scheduling.scheduler import Scheduler
from traitcli.traits.definitions import find_traits, load_trait

ROLLOUTS = 30
"""The number of rollouts of each trait."""


def make_rollout(key):
    return Rollout(
        key.id,
        key.trait,
        key.split,
        key.polarity,
        key.pair,
        key.question,
        key.repeat,
        0,
        "p",
        key.id,
        1,
        1,
        "stop",
    )


def make(keys):
    states = {position: np.ones((3, 4), np.float32) for position in POSITIONS}
    each, prompts = {key.id: states for key in keys}, {key.id: "p" for key in keys}
    batch = stack_states(keys[0].trait, each, prompts)
    return RolloutsMade(tuple(map(make_rollout, keys)), batch)


class ScriptedPool:
    """A pool whose workers make two rollouts a poll; `on_turn` may do otherwise.

    on_turn  (worker, task, how many rollouts it has made) -> its messages instead, or None
    """

    def __init__(self, workers=2, on_turn=lambda worker, task, made: None, clock=None):
        self.devices = [f"cpu:{worker}" for worker in range(workers)]
        self.started, self.ended, self.sent = Counter(), Counter(), []
        self._on_turn = on_turn
        self._clock = clock or (lambda seconds: None)
        self.running = {}

    def start(self, worker):
        self.started[worker] += 1
        self.running[worker] = deque([None])

    def send(self, worker, message):
        self.sent.append((worker, message))
        if worker in self.running:
            self.running[worker].append(message)

    def end(self, worker):
        self.ended[worker] += 1
        self.running.pop(worker, None)

    def close(self):
        self.running.clear()

    def poll(self, receive, timeout):
        self._clock(timeout)
        for worker in list(self.running):
            if self.running.get(worker):
                for message in self.turn(worker, self.running[worker]):
                    receive(worker, message)

    def turn(self, worker, messages):
        step = messages.popleft()
        if step is None:
            return [WorkerReady()]
        if isinstance(step, StopRequest):
            self.running.pop(worker)
            return [WorkerGone("stopped")]
        if isinstance(step, ReleaseRequest):
            return []
        if not isinstance(step, list):
            messages.appendleft([step, 0])
            return [TaskStarted()]
        task, made = step
        reply = self._on_turn(worker, task, made)
        if reply is not None:
            if any(isinstance(message, TaskEnded) for message in reply):
                return reply
            messages.appendleft(step)
            return reply
        if not isinstance(task, GenerateTask):
            judged = []
            FakeJudge().score(task.trait, task.answers, judged.extend)
            return [RolloutsJudged(tuple(judged)), TaskEnded()]
        keys = list(task.keys)
        if messages and isinstance(messages[0], ReleaseRequest):
            request = messages.popleft()
            count = round(request.fraction * (len(keys) - made))
            released = keys[len(keys) - count :]
            step[0] = GenerateTask(task.trait, tuple(keys[: len(keys) - count]))
            messages.appendleft(step)
            return [RolloutsReleased(tuple(key.id for key in released))]
        now = keys[made : made + 2]
        step[1] += 2
        reply = [make(now), Heartbeat(len(now), len(keys) - made - len(now), 5)]
        if made + 2 >= len(keys):
            return [*reply, TaskEnded()]
        messages.appendleft(step)
        return reply


@pytest.fixture
def run_pool(tmp_path):
    """Runs traits on a pool without building vectors; returns failures and events."""

    def run(
        pool, names=("evil", "refusal"), clock=None, stages=("rollouts", "judgements"), **workers
    ):
        config = Config.model_validate(
            {
                "model": {"id": "org/tiny"},
                "extract": {"questions": 2, "evaluation_questions": 1},
                "judge": {"backend": "fake"},
                "workers": workers,
            }
        )
        jobs = [
            Job(
                load_trait(find_traits(Path("nowhere"))[name]),
                config,
                RunLedgers(Run(tmp_path / "run")),
                stages,
            )
            for name in names
        ]
        events = []
        made = Scheduler(
            jobs, pool, FakeJudge(), events.append, tmp_path / "logs", *([clock] if clock else [])
        )
        try:
            failures = made.run()
        finally:
            assert pool.running == {}
        return failures, events

    run.run = Run(tmp_path / "run")
    run.files = lambda name: Run(tmp_path / "run").trait(name)
    run.logs = tmp_path / "logs"
    return run


def counted(run_pool, *names):
    found = {name: [rollout.id for rollout in run_pool.files(name).rollouts()] for name in names}
    assert all(len(ids) == len(set(ids)) for ids in found.values())
    return {name: len(ids) for name, ids in found.items()}


@pytest.mark.parametrize("workers", [1, 2, 5, 64])
def test_every_rollout_is_made_once_by_any_number_of_workers(run_pool, workers):
    failures, events = run_pool(ScriptedPool(workers))

    assert failures == []
    assert counted(run_pool, "evil", "refusal") == {"evil": ROLLOUTS, "refusal": ROLLOUTS}
    assert [
        len(TraitSnapshot.read(run_pool.run, name).judged_by("fake"))
        for name in ("evil", "refusal")
    ] == [20, 20]
    assert sum(isinstance(event, StageFinished) for event in events) == 4
    assert (
        max(e.done for e in events if isinstance(e, Progressed) and e.stage == "rollouts")
        == ROLLOUTS
    )


def test_rollouts_of_all_workers_have_their_activations(run_pool):
    run_pool(ScriptedPool(5), stages=("rollouts",))

    ids = [rollout.id for rollout in run_pool.files("evil").rollouts()]

    assert run_pool.files("evil").activations(ids, "response_avg").shape == (ROLLOUTS, 3, 4)


def test_no_more_workers_are_started_than_tasks_exist(run_pool):
    pool = ScriptedPool(64)

    run_pool(pool, names=("evil",))
    run_pool(pool, names=("evil",))

    assert set(pool.started.values()) == {1}
    assert len(pool.started) == ROLLOUTS


def test_idle_workers_steal_unstarted_rollouts(run_pool):
    slow = iter(range(10**6))
    pool = ScriptedPool(
        2, lambda worker, task, made: [] if worker == 1 and next(slow) % 4 else None
    )

    failures, _ = run_pool(pool)

    asked = [worker for worker, message in pool.sent if isinstance(message, ReleaseRequest)]
    assert failures == []
    assert 1 in asked
    assert counted(run_pool, "evil", "refusal") == {"evil": ROLLOUTS, "refusal": ROLLOUTS}
    assert "released" in (run_pool.logs / "worker-1.log").read_text()


def dies_once(when):
    left = [1]

    def on_turn(worker, task, made):
        if left and when(worker, task, made):
            left.clear()
            return [WorkerGone("its worker died (exit code -9)")]
        return None

    return on_turn


@pytest.mark.parametrize("made", [0, 2, 14])
def test_another_worker_makes_the_unfinished_rollouts_of_a_dead_one(run_pool, made):
    pool = ScriptedPool(2, dies_once(lambda worker, task, done: worker == 1 and done == made))

    failures, events = run_pool(pool)

    assert failures == []
    assert pool.ended[1] == 1
    assert counted(run_pool, "evil", "refusal") == {"evil": ROLLOUTS, "refusal": ROLLOUTS}
    [warning] = [event for event in events if isinstance(event, Warned)]
    assert warning.message == "its worker died (exit code -9); another worker continues"
    assert any(isinstance(event, WorkerSeen) and event.doing == "gone" for event in events)


def kills_evil(worker, task, made):
    return [WorkerGone("its worker died (CUDA error)")] if task.trait.name == "evil" else None


def test_a_trait_that_crashes_workers_fails_and_the_others_continue(run_pool):
    failures, events = run_pool(ScriptedPool(2, kills_evil), max_crashes=3)

    [failure] = failures
    assert (failure.trait, failure.stage) == ("evil", "worker")
    assert failure.cause == "its worker died (CUDA error); 2 workers crashed before it"
    assert counted(run_pool, "refusal") == {"refusal": ROLLOUTS}
    assert [event for event in events if isinstance(event, TraitFailed)] == [failure]


def test_an_error_that_will_come_again_is_not_tried_again(run_pool):
    gone = WorkerGone("its worker failed (TypeError: no such option)", permanent=True)
    pool = ScriptedPool(1, lambda worker, task, made: [gone] if task.trait.name == "evil" else None)

    [failure], events = run_pool(pool, max_crashes=3)

    assert (failure.trait, failure.cause) == ("evil", gone.cause)
    assert pool.started == {0: 2}  # one for each trait
    assert not any(isinstance(event, Warned) for event in events)
    assert counted(run_pool, "refusal") == {"refusal": ROLLOUTS}


def test_a_worker_that_can_never_start_ends_the_run_at_once(run_pool):
    gone = WorkerGone("its worker failed (ImportError: no module named x)", permanent=True)
    pool = ScriptedPool(2)
    pool.turn = lambda worker, messages: [gone]

    with pytest.raises(TraitError, match="a worker cannot start") as caught:
        run_pool(pool, max_crashes=3)

    assert caught.value.cause == gone.cause
    assert max(pool.started.values()) == 1


def test_a_crash_after_progress_does_not_count_against_a_trait(run_pool):
    deaths = []

    def on_turn(worker, task, made):
        if made == 2 and len(deaths) < 12:
            deaths.append(worker)
            return [WorkerGone("its worker died (exit code -9)")]
        return None

    failures, _ = run_pool(ScriptedPool(2, on_turn), max_crashes=3)

    assert failures == []
    assert len(deaths) == 12
    assert counted(run_pool, "evil", "refusal") == {"evil": ROLLOUTS, "refusal": ROLLOUTS}


def test_no_worker_is_started_on_a_device_where_workers_crash(run_pool):
    pool = ScriptedPool(2)
    pool.turn = lambda worker, messages, turn=pool.turn: (
        turn(worker, messages)
        if worker == 0 or messages[0] is not None
        else [WorkerGone("no such device")]
    )

    failures, _ = run_pool(pool, max_crashes=3)

    assert failures == []
    assert pool.started == {0: 1, 1: 3}
    assert counted(run_pool, "evil", "refusal") == {"evil": ROLLOUTS, "refusal": ROLLOUTS}


def test_all_traits_fail_if_workers_crash_on_every_device(run_pool):
    pool = ScriptedPool(2)
    pool.turn = lambda worker, messages: [WorkerGone("its worker died (exit code 1)")]

    failures, _ = run_pool(pool, max_crashes=2)

    assert [failure.trait for failure in failures] == ["evil", "refusal"]
    assert {failure.cause for failure in failures} == {
        "no worker is left: workers crashed on every device"
    }
    assert pool.started == {0: 2, 1: 2}


def test_a_worker_without_heartbeat_is_replaced(run_pool):
    now = [0.0]
    hanging = [True]

    def clock(seconds):
        now[0] += seconds
        hanging[0] = hanging[0] and now[0] < 50

    pool = ScriptedPool(
        2, lambda worker, task, made: [] if worker == 1 and hanging[0] else None, clock
    )

    failures, events = run_pool(pool, clock=lambda: now[0], heartbeat_timeout=20)

    assert failures == []
    assert pool.ended[1] >= 1
    assert any(
        isinstance(event, Warned) and "no heartbeat from its worker for 2" in event.message
        for event in events
    )


def test_an_error_of_one_trait_stops_no_other(run_pool):
    wrong = TraitError("the prompts are the same", cause="a template", fix="another one")
    pool = ScriptedPool(
        2, lambda worker, task, made: [TaskEnded(wrong)] if task.trait.name == "evil" else None
    )

    failures, _ = run_pool(pool)

    assert failures == [
        TraitFailed("evil", "rollouts", "the prompts are the same", "a template", "another one")
    ]
    assert counted(run_pool, "refusal") == {"refusal": ROLLOUTS}


def test_an_error_that_stops_all_traits_is_raised(run_pool):
    pool = ScriptedPool(
        2, lambda worker, task, made: [RunFailed(ConfigError("no key"))] if made == 4 else None
    )

    with pytest.raises(ConfigError, match="no key"):
        run_pool(pool)

    assert 0 < sum(counted(run_pool, "evil", "refusal").values()) < 2 * ROLLOUTS


def test_ctrl_c_stores_what_is_finished_and_ends_all_workers(run_pool):
    def on_turn(worker, task, made):
        if made == 6:
            raise KeyboardInterrupt
        return

    pool = ScriptedPool(2, on_turn)

    with pytest.raises(KeyboardInterrupt):
        run_pool(pool)

    assert {type(message) for _, message in pool.sent[-2:]} == {StopRequest}
    assert sum(counted(run_pool, "evil", "refusal").values()) >= 12
