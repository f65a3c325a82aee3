"""A writer beside the reader: what overlaps, what ends it, and what it must not change."""

from __future__ import annotations

import threading

import pytest

import traitcli.generation.external_engine as external_engine
from tests.unit.test_decode import PROMPTS, SAMPLED, answers, assert_same, requests
from tests.vllm_stand_in import install
from traitcli.generation.external_engine import Callbacks, write_then_read
from traitcli.generation.request import release_none
from traitcli.generation.vllm import VllmWriter
from traitcli.models.batch_size import BatchSize

ROUND = 3


class Scripted:
    """Writes answers that are known, and waits at each round until a test lets it go on."""

    beside = True

    def __init__(self, known, rounds=4):
        self._known = known
        self.begun = [threading.Event() for _ in range(rounds)]
        self.may_end = [threading.Event() for _ in range(rounds)]
        self.asked = []

    def start(self):
        assert not self.asked

    def write(self, asked, sampling, on_step):
        number = len(self.asked)
        self.asked.append(list(asked))
        self.begun[number].set()
        self.may_end[number].wait()
        for request in asked:
            on_step(len(self._known[request][0]))
        return [self._known[request] for request in asked]


@pytest.fixture
def model(loaded, monkeypatch):
    monkeypatch.setattr(external_engine, "ANSWERS_PER_ROUND", ROUND)
    return loaded("llama")


@pytest.fixture
def asked(model):
    """Eight requests: rounds of three, three and two."""
    return requests(model, [f"{prompt} {number}" for number in range(2) for prompt in PROMPTS])


@pytest.fixture
def expected(model, asked):
    return answers(model, asked)


@pytest.fixture
def writer(asked, expected):
    known = zip(asked, expected, strict=True)
    return Scripted({request: (one.ids, one.finish_reason) for request, one in known})


def read(model, writer, asked, on_step=lambda tokens: None, release=release_none):
    callbacks = Callbacks(lambda: BatchSize(64), on_step, release)
    return write_then_read(model, writer, asked, SAMPLED, callbacks)


def writing_threads():
    return [thread for thread in threading.enumerate() if thread.name == "writer"]


def take(made, count):
    return [next(made) for _ in range(count)]


def let_all_end(writer):
    for event in writer.may_end:
        event.set()


def test_the_next_round_is_written_while_one_is_read(model, writer, asked, expected):
    writer.may_end[0].set()
    made = read(model, writer, asked)

    first = take(made, 1)
    writer.begun[1].wait()  # the second round has begun, and cannot end
    first += take(made, ROUND - 1)

    assert {index for index, _ in first} == {0, 1, 2}
    assert_same([one for _, one in sorted(first)], expected[:ROUND])
    let_all_end(writer)
    assert {index for index, _ in made} == set(range(3, 8))


def test_not_more_than_one_round_is_ahead(model, writer, asked):
    writer.may_end[0].set()
    writer.may_end[1].set()
    made = read(model, writer, asked)
    take(made, 1)
    writer.begun[1].wait()

    take(made, ROUND - 1)

    # Only when the first round is read, the second is waited for and the third begins.
    assert not writer.begun[2].is_set()
    let_all_end(writer)
    take(made, 1)
    writer.begun[2].wait()
    made.close()
    assert [len(one) for one in writer.asked] == [3, 3, 2]


def test_an_error_of_the_writer_comes_after_all_answers_before_it(model, writer, asked):
    class Fails(Scripted):
        def write(self, asked, sampling, on_step):
            if self.asked:
                raise ValueError("the engine has died")
            return super().write(asked, sampling, on_step)

    failing = Fails(writer._known)
    failing.may_end[0].set()
    made = read(model, failing, asked)

    found = take(made, ROUND)
    with pytest.raises(ValueError, match=r"^the engine has died$"):
        next(made)

    assert {index for index, _ in found} == {0, 1, 2}
    assert not writing_threads()


