"""A worker at work: what it does of a task, what it gives up, and how it stops."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import pytest

from traitcli.errors import ConfigError, DefinitionError
from traitcli.pipeline.messages import (
    Began,
    Ended,
    Fatal,
    GaveUp,
    Generating,
    Gone,
    Heartbeat,
    Judged,
    Logged,
    Made,
    Ready,
    Scoring,
    Share,
    Stop,
    StoppedError,
)
from traitcli.pipeline.plan import plan_rollouts
from traitcli.pipeline.worker_context import Worker
from traitcli.scheduling.worker import WorkerLoop, serve
from traitcli.traits.definitions import find_traits, load_trait

TRAIT = load_trait(find_traits(Path("nowhere"))["refusal"])


class Inbox:
    """Orders, each of which comes when so many messages were told."""

    def __init__(self, told, *orders):
        self._told = told
        self._orders = deque(orders)

    def waits(self):
        return bool(self._orders) and len(self._told) >= self._orders[0][0]

    def take(self):
        if not self._orders:
            raise EOFError
        return self._orders.popleft()[1]


@pytest.fixture
def start(tiny_config):
    """Orders -> a shift with four places, the task for it, and what it tells."""

    def make(*orders, **extract):
        config = tiny_config.model_copy(
            update={"extract": tiny_config.extract.model_copy(update={"batch_size": 4, **extract})}
        )
        told = []
        worker = Worker(config, "cpu", told.append)
        task = Generating(TRAIT, tuple(plan_rollouts(TRAIT, config.extract)))
        ticking = iter(range(10**6))
        return (
            WorkerLoop(worker, Inbox(told, *orders), told.append, lambda: float(next(ticking))),
            task,
            told,
        )

    return make


def made_of(told):
    return [
        rollout.id for message in told if isinstance(message, Made) for rollout in message.rollouts
    ]


def test_a_task_is_done_piece_by_piece(start):
    shift, task, told = start()

    shift.do(task)

    assert sorted(made_of(told)) == sorted(task.ids)
    assert told[-1] == Ended()
    ticks = [message for message in told if isinstance(message, Heartbeat)]
    assert sum(tick.tokens for tick in ticks) > 0
    assert all(tick.memory > 2**20 for tick in ticks)
    assert [tick.unbegun for tick in ticks] == sorted(
        (tick.unbegun for tick in ticks), reverse=True
    )
    assert sum(isinstance(message, Began) for message in told) == 1


@pytest.mark.parametrize("part", [0.5, 1.0])
def test_it_gives_up_a_part_of_what_it_has_not_begun(start, part):
    shift, task, told = start((4, Share(part)))

    shift.do(task)

    [given] = [message.ids for message in told if isinstance(message, GaveUp)]
    assert set(given) | set(made_of(told)) == set(task.ids)
    assert not set(given) & set(made_of(told))
    assert len(given) >= 8


def test_it_answers_too_when_nothing_is_left_to_give_up(start):
    shift, task, told = start((4, Share(1.0)), (9, Share(0.5)))

    shift.do(task)

    assert [bool(message.ids) for message in told if isinstance(message, GaveUp)] == [True, False]


def test_stopped_it_hands_over_what_is_complete(start):
    shift, task, told = start((8, Stop()))

    with pytest.raises(StoppedError):
        shift.do(task)

    assert 0 < len(made_of(told)) < len(task.ids)
    assert isinstance(told[-1], Made)


def test_a_prompt_that_is_the_same_on_both_sides_ends_the_task_and_not_the_worker(
    start, monkeypatch
):
    from dataclasses import replace

    shift, task, told = start()
    same = replace(TRAIT.pairs[0], negative=TRAIT.pairs[0].positive)
    adjectives = replace(TRAIT.adjectives, negative=TRAIT.adjectives.positive)
    wrong = replace(TRAIT, pairs=(same, *TRAIT.pairs[1:]), adjectives=adjectives)

    shift.do(Generating(wrong, task.keys[-3:]))

    assert isinstance(told[-1], Ended)
    assert isinstance(told[-1].failure, DefinitionError)


def test_a_worker_serves_until_nothing_comes(tiny_config):
    told = []
    inbox = Inbox(told, (0, Share(0.5)), (0, Scoring(TRAIT, ())), (0, Stop()))

    serve(lambda tell: Worker(tiny_config, "cpu", tell), inbox, told.append, "here")

    assert told == [Ready("here"), Began(), Ended(), Gone("it was stopped")]


def test_what_ends_a_worker_is_told(tiny_config):
    told = []

    def refuse(tell):
        raise ConfigError("no key")

    serve(refuse, Inbox(told), told.append)
    serve(lambda tell: 1 / 0, Inbox(told), told.append)

    assert [type(message) for message in told] == [Fatal, Logged, Gone]
    assert str(told[0].error) == "error: no key"
    assert "Traceback" in told[1].text
    assert told[2].cause == "its worker failed (ZeroDivisionError: division by zero)"


def test_a_cuda_error_costs_a_worker_and_not_the_run(start, monkeypatch, tiny_config):
    import traitcli.pipeline.extract as extract_module

    _, task, told = start()

    def fail(*given):
        raise RuntimeError(
            "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be"
        )

    monkeypatch.setattr(extract_module, "generate", fail)
    serve(lambda tell: Worker(tiny_config, "cpu", tell), Inbox(told, (0, task)), told.append)

    assert told[-1] == Gone(
        "its worker failed (RuntimeError: CUDA error: an illegal memory access was encountered)"
    )


def test_scores_are_told_as_they_are_final(start):
    from traitcli.judging import Answer

    shift, _, told = start()
    answers = tuple(Answer(f"r{n}", "positive", 0, "q", f"text {n}") for n in range(3))

    shift.do(Scoring(TRAIT, answers))

    assert sum(len(message.judgements) for message in told if isinstance(message, Judged)) == 3
