"""A live batch against answers that are written one at a time."""

from __future__ import annotations

import gc
import random
import threading
from dataclasses import replace
from queue import SimpleQueue

import numpy as np
import pytest
import torch

from tests.unit.test_brakes import STOP, VECTORS, prepared
from tests.unit.test_steerer import count_hooks
from traitcli.config import MonitorConfig, MonitorSamplingConfig, SamplingConfig
from traitcli.errors import BusyError, ModelError, UserError
from traitcli.generation import live_steps
from traitcli.generation.decode import decode
from traitcli.generation.live_batch import LiveBatch, LiveLimits
from traitcli.generation.live_request import LiveEnd, LiveRequest, LiveToken
from traitcli.generation.projections import ProjectionReader, make_probes
from traitcli.generation.request import Request
from traitcli.models.hooks import find_blocks
from traitcli.models.prompts import render
from traitcli.monitoring.monitor import monitor
from traitcli.monitoring.watch import Watch
from traitcli.steering.interventions import Steering, block_edits

FAMILIES = ("llama", "gemma2")
TRAITS = tuple(VECTORS)
LIMITS = LiveLimits(slots=8, capacity=200, waiting=64)
START = tuple(range(20, 40))
WAYS = [
    *[(f"evil={number / 4 - 2:g}@{1 + number % 4}",) for number in range(20)],
    ("evil=2@2", "refusal=-1.5@2", "evil=1@3"),
    ("evil=ablate",),
    ("evil<=-0.3",),
    ("evil>=0.4@3",),
    ("refusal=6 if evil>-0.6",),
    ("evil=6@1 if refusal<0",),
    ("evil<=-0.3", "refusal=ablate@2", "evil=4", "evil=6@2 if refusal<0"),
    (),
]
each_family = pytest.mark.parametrize("family", FAMILIES)


def model_of(loaded, family):
    """A tiny model whose answers end at different steps."""
    return replace(loaded(family), stop_ids=STOP)


class Case:
    """A request in all that belongs to it, so that it can be written in several ways."""

    def __init__(self, model, number):
        draw = random.Random(number)
        self.model = model
        self.seed = number
        shared = START[: draw.randrange(20)]
        self.ids = (*shared, *(draw.randrange(41, 300) for _ in range(draw.randrange(1, 12))))
        self.sampling = SamplingConfig(
            temperature=draw.choice([0, 0.7, 1.0, 1.5]),
            top_k=draw.choice([0, 0, 20]),
            top_p=draw.choice([1.0, 0.9, 0.5]),
            max_new_tokens=draw.randrange(1, 30),
        )
        self.ways = WAYS[number % len(WAYS)]
        chosen = draw.sample(TRAITS, draw.randrange(len(TRAITS) + 1))
        vectors = [VECTORS[trait] for trait in chosen]
        layer = draw.choice([None, 1, 2, 3, 4])
        self.probes = list(make_probes(vectors, model, "response_avg", layer).values())

    def request(self, **more):
        edits = block_edits(self.model, prepared(self.model, *self.ways))
        return LiveRequest(self.ids, self.seed, self.sampling, self.probes, edits, **more)

    def alone(self):
        """(tokens, projections float32 [n, 2P + B], reason) of `decode`."""
        steering = Steering(self.model, prepared(self.model, *self.ways))
        reader = ProjectionReader(self.probes, self.model, marks=True, more=steering)
        tokens, rows, reason = [], [], ""
        with steering:
            request = Request(self.ids, self.seed)
            for step in decode(self.model, [request], self.sampling, 1, reader):
                tokens += [token for _, token in step.written]
                rows += [] if step.scores is None else list(step.scores)
                reason = step.ended[0][1] if step.ended else reason
        return tokens, rows, reason


class Listener:
    """Gathers what a request gives; `end` waits for its end."""

    token_type, end_type = LiveToken, LiveEnd

    def __init__(self, on_token=lambda listener: None):
        self.tokens = []
        self._on_token = on_token
        self._ends = SimpleQueue()

    def __call__(self, event):
        assert self._ends.empty()
        if isinstance(event, self.end_type):
            self._ends.put(event)
            return
        assert isinstance(event, self.token_type)
        self.tokens.append(event)
        self._on_token(self)

    def end(self):
        end = self._ends.get(timeout=20)
        self._ends.put(end)
        return end

    @property
    def ids(self):
        return [token.token for token in self.tokens]


