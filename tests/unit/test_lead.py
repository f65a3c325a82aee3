"""What the lead does with workers that work, share, fail, hang and die: a crew that follows a script."""

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
    Began,
    Ended,
    Fatal,
    GaveUp,
    Generating,
    Gone,
    Heartbeat,
    Judged,
    Made,
    Ready,
    Share,
    Stop,
)
from traitcli.pipeline.snapshot import TraitSnapshot
from traitcli.pipeline.trait_pipeline import Job
from traitcli.records import POSITIONS, Rollout
from traitcli.runs.run import Run
from traitcli.scheduling.scheduler import Scheduler
from traitcli.traits.definitions import find_traits, load_trait

ROLLOUTS = 30
"""Of each trait."""


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
    return Made(tuple(map(make_rollout, keys)), {key.id: states for key in keys})


class Script:
    """A crew whose workers make two rollouts each time they are heard; `on_turn` may do otherwise.

    on_turn  (place, task, how many it has made of it) -> what it says instead, or none
    """

    def __init__(self, places=2, on_turn=lambda place, task, made: None, clock=None):
        self.places = [f"cpu:{place}" for place in range(places)]
        self.hired, self.ended, self.sent = Counter(), Counter(), []
        self._on_turn = on_turn
        self._clock = clock or (lambda seconds: None)
        self._at = {}

    def hire(self, place):
        self.hired[place] += 1
        self._at[place] = deque([None])

    def send(self, place, order):
        self.sent.append((place, order))
        if place in self._at:
            self._at[place].append(order)

    def end(self, place):
        self.ended[place] += 1
        self._at.pop(place, None)

    def close(self):
        self._at.clear()

    def hear(self, take, timeout):
        self._clock(timeout)
        for place in list(self._at):
            if self._at.get(place):
                for message in self._turn(place, self._at[place]):
                    take(place, message)

    def _turn(self, place, orders):
        order = orders.popleft()
        if order is None:
            return [Ready()]
        if isinstance(order, Stop):
            self._at.pop(place)
            return [Gone("stopped")]
        if isinstance(order, Share):
            return []
        if not isinstance(order, list):
            orders.appendleft([order, 0])
            return [Began()]
        task, made = order
        said = self._on_turn(place, task, made)
        if said is not None:
            if any(isinstance(message, Ended) for message in said):
                return said
            orders.appendleft(order)
            return said
        if not isinstance(task, Generating):
            judged = []
            FakeJudge().score(task.trait, task.answers, judged.extend)
            return [Judged(tuple(judged)), Ended()]
        keys = list(task.keys)
        if orders and isinstance(orders[0], Share):
            share = orders.popleft()
            count = round(share.part * (len(keys) - made))
            given = keys[len(keys) - count :]
            order[0] = Generating(task.trait, tuple(keys[: len(keys) - count]))
            orders.appendleft(order)
            return [GaveUp(tuple(key.id for key in given))]
        now = keys[made : made + 2]
        order[1] += 2
        said = [make(now), Heartbeat(len(now), len(keys) - made - len(now), 5)]
        if made + 2 >= len(keys):
            return [*said, Ended()]
        orders.appendleft(order)
        return said


