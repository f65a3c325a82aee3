"""The worker loop: how it runs a task, releases rollouts, and stops."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import pytest

from traitcli.errors import ConfigError, DefinitionError
from traitcli.pipeline.messages import (
    GenerateTask,
    Heartbeat,
    LogWritten,
    ReleaseRequest,
    RolloutsJudged,
    RolloutsMade,
    RolloutsReleased,
    RunFailed,
    ScoreTask,
    StoppedError,
    StopRequest,
    TaskEnded,
    TaskStarted,
    WorkerGone,
    WorkerReady,
)
from traitcli.pipeline.plan import plan_rollouts
from traitcli.pipeline.worker_context import Worker
from traitcli.scheduling.worker import WorkerLoop, run_worker
from traitcli.traits.definitions import find_traits, load_trait

TRAIT = load_trait(find_traits(Path("nowhere"))["refusal"])


class Inbox:
    """(n, message) pairs: each message arrives after the worker has sent n messages."""

    def __init__(self, sent, *messages):
        self._sent = sent
        self._messages = deque(messages)

    def has_message(self):
        return bool(self._messages) and len(self._sent) >= self._messages[0][0]

    def receive(self):
        if not self._messages:
            raise EOFError
        return self._messages.popleft()[1]


@pytest.fixture
def start(tiny_config):
    """Runs the loop of a worker with four slots and a task; returns the messages that it sends."""

    def make(*messages, **extract):
        config = tiny_config.model_copy(
            update={"extract": tiny_config.extract.model_copy(update={"batch_size": 4, **extract})}
        )
        sent = []
        worker = Worker(config, "cpu", sent.append)
        task = GenerateTask(TRAIT, tuple(plan_rollouts(TRAIT, config.extract)))
        seconds = iter(range(10**6))
        return (
            WorkerLoop(worker, Inbox(sent, *messages), sent.append, lambda: float(next(seconds))),
            task,
            sent,
        )

    return make


def rollouts_in(sent):
    return [
        rollout.id
        for message in sent
        if isinstance(message, RolloutsMade)
        for rollout in message.rollouts
    ]


def test_a_task_sends_its_rollouts_and_heartbeats(start):
    loop, task, sent = start()

    loop.run_task(task)

    assert sorted(rollouts_in(sent)) == sorted(task.ids)
    assert sent[-1] == TaskEnded()
    heartbeats = [message for message in sent if isinstance(message, Heartbeat)]
    assert sum(heartbeat.tokens for heartbeat in heartbeats) > 0
    assert all(heartbeat.memory > 2**20 for heartbeat in heartbeats)
    assert [heartbeat.unstarted for heartbeat in heartbeats] == sorted(
        (heartbeat.unstarted for heartbeat in heartbeats), reverse=True
    )
    assert sum(isinstance(message, TaskStarted) for message in sent) == 1


class Killed(BaseException):
    """Ends the loading."""


@pytest.mark.parametrize(
    ("device", "current"), [("cuda:3", [3]), ("cuda", []), ("cpu", []), ("auto", [])]
)
def test_a_worker_makes_its_gpu_the_current_one_before_it_loads_a_model(
    device, current, tiny_config, monkeypatch
):
    import torch

    import traitcli.models.load as load_module

    calls = []

    def read(config, source, device, trust):
        calls.append("loads")
        raise Killed

    monkeypatch.setattr(torch.cuda, "set_device", calls.append)
    monkeypatch.setattr(load_module, "pick_device", lambda wanted: wanted)
    monkeypatch.setattr(load_module, "read_weights", read)

    with pytest.raises(Killed):
        Worker(tiny_config, device, lambda event: None).model()

    assert calls == [*current, "loads"]


@pytest.mark.parametrize("fraction", [0.5, 1.0])
def test_a_worker_releases_a_fraction_of_its_unstarted_rollouts(start, fraction):
    loop, task, sent = start((4, ReleaseRequest(fraction)))

    loop.run_task(task)

    [released] = [message.ids for message in sent if isinstance(message, RolloutsReleased)]
    assert set(released) | set(rollouts_in(sent)) == set(task.ids)
    assert not set(released) & set(rollouts_in(sent))
    assert len(released) >= 8


def test_a_worker_answers_a_release_request_when_no_rollouts_are_left(start):
    loop, task, sent = start((4, ReleaseRequest(1.0)), (9, ReleaseRequest(0.5)))

    loop.run_task(task)

    assert [bool(message.ids) for message in sent if isinstance(message, RolloutsReleased)] == [
        True,
        False,
    ]


def test_a_stopped_worker_sends_what_is_complete(start):
    loop, task, sent = start((8, StopRequest()))

    with pytest.raises(StoppedError):
        loop.run_task(task)

    assert 0 < len(rollouts_in(sent)) < len(task.ids)
    assert isinstance(sent[-1], RolloutsMade)


def test_equal_prompts_on_both_sides_end_the_task_and_not_the_worker(start, monkeypatch):
    from dataclasses import replace

    loop, task, sent = start()
    same = replace(TRAIT.pairs[0], negative=TRAIT.pairs[0].positive)
    adjectives = replace(TRAIT.adjectives, negative=TRAIT.adjectives.positive)
    wrong = replace(TRAIT, pairs=(same, *TRAIT.pairs[1:]), adjectives=adjectives)

    loop.run_task(GenerateTask(wrong, task.keys[-3:]))

    assert isinstance(sent[-1], TaskEnded)
    assert isinstance(sent[-1].failure, DefinitionError)


def test_a_worker_runs_until_a_stop_request(tiny_config):
    sent = []
    inbox = Inbox(sent, (0, ReleaseRequest(0.5)), (0, ScoreTask(TRAIT, ())), (0, StopRequest()))

    run_worker(lambda send: Worker(tiny_config, "cpu", send), inbox, sent.append, "here")

    assert sent == [WorkerReady("here"), TaskStarted(), TaskEnded(), WorkerGone("it was stopped")]


def test_a_worker_sends_the_error_that_ends_it(tiny_config):
    sent = []

    def refuse(send):
        raise ConfigError("no key")

    run_worker(refuse, Inbox(sent), sent.append)
    run_worker(lambda send: 1 / 0, Inbox(sent), sent.append)

    assert [type(message) for message in sent] == [RunFailed, LogWritten, WorkerGone]
    assert str(sent[0].error) == "error: no key"
    assert "Traceback" in sent[1].text
    assert sent[2].cause == "its worker failed (ZeroDivisionError: division by zero)"


@pytest.mark.parametrize(
    ("error", "permanent"),
    [
        (AssertionError("daemonic processes are not allowed to have children"), True),
        (ImportError("no module named x"), True),
        (ValueError("no room for the KV cache"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (OSError("stale file handle"), False),
    ],
)
def test_a_worker_says_whether_its_error_will_come_again(error, permanent):
    sent = []

    def fail(send):
        raise error

    run_worker(fail, Inbox(sent), sent.append)

    assert sent[-1].permanent == permanent


def test_a_cuda_error_ends_the_worker_and_not_the_run(start, monkeypatch, tiny_config):
    import traitcli.pipeline.extract as extract_module

    _, task, sent = start()

    def fail(*arguments):
        raise RuntimeError(
            "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be"
        )

    monkeypatch.setattr(extract_module, "generate", fail)
    run_worker(lambda send: Worker(tiny_config, "cpu", send), Inbox(sent, (0, task)), sent.append)

    assert sent[-1] == WorkerGone(
        "its worker failed (RuntimeError: CUDA error: an illegal memory access was encountered)"
    )


def test_a_worker_sends_final_scores(start):
    from traitcli.judging import Answer

    loop, _, sent = start()
    answers = tuple(Answer(f"r{n}", "positive", 0, "q", f"text {n}") for n in range(3))

    loop.run_task(ScoreTask(TRAIT, answers))

    assert (
        sum(len(message.judgements) for message in sent if isinstance(message, RolloutsJudged)) == 3
    )


def test_a_worker_sends_the_means_of_a_prompt_once_for_all_repeats_and_tasks(start):
    loop, task, sent = start(repeats=3)
    first, second = task.keys[:7], task.keys[7:12]

    loop.run_task(GenerateTask(TRAIT, first))
    loop.run_task(GenerateTask(TRAIT, second))

    batches = [m.states for m in sent if isinstance(m, RolloutsMade) and m.states]
    new = [prompt for batch in batches for prompt in batch.new_prompts]
    assert sum(len(batch.ids) for batch in batches) == 12
    assert len(new) == len(set(new)) == 4
    assert {prompt for batch in batches for prompt in batch.prompts} == set(new)
    for batch in batches:
        rows = {name: len(tensor) for name, tensor in batch.tensors.items()}
        assert rows.get("prompt_avg", 0) == rows.get("prompt_last", 0) == len(batch.new_prompts)