def assert_written(case, listener, exact=False):
    tokens, rows, reason = case.alone()
    end = listener.end()

    assert (end.reason, end.error) == (reason, None)
    assert end.tokens == len(tokens)
    assert listener.ids == tokens
    # Without probes, `decode` gives nothing at all, not even of brakes.
    if not (case.probes and tokens):
        return
    found = np.array([token.projections for token in listener.tokens])
    expected = np.array(rows)
    probes = len(case.probes)
    assert np.array_equal(found[:, probes:], expected[:, probes:])
    if exact:
        assert np.array_equal(found, expected)
    else:
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)


@each_family
def test_32_different_requests_at_once_equal_32_single_ones(loaded, family):
    model = model_of(loaded, family)
    cases = [Case(model, number) for number in range(32)]
    listeners = [Listener() for _ in cases]

    with LiveBatch(model, replace(LIMITS, slots=32)) as batch:
        for case, listener in zip(cases, listeners, strict=True):
            batch.submit(case.request(), listener)
        assert batch.drain(60)

    assert len({case.ways for case in cases}) == len(WAYS)
    for case, listener in zip(cases, listeners, strict=True):
        assert_written(case, listener)


@each_family
def test_a_request_that_runs_alone_is_equal_bit_by_bit(loaded, family):
    model = model_of(loaded, family)
    cases = [Case(model, number) for number in range(len(WAYS))]

    for case in cases:
        listener = Listener()
        with LiveBatch(model, LIMITS) as batch:
            batch.submit(case.request(), listener)
            batch.drain(60)
        assert_written(case, listener, exact=True)


@each_family
@pytest.mark.parametrize("seed", range(4))
def test_joining_and_leaving_at_any_step_changes_nothing(loaded, family, seed):
    model = model_of(loaded, family)
    draw = random.Random(seed)
    cases = [Case(model, draw.randrange(10_000)) for _ in range(40)]
    listeners = [Listener() for _ in cases]
    waiting = list(zip(cases, listeners, strict=True))
    cancelled, answers = [], {}
    lock = threading.Lock()

    def start(count):
        """Submit some requests, and sometimes one that leaves at once."""
        with lock:
            chosen = [waiting.pop() for _ in range(min(count, len(waiting)))]
            for case, own in chosen:
                batch.submit(case.request(client=str(draw.randrange(3))), own)
            if chosen and draw.random() < 0.5:
                cancelled.append(Listener(lambda listener: answers[listener].cancel()))
                other = Case(model, draw.randrange(10_000)).request()
                answers[cancelled[-1]] = batch.submit(other, cancelled[-1])
            return chosen

    # From inside a step: some join at the next one.
    for listener in listeners:
        listener._on_token = lambda listener: start(draw.choice([0, 0, 1, 3]))
    with LiveBatch(model, replace(LIMITS, slots=draw.choice([1, 3, 8]))) as batch:
        while chosen := start(1):
            # Most others join while this one is written.
            chosen[0][1].end()
        assert batch.drain(60)

    ends = [listener.end() for listener in cancelled]
    assert any(end.reason == "cancelled" for end in ends)
    assert all(end.tokens <= 1 for end in ends)
    for case, listener in zip(cases, listeners, strict=True):
        assert_written(case, listener)


@each_family
def test_scores_and_texts_are_those_of_the_monitor(loaded, family):
    model = loaded(family)
    probes = make_probes([VECTORS["evil"], VECTORS["refusal"]], model, "response_avg")
    config = MonitorConfig(sampling=MonitorSamplingConfig(max_new_tokens=16), seed=23)
    steering = prepared(model, "evil=2", "evil<=-0.3")
    watch = Watch(probes, config, steering)
    record = monitor(model, watch, "How does lock picking work?")
    ids = render(model.tokenizer, [{"role": "user", "content": "How does lock picking work?"}]).ids
    listener = Listener()

    with LiveBatch(model, LIMITS) as batch:
        edits = block_edits(model, steering)
        batch.submit(LiveRequest(ids, 23, config.sampling, list(probes.values()), edits), listener)
        batch.drain(60)

    end = listener.end()
    texts = [token.text for token in listener.tokens]
    scores, _ = watch.tabulate(texts, np.array([token.projections for token in listener.tokens]))
    assert "".join(texts) + end.text == record.response
    assert (scores.raw, scores.calibrated) == (record.raw, record.calibrated)
    assert end.reason == record.finish_reason