def test_an_error_of_the_reader_ends_the_writing(model, writer, asked, monkeypatch):
    def refuse(*options):
        writer.begun[1].wait()
        let_all_end(writer)
        raise ArithmeticError("a state is not finite")

    monkeypatch.setattr(external_engine, "read_texts", refuse)
    writer.may_end[0].set()

    with pytest.raises(ArithmeticError, match=r"^a state is not finite$"):
        list(read(model, writer, asked))

    assert not writing_threads()
    assert len(writer.asked) == 2


def test_closing_ends_a_round_in_the_middle_and_the_thread(model, writer, asked):
    ended = []

    class Endless(Scripted):
        def write(self, asked, sampling, on_step):
            if not self.asked:
                return super().write(asked, sampling, on_step)
            self.begun[1].set()
            try:
                while True:
                    on_step(0)
            finally:
                ended.append(len(asked))

    endless = Endless(writer._known)
    endless.may_end[0].set()
    made = read(model, endless, asked)
    take(made, 1)
    endless.begun[1].wait()

    made.close()

    assert ended == [3]
    assert not writing_threads()


def test_a_stop_while_it_waits_ends_the_writing_too(model, writer, asked):
    def stop(tokens):
        raise KeyboardInterrupt

    let_all_end(writer)

    with pytest.raises(KeyboardInterrupt):
        list(read(model, writer, asked, stop))

    assert len(writer.asked) == 1
    assert not writing_threads()


def test_only_requests_that_nobody_has_begun_to_write_are_released(model, writer, asked, expected):
    calls = []

    def release(unstarted):
        calls.append(unstarted)
        return unstarted if len(calls) == 2 else 0

    let_all_end(writer)

    made = dict(read(model, writer, asked, release=release))

    # The second call comes before the first round is read; five have not begun.
    assert calls == [8, 5]
    assert [index for index, one in made.items() if one is None] == [3, 4, 5, 6, 7]
    assert writer.asked == [asked[:3]]
    assert_same([made[index] for index in range(3)], expected[:3])


def test_who_wants_requests_when_none_are_left_gets_an_answer(model, writer, asked):
    calls = []
    let_all_end(writer)

    list(read(model, writer, asked, release=lambda unstarted: calls.append(unstarted) or 0))

    assert calls == [8, 5, 2, 0]


def test_tokens_are_counted_once_also_those_written_while_it_reads(model, writer, asked, expected):
    counted = []
    writer.may_end[0].set()
    made = read(model, writer, asked, counted.append)
    take(made, 1)
    before = sum(counted)
    writer.begun[1].wait()
    writer.may_end[1].set()

    list_of_first = take(made, ROUND - 1)
    let_all_end(writer)
    rest = list(made)

    assert before == sum(len(one.ids) for one in expected[:ROUND])
    assert len(list_of_first) + len(rest) == len(asked) - 1
    assert sum(counted) == sum(len(one.ids) for one in expected)


def test_the_results_are_those_of_writing_and_reading_in_turn(loaded, asked, model, monkeypatch):
    install(monkeypatch, loaded("llama"), [(40, 80)])

    class InTurn(VllmWriter):
        beside = False

    found, expected = (dict(read(model, make(model, [0]), asked)) for make in (VllmWriter, InTurn))

    assert sorted(found) == sorted(expected) == list(range(8))
    # The same seeds, so the same sampled texts; and the same states.
    assert_same([found[i] for i in range(8)], [expected[i] for i in range(8)])


def test_what_vllm_has_not_finished_is_aborted_and_not_part_of_the_next_call(
    loaded, asked, model, monkeypatch
):
    vllm = install(monkeypatch, loaded("llama"), [(40, 80)])
    writer = VllmWriter(model, [0])
    writer.start()
    steps = []

    def stop(tokens):
        steps.append(tokens)
        if len(steps) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        writer.write(asked, SAMPLED, stop)
    made = writer.write(asked[:2], SAMPLED, lambda tokens: None)

    # Nothing at the first step, then three answers at each.
    assert steps[0] == 0 < steps[1]
    assert vllm.aborted == ["0-internal", "1-internal"]
    assert [ids for ids, _ in made] == [one.ids for one in answers(model, asked[:2])]
    assert vllm.started == 1