@pytest.fixture
def lead(tmp_path):
    """(crew, traits) -> what failed and what was told; vectors are not built."""

    def run(
        crew, names=("evil", "refusal"), clock=None, stages=("rollouts", "judgements"), **workers
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
        told = []
        made = Scheduler(
            jobs, crew, FakeJudge(), told.append, tmp_path / "logs", *([clock] if clock else [])
        )
        try:
            failures = made.run()
        finally:
            assert crew._at == {}
        return failures, told

    run.run = Run(tmp_path / "run")
    run.files = lambda name: Run(tmp_path / "run").trait(name)
    run.logs = tmp_path / "logs"
    return run


def counted(lead, *names):
    found = {name: [rollout.id for rollout in lead.files(name).rollouts()] for name in names}
    assert all(len(ids) == len(set(ids)) for ids in found.values())
    return {name: len(ids) for name, ids in found.items()}


@pytest.mark.parametrize("places", [1, 2, 5, 64])
def test_everything_is_made_once_however_many_work_on_it(lead, places):
    failures, told = lead(Script(places))

    assert failures == []
    assert counted(lead, "evil", "refusal") == {"evil": ROLLOUTS, "refusal": ROLLOUTS}
    assert [
        len(TraitSnapshot.read(lead.run, name).judged_by("fake")) for name in ("evil", "refusal")
    ] == [20, 20]
    assert sum(isinstance(event, StageFinished) for event in told) == 4
    assert (
        max(e.done for e in told if isinstance(e, Progressed) and e.stage == "rollouts") == ROLLOUTS
    )


def test_what_is_merged_has_the_activations_of_all(lead):
    lead(Script(5), stages=("rollouts",))

    ids = [rollout.id for rollout in lead.files("evil").rollouts()]

    assert lead.files("evil").activations(ids, "response_avg").shape == (ROLLOUTS, 3, 4)


def test_no_more_workers_are_hired_than_there_is_work(lead):
    crew = Script(64)

    lead(crew, names=("evil",))
    lead(crew, names=("evil",))

    assert set(crew.hired.values()) == {1}
    assert len(crew.hired) == ROLLOUTS


def test_who_is_done_takes_over_what_others_have_not_begun(lead):
    slow = iter(range(10**6))
    crew = Script(2, lambda place, task, made: [] if place == 1 and next(slow) % 4 else None)

    failures, _ = lead(crew)

    shares = [place for place, order in crew.sent if isinstance(order, Share)]
    assert failures == []
    assert 1 in shares
    assert counted(lead, "evil", "refusal") == {"evil": ROLLOUTS, "refusal": ROLLOUTS}
    assert "gave up" in (lead.logs / "worker-1.log").read_text()


def dies_once(when):
    left = [1]

    def on_turn(place, task, made):
        if left and when(place, task, made):
            left.clear()
            return [Gone("its worker died (exit code -9)")]
        return None

    return on_turn


@pytest.mark.parametrize("made", [0, 2, 14])
def test_what_a_dead_worker_left_is_made_by_another(lead, made):
    crew = Script(2, dies_once(lambda place, task, done: place == 1 and done == made))

    failures, told = lead(crew)

    assert failures == []
    assert crew.ended[1] == 1
    assert counted(lead, "evil", "refusal") == {"evil": ROLLOUTS, "refusal": ROLLOUTS}
    [warning] = [event for event in told if isinstance(event, Warned)]
    assert warning.message == "its worker died (exit code -9); another one goes on"
    assert any(isinstance(event, WorkerSeen) and event.doing == "gone" for event in told)


def kills_evil(place, task, made):
    return [Gone("its worker died (CUDA error)")] if task.trait.name == "evil" else None


def test_a_trait_that_kills_its_workers_fails_and_the_others_go_on(lead):
    failures, told = lead(Script(2, kills_evil), max_crashes=3)

    [failure] = failures
    assert (failure.trait, failure.stage) == ("evil", "worker")
    assert failure.cause == "its worker died (CUDA error), as did 2 before"
    assert counted(lead, "refusal") == {"refusal": ROLLOUTS}
    assert [event for event in told if isinstance(event, TraitFailed)] == [failure]


def test_a_worker_that_dies_after_it_made_something_is_no_try(lead):
    deaths = []

    def on_turn(place, task, made):
        if made == 2 and len(deaths) < 12:
            deaths.append(place)
            return [Gone("its worker died (exit code -9)")]
        return None

    failures, _ = lead(Script(2, on_turn), max_crashes=3)

    assert failures == []
    assert len(deaths) == 12
    assert counted(lead, "evil", "refusal") == {"evil": ROLLOUTS, "refusal": ROLLOUTS}


def test_a_device_on_which_workers_die_is_left_alone(lead):
    crew = Script(2)
    crew._turn = lambda place, orders, turn=crew._turn: (
        turn(place, orders) if place == 0 or orders[0] is not None else [Gone("no such device")]
    )

    failures, _ = lead(crew, max_crashes=3)

    assert failures == []
    assert crew.hired == {0: 1, 1: 3}
    assert counted(lead, "evil", "refusal") == {"evil": ROLLOUTS, "refusal": ROLLOUTS}


def test_where_no_worker_lives_all_fails(lead):
    crew = Script(2)
    crew._turn = lambda place, orders: [Gone("its worker died (exit code 1)")]

    failures, _ = lead(crew, max_crashes=2)

    assert [failure.trait for failure in failures] == ["evil", "refusal"]
    assert {failure.cause for failure in failures} == {
        "no worker is left: on every device they died"
    }
    assert crew.hired == {0: 2, 1: 2}


def test_a_worker_that_says_nothing_counts_as_dead(lead):
    now = [0.0]
    hanging = [True]

    def clock(seconds):
        now[0] += seconds
        hanging[0] = hanging[0] and now[0] < 50

    crew = Script(2, lambda place, task, made: [] if place == 1 and hanging[0] else None, clock)

    failures, told = lead(crew, clock=lambda: now[0], heartbeat_timeout=20)

    assert failures == []
    assert crew.ended[1] >= 1
    assert any(
        isinstance(event, Warned) and "said nothing for 2" in event.message for event in told
    )


def test_what_is_wrong_with_one_trait_stops_no_other(lead):
    wrong = TraitError("the prompts are the same", cause="a template", fix="another one")
    crew = Script(
        2, lambda place, task, made: [Ended(wrong)] if task.trait.name == "evil" else None
    )

    failures, _ = lead(crew)

    assert failures == [
        TraitFailed("evil", "rollouts", "the prompts are the same", "a template", "another one")
    ]
    assert counted(lead, "refusal") == {"refusal": ROLLOUTS}


def test_what_no_trait_can_go_on_after_is_raised(lead):
    crew = Script(
        2, lambda place, task, made: [Fatal(ConfigError("no key"))] if made == 4 else None
    )

    with pytest.raises(ConfigError, match="no key"):
        lead(crew)

    assert 0 < sum(counted(lead, "evil", "refusal").values()) < 2 * ROLLOUTS


def test_ctrl_c_takes_what_is_finished_and_ends_everyone(lead):
    def on_turn(place, task, made):
        if made == 6:
            raise KeyboardInterrupt
        return

    crew = Script(2, on_turn)

    with pytest.raises(KeyboardInterrupt):
        lead(crew)

    assert {type(order) for _, order in crew.sent[-2:]} == {Stop}
    assert sum(counted(lead, "evil", "refusal").values()) >= 12