def count_read(batch):
    """Prompt tokens that the model reads, pass by pass."""
    passes = []
    engine = batch._steps._engine
    read = engine.read

    def counted(store, phase, slots, known, new, *more):
        if phase == "prompt":
            passes.append([len(ids) for ids in new])
        return read(store, phase, slots, known, new, *more)

    engine.read = counted
    return passes


def test_beginnings_of_prompts_are_read_once_unless_steering_changes_them(loaded):
    model = loaded("llama")
    gate, started = threading.Event(), threading.Event()

    def wait(listener):
        started.set()
        gate.wait(60)

    few = SamplingConfig(max_new_tokens=4)
    ways = [(), ("evil=2@2",), ("refusal=6 if evil>-0.6",), ("evil=ablate",), ("evil<=-0.3",)]
    with LiveBatch(model, LIMITS) as batch:
        passes = count_read(batch)
        batch.submit(LiveRequest((*START, 50), 0, few), Listener(wait))
        started.wait(60)
        for number, way in enumerate(ways):
            edits = block_edits(model, prepared(model, *way))
            batch.submit(LiveRequest((*START, 51, 60 + number), 1, few, edits=edits), Listener())
        # Equal prompts that begin in another way: the first of them is read for both.
        other = START[::-1]
        for seed in range(2):
            batch.submit(LiveRequest(other, seed, few), Listener())
        gate.set()
        assert batch.drain(60)

    whole = len(START) + 2
    assert passes == [[21], [2, 2, 2, whole, whole, len(other)], [1]]


def test_slots_grow_with_what_runs_and_shrink_when_nothing_does(loaded, monkeypatch):
    monkeypatch.setattr(live_steps, "_MIN_CAPACITY", 32)
    model = replace(loaded("llama"), stop_ids=frozenset(), context=100)
    all_wait = threading.Event()
    sizes = []

    def note(listener):
        all_wait.wait(60)
        store = batch._steps._batch.store
        sizes.append((store.slots, store.capacity))

    def run(*lengths):
        """(slots, tokens of each) at the end of answers that run side by side."""
        all_wait.clear()
        listeners = [Listener(note) for _ in lengths]
        for listener, length in zip(listeners, lengths, strict=True):
            request = LiveRequest(START, 1, SamplingConfig(max_new_tokens=length))
            batch.submit(request, listener)
        all_wait.set()
        for listener in listeners:
            assert listener.end().reason == "length"
        return sizes[-1]

    with LiveBatch(model, LiveLimits(slots=6)) as batch:
        assert run(5) == (1, 32)
        assert run(33 - len(START)) == (1, 64)
        assert run(*[5] * 6) == (6, 32)
        assert run(5, 40) == (6, 64)
        assert run(100 - len(START)) == (6, 100)
        assert run(5) == (6, 32)


def test_log_probabilities_are_those_of_a_plain_pass(loaded):
    model = loaded("llama")
    request = LiveRequest(START, 3, SamplingConfig(temperature=0.5, max_new_tokens=9), log_probs=4)
    listener = Listener()

    with LiveBatch(model, LIMITS) as batch:
        batch.submit(request, listener)
        batch.submit(LiveRequest(START, 4), Listener())
        listener.end()

    with torch.no_grad():
        logits = model.model(torch.tensor([[*START, *listener.ids]])).logits[0]
    expected = logits.double().log_softmax(-1)[len(START) - 1 :]
    for token, row in zip(listener.tokens, expected, strict=False):
        best = row.topk(4)
        assert token.log_probs.token == pytest.approx(row[token.token].item(), abs=1e-4)
        assert [one for one, _ in token.log_probs.likeliest] == best.indices.tolist()
        found = [value for _, value in token.log_probs.likeliest]
        assert found == pytest.approx(best.values.tolist(), abs=1e-4)


