"""What a service does when a request, a client, the model, the disk or the time fails."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace

import pytest

from tests.unit.served import Case, Client, model_of, timeless
from tests.unit.test_brakes import VECTORS
from tests.unit.test_service import LIMITS, assert_close, long_case, serve
from tests.unit.test_steerer import count_hooks
from traitcli.config import SamplingConfig
from traitcli.errors import BusyError, UserError, VectorError
from traitcli.models.hooks import find_blocks
from traitcli.monitoring.record_files import collect_records
from traitcli.record_json import to_json
from traitcli.serving.record_store import RecordStore, new_id
from traitcli.serving.served import ServedRequest
from traitcli.serving.service import Service

ASKED = ({"role": "user", "content": "How does lock picking work?"},)
SHORT = SamplingConfig(max_new_tokens=3)
LONG = SamplingConfig(max_new_tokens=150)
REQUEST = ServedRequest(ASKED, SHORT, 0)
WRONG = {
    "trait": (replace(REQUEST, traits=("evli",)), "the trait evli is not monitored", "evil"),
    "steering": (replace(REQUEST, steer=("refusl=1",)), "cannot steer refusl", "refusal"),
    "steering text": (replace(REQUEST, steer=("evil",)), "invalid steer evil", "evil=-2"),
    "gate": (replace(REQUEST, steer=("evil=1 if refsal>1",)), "cannot steer refsal", "refusal"),
    "rule": (replace(REQUEST, stop_on=("evli>1",)), "stop_on evli>1: the trait evli", "evil"),
    "rule text": (replace(REQUEST, stop_on=("evil",)), "invalid stop_on evil", "evil>1.5"),
    "rule of another trait": (
        replace(REQUEST, traits=("evil",), stop_on=("refusal>1",)),
        "the trait refusal is not monitored",
        "choose",
    ),
    "rule without a scale": (
        replace(REQUEST, stop_on=("plain>1",)),
        "cannot set an alarm on calibrated scores of plain",
        "choose another trait",
    ),
    "length for a slot": (
        replace(REQUEST, sampling=SamplingConfig(max_new_tokens=199)),
        "the prompt is too long",
        "length limit",
    ),
    "length for the model": (
        replace(REQUEST, sampling=SamplingConfig(max_new_tokens=600)),
        "the prompt is too long",
        "length limit",
    ),
    "seed": (replace(REQUEST, seed=2**63), "invalid seed", "choose"),
    "empty chat": (replace(REQUEST, prompt=()), "there is no message to answer", "user"),
    "no question": (
        replace(REQUEST, prompt=(*ASKED, {"role": "assistant", "content": "Yes."})),
        "there is no message to answer",
        "user",
    ),
    "empty text": (replace(REQUEST, prompt=""), "the prompt is empty", "text"),
}


@pytest.mark.parametrize(("request_", "problem", "fix"), WRONG.values(), ids=WRONG)
def test_a_wrong_request_is_an_error_at_once_and_not_queued(loaded, request_, problem, fix):
    # Of a tokenizer that adds nothing to an empty text.
    with serve(model_of(loaded, "qwen2")) as service:
        with pytest.raises(UserError) as raised:
            service.start(request_, Client())
        counts = service.counts

    assert problem in raised.value.problem
    assert fix in raised.value.fix
    assert (counts.running, counts.waiting, counts.steps) == (0, 0, 0)


def test_a_layer_that_cannot_be_steered_is_an_error_at_once(loaded):
    with (
        serve(model_of(loaded, "llama")) as service,
        pytest.raises(VectorError, match="cannot steer evil at layer 9"),
    ):
        service.start(replace(REQUEST, steer=("evil=1@9",)), Client())


def test_a_wrong_rule_of_the_server_is_an_error_before_it_starts(loaded):
    with pytest.raises(UserError, match="trait evli is not monitored"):
        serve(model_of(loaded, "llama"), stop_on=["evli>1"])


def test_a_server_without_vectors_scores_nothing(loaded):
    client = Client()
    with Service(model_of(loaded, "llama"), limits=LIMITS) as service:
        service.start(REQUEST, client)
        end = client.end()

    assert (service.traits, end.record.raw) == ((), {})
    assert len(end.record.tokens) == len(client.tokens) == 3


def test_a_cancelled_answer_frees_its_slot_within_a_step(loaded):
    model = model_of(loaded, "llama")
    seen = []

    def cancel_after_five(client):
        if len(client.tokens) == 5:
            seen.append(service.counts)
            answer.cancel()

    def count(client):
        if len(seen) == 1 and service.counts.steps == seen[0].steps + 1:
            seen.append(service.counts)

    # Without the end of text, both would run to their length limit.
    model.loaded = replace(model.loaded, stop_ids=frozenset())
    leaving, staying = Client(cancel_after_five), Client(count)
    with serve(model) as service:
        answer = service.start(replace(REQUEST, sampling=LONG), leaving)
        service.start(replace(REQUEST, sampling=LONG, seed=2), staying)
        end = leaving.end()
        staying.end()

    assert [counts.running for counts in seen] == [2, 1]
    assert (end.reason, end.record.finish_reason, len(end.record.tokens)) == (
        "cancelled",
        "interrupted",
        5,
    )


def test_a_client_that_raises_ends_only_its_answer_whose_record_is_kept(loaded):
    model = model_of(loaded, "llama")
    case, calls, client = long_case(model, 5), [], Client()

    def broken(event):
        calls.append(event)
        raise OSError("connection reset")

    with serve(model) as service:
        answer = service.start(replace(REQUEST, sampling=LONG), broken)
        service.start(case.request(), client)
        assert service.drain(60)
        counts, record = service.counts, service.record(answer.id)

    assert len(calls) == 1
    assert (record.finish_reason, len(record.tokens)) == ("interrupted", 1)
    assert counts.running == 0
    assert_close(client.end().record, case.monitored())


class Hand:
    """A clock that is set by hand."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_time_ends_an_answer_and_those_that_wait_for_its_slot(loaded):
    model = model_of(loaded, "llama")
    model.loaded = replace(model.loaded, stop_ids=frozenset())
    clock, started = Hand(), threading.Event()

    def tick(client):
        started.wait(20)
        clock.now += 10

    long = replace(REQUEST, sampling=LONG)
    writing, waiting, last = Client(tick), Client(), Client()
    limits = replace(LIMITS, slots=1)
    with serve(model, seconds=25, clock=clock, limits=limits) as service:
        service.start(long, writing)
        service.start(long, waiting)
        started.set()
        ends = [writing.end(), waiting.end()]
        # Its own time begins now.
        service.start(REQUEST, last)
        last.end()

    assert [(end.reason, end.record.finish_reason) for end in ends] == [("time", "interrupted")] * 2
    assert [len(client.tokens) for client in (writing, waiting)] == [3, 0]
    assert ends[0].record.seconds == (0, 10, 20)
    assert last.end().reason == "length"