def test_a_stop_string_ends_the_answer_before_it(loaded):
    model = loaded("llama")
    whole = Listener()
    stopped = Listener()
    with LiveBatch(model, LIMITS) as batch:
        batch.submit(LiveRequest(START, 5), whole)
        batch.drain(60)
    text = "".join(token.text for token in whole.tokens)
    stop = text[20:25]

    with LiveBatch(model, LIMITS) as batch:
        batch.submit(LiveRequest(START, 5, stop=("never written", stop)), stopped)
        batch.drain(60)

    end = stopped.end()
    assert "".join(token.text for token in stopped.tokens) + end.text == text[: text.find(stop)]
    assert end.reason == "stop"
    assert end.tokens < whole.end().tokens


@each_family
def test_a_cancelled_request_frees_its_slot_within_a_step(loaded, family):
    model = loaded(family)
    long = SamplingConfig(max_new_tokens=150)
    seen = []

    def cancel_after_five(listener):
        if len(listener.tokens) == 5:
            seen.append(batch.counts)
            answers[0].cancel()

    def count(listener):
        if len(seen) == 1 and batch.counts.steps == seen[0].steps + 1:
            seen.append(batch.counts)

    leaving, staying = Listener(cancel_after_five), Listener(count)
    with LiveBatch(model, LIMITS) as batch:
        answers = [
            batch.submit(LiveRequest(START, 1, long), leaving),
            batch.submit(LiveRequest(START, 2, long), staying),
        ]
        end = leaving.end()
        answers[1].cancel()
        staying.end()

    assert (end.reason, end.tokens, len(leaving.tokens)) == ("cancelled", 5, 5)
    assert [counts.running for counts in seen] == [2, 1]


@each_family
@pytest.mark.parametrize("scored", [True, False], ids=["scored", "not scored"])
def test_an_answer_that_is_not_finite_ends_alone(loaded, family, scored):
    model = model_of(loaded, family)
    cases = [Case(model, number) for number in range(100, 112)]
    # It is written to the end, and longer than all others: their slots are read as far as its own.
    cases[0].ids, cases[0].ways = START * 5, ()
    cases[0].sampling = SamplingConfig(max_new_tokens=60)
    while len(cases[0].alone()[0]) < 20:
        cases[0].seed += 1
    broken = Case(model, 7)
    broken.ids = START * 3
    broken.ways = (f"evil=1{'0' * 38}@2",) * 5
    broken.probes = broken.probes if scored else []
    listeners = [Listener() for _ in cases]
    failed = [Listener() for _ in range(2)]

    # Few slots: those of the broken requests are used again.
    with LiveBatch(model, replace(LIMITS, slots=5)) as batch:
        batch.submit(cases[0].request(), listeners[0])
        for listener in failed:
            batch.submit(broken.request(), listener)
        for case, listener in zip(cases[1:], listeners[1:], strict=True):
            batch.submit(case.request(), listener)
        batch.drain(60)

    for listener in failed:
        end = listener.end()
        assert end.reason == "error"
        assert "not finite" in end.error.problem
    for case, listener in zip(cases, listeners, strict=True):
        assert_written(case, listener)


@each_family
@pytest.mark.parametrize("content", ["prompts", "responses"])
def test_an_error_inside_the_model_ends_only_its_request(loaded, family, content):
    model = model_of(loaded, family)
    cases = [Case(model, number) for number in range(200, 212)]
    listeners, failed = [Listener() for _ in cases], Listener()
    long = Case(model, 0)
    long.ids, long.sampling = START * 6, SamplingConfig(max_new_tokens=50)
    while not long.alone()[0]:
        long.seed += 1

    def fail(block, args, kwargs, output):
        packed = kwargs["packed_input"]
        # No other request is as long.
        if packed.content == content and packed.positions.max() >= 100:
            raise RuntimeError("cannot read this")

    hook = find_blocks(model.model)[2].register_forward_hook(fail, with_kwargs=True)
    try:
        with LiveBatch(model, replace(LIMITS, slots=7)) as batch:
            for case, listener in zip(cases[:6], listeners, strict=False):
                batch.submit(case.request(), listener)
            batch.submit(long.request(), failed)
            for case, listener in zip(cases[6:], listeners[6:], strict=True):
                batch.submit(case.request(), listener)
            batch.drain(60)
    finally:
        hook.remove()

    end = failed.end()
    assert (end.reason, end.tokens) == ("error", 0)
    assert end.error.cause == "RuntimeError: cannot read this"
    for case, listener in zip(cases, listeners, strict=True):
        assert_written(case, listener)


def test_a_callback_that_raises_ends_only_its_request(loaded):
    model = model_of(loaded, "llama")
    case, listener = Case(model, 3), Listener()
    calls = []

    def broken(event):
        calls.append(event)
        raise OSError("connection reset")

    with LiveBatch(model, LIMITS) as batch:
        batch.submit(LiveRequest(START, 1), broken)
        batch.submit(case.request(), listener)
        assert batch.drain(60)
        assert batch.counts.running == 0

    assert len(calls) == 1
    assert_written(case, listener)


def test_a_full_queue_is_an_error_and_clients_take_turns(loaded):
    model = loaded("llama")
    order = []
    started = threading.Event()
    resume = threading.Event()

    def block(listener):
        started.set()
        resume.wait(60)

    one = SamplingConfig(max_new_tokens=1)
    with LiveBatch(model, LiveLimits(slots=1, capacity=64, waiting=4)) as batch:
        batch.submit(LiveRequest(START, 0, one), Listener(block))
        started.wait(60)
        for client in ("many", "many", "many", "few"):
            request = LiveRequest(START, 0, one, client=client)
            batch.submit(request, Listener(lambda listener, own=client: order.append(own)))
        with pytest.raises(BusyError, match="too many requests wait"):
            batch.submit(LiveRequest(START, 0, one), Listener())
        assert batch.counts.waiting == 4
        resume.set()
        batch.drain(60)

    assert order == ["many", "few", "many", "many"]


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        (LiveRequest((), 0), "empty"),
        (LiveRequest(START * 3, 0, SamplingConfig(max_new_tokens=5)), "too long"),
        (LiveRequest((10**6,), 0, SamplingConfig(max_new_tokens=5)), "unknown tokens"),
        (LiveRequest((1,), 0, SamplingConfig(max_new_tokens=5), log_probs=21), "likeliest"),
    ],
)
def test_a_request_that_cannot_be_written_is_refused(loaded, request_, problem):
    with (
        LiveBatch(loaded("llama"), LiveLimits(slots=2, capacity=64)) as batch,
        pytest.raises(UserError, match=problem),
    ):
        batch.submit(request_, Listener())


def test_a_model_that_is_not_packed_is_refused(loaded):
    with pytest.raises(ModelError, match="cannot write answers side by side"):
        LiveBatch(replace(loaded("llama"), packs=False))


def test_closing_ends_all_requests_and_the_thread(loaded):
    model = loaded("llama")
    hooks = count_hooks(model.model)
    threads = threading.active_count()
    listeners = [Listener() for _ in range(6)]

    with LiveBatch(model, replace(LIMITS, slots=2)) as batch:
        for listener in listeners:
            batch.submit(LiveRequest(START, 0, SamplingConfig(max_new_tokens=150)), listener)

    assert [listener.end().reason for listener in listeners] == ["cancelled"] * 6
    assert (batch.counts.running, batch.counts.waiting) == (0, 0)
    assert threading.active_count() == threads
    assert count_hooks(model.model) == hooks
    with pytest.raises(BusyError, match="takes no more requests"):
        batch.submit(LiveRequest(START, 0), Listener())


def test_2000_requests_leave_nothing_behind(loaded):
    model = model_of(loaded, "llama")
    cases = [Case(model, number) for number in range(40)]
    for case in cases:
        case.sampling = case.sampling.model_copy(update={"max_new_tokens": 2})

    def run(batch, count):
        ends = SimpleQueue()
        for number in range(count):
            batch.submit(
                cases[number % 40].request(),
                lambda event: ends.put(event) if isinstance(event, LiveEnd) else None,
            )
        found = [ends.get(timeout=20) for _ in range(count)]
        assert {end.error for end in found} == {None}

    def tensors():
        gc.collect()
        return sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())

    with LiveBatch(model, replace(LIMITS, waiting=200)) as batch:
        run(batch, 100)
        while batch.counts.running:
            pass
        before = tensors()
        for _ in range(10):
            run(batch, 200)
        batch.drain(60)
        assert tensors() <= before
        assert (batch.counts.running, batch.counts.waiting) == (0, 0)