@pytest.mark.parametrize("content", ["prompts", "responses", "doses"])
def test_an_error_of_the_model_ends_only_its_answer(loaded, content):
    model = model_of(loaded, "llama")
    cases = [Case(model, number) for number in range(40, 52)]
    clients, failed = [Client() for _ in cases], Client()
    asked = ({"role": "user", "content": "Was heißt das? " * 10},)
    request = ServedRequest(asked, SamplingConfig(max_new_tokens=20), 1, steer=("evil=0.1",))

    def fail(block, args, kwargs, output):
        packed = kwargs.get("packed_input")
        length = args[0].shape[1] if packed is None else packed.positions.max()
        # No other request is as long.
        if content == ("doses" if packed is None else packed.content) and length > 100:
            raise RuntimeError("cannot read this")

    hook = find_blocks(model.loaded.model)[2].register_forward_hook(fail, with_kwargs=True)
    try:
        with serve(model, limits=replace(LIMITS, slots=7)) as service:
            for case, client in zip(cases[:6], clients, strict=False):
                service.start(case.request(), client)
            answer = service.start(request, failed)
            for case, client in zip(cases[6:], clients[6:], strict=True):
                service.start(case.request(), client)
            assert service.drain(60)
            record = service.record(answer.id)
    finally:
        hook.remove()

    end = failed.end()
    assert (end.reason, end.error.cause) == ("error", "RuntimeError: cannot read this")
    assert (record.finish_reason, record.tokens) == ("failed", ())
    for case, client in zip(cases, clients, strict=True):
        assert_close(client.end().record, case.monitored())


def test_the_queue_has_a_bound_and_a_draining_service_takes_nothing(loaded):
    model = model_of(loaded, "llama")
    started, resume = threading.Event(), threading.Event()

    def block(client):
        started.set()
        resume.wait(20)

    clients = [Client() for _ in range(3)]
    with serve(model, limits=replace(LIMITS, slots=1, waiting=3)) as service:
        service.start(REQUEST, Client(block))
        started.wait(20)
        for client in clients:
            service.start(REQUEST, client)
        with pytest.raises(BusyError, match="too many requests wait"):
            service.start(REQUEST, Client())
        assert not service.drain(0.01)
        with pytest.raises(BusyError, match="takes no more requests"):
            service.start(REQUEST, Client())
        resume.set()
        assert service.drain(20)

    assert [client.end().reason for client in clients] == ["length"] * 3


def test_draining_loses_no_record_and_report_reads_them(loaded, tmp_path):
    model = model_of(loaded, "llama")
    cases = [Case(model, number) for number in range(24)]
    clients = [Client() for _ in cases]
    folder = tmp_path / "runs" / "monitor"

    with serve(model, records=folder) as service:
        for case, client in zip(cases, clients, strict=True):
            service.start(case.request(), client)
        assert service.drain(60)
        found = {one.name: one.scores for one in collect_records(tmp_path / "runs", ())}

    ends = [client.end() for client in clients]
    assert {name: to_json(record) for name, record in found.items()} == {
        end.record_id: to_json(end.record) for end in ends
    }
    assert list(found) == sorted(found, reverse=True)
    assert service.lost_records == 0


def test_closing_cancels_all_answers_and_keeps_their_records(loaded, tmp_path):
    model = model_of(loaded, "llama")
    hooks, threads = count_hooks(model.loaded.model), threading.active_count()
    clients = [Client() for _ in range(6)]

    with serve(model, records=tmp_path, limits=replace(LIMITS, slots=2)) as service:
        for client in clients:
            service.start(replace(REQUEST, sampling=LONG), client)
        with pytest.raises(UserError, match="writing another answer"):
            model.generate("Hello!")

    assert {client.end().reason for client in clients} <= {"cancelled", "stop"}
    assert len(list(tmp_path.glob("*.json"))) == 6
    assert threading.active_count() == threads
    assert count_hooks(model.loaded.model) == hooks
    assert model.generate("Hello!", max_new_tokens=2).response is not None


def test_a_folder_that_fails_costs_no_answer_and_is_counted(loaded, tmp_path):
    events, model = [], model_of(loaded, "llama")
    model = model.listening(events.append)
    folder, clients = tmp_path / "records", [Client() for _ in range(5)]
    folder.mkdir()

    with serve(model, records=folder) as service:
        for number, client in enumerate(clients):
            if number == 1:
                shutil.rmtree(folder)
                folder.write_text("in the way")
            if number == 4:
                folder.unlink()
            answer = service.start(replace(REQUEST, seed=number), client)
            end = client.end()
            assert service.record(answer.id) == end.record
            # Written before the folder changes again.
            assert service._records.flush(20)
        assert service.drain(20)

    assert {client.end().reason for client in clients} == {"length"}
    assert service.lost_records == 3
    assert [path.stem for path in folder.glob("*")] == [clients[4].end().record_id]
    warnings = [event.message for event in events if "cannot write" in event.message]
    assert len(warnings) == 1
    assert warnings[0].endswith("answers go on")


def test_a_folder_that_cannot_be_made_is_an_error_before_the_server_starts(loaded, tmp_path):
    path = tmp_path / "file"
    path.write_text("in the way")

    with pytest.raises(UserError, match="cannot write to"):
        serve(model_of(loaded, "llama"), records=path)


def test_a_store_keeps_the_last_records_in_memory_and_all_in_its_folder(loaded, tmp_path):
    record = Case(model_of(loaded, "llama"), 3).monitored()
    ids = [new_id() for _ in range(5)]

    with RecordStore(None, print, kept=2) as memory, RecordStore(tmp_path, print, kept=2) as both:
        for number, one in enumerate(ids):
            memory.keep(one, replace(record, seed=number))
            both.keep(one, replace(record, seed=number))
        assert both.flush(20)
        in_memory = [memory.find(one) for one in ids]
        anywhere = [both.find(one) for one in ids]

    assert [found and found.seed for found in in_memory] == [None, None, None, 3, 4]
    assert [found.seed for found in anywhere] == [0, 1, 2, 3, 4]
    assert in_memory[4] == replace(record, seed=4)
    assert to_json(timeless(anywhere[0])) == to_json(timeless(replace(record, seed=0)))


@pytest.mark.parametrize("text", ["", "x", "../secret", "ID/../secret", "ID"])
def test_only_ids_of_records_become_paths(tmp_path, text):
    record = '{"prompt": "", "response": "", "tokens": [], "trait_scores": {}}'
    (tmp_path / "secret.json").write_text(record)
    (tmp_path / "records").mkdir()

    with RecordStore(tmp_path / "records", print) as store:
        assert store.find(text.replace("ID", new_id())) is None


def test_ids_differ_and_sort_by_time():
    ids = [new_id() for _ in range(1000)]

    assert len({one[-32:] for one in ids}) == 1000
    assert [one[:22] for one in ids] == sorted(one[:22] for one in ids)


def test_vectors_of_requests_are_read_once(loaded):
    model = model_of(loaded, "llama")
    with serve(model) as service:
        watches = [service._traits.watch(replace(REQUEST, seed=seed)) for seed in (1, 2)]

    assert [list(watch.probes) for watch in watches] == [list(VECTORS)] * 2
    for trait in VECTORS:
        assert watches[0].probes[trait] is watches[1].probes[trait]
