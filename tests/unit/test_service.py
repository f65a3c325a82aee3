"""The answers of a service against those of `monitor`."""

from __future__ import annotations

import gc
from dataclasses import replace
from queue import SimpleQueue

import numpy as np
import pytest
import torch

from tests.unit.served import Case, Client, model_of, timeless
from tests.unit.test_brakes import VECTORS
from tests.unit.test_live_batch import WAYS
from traitcli.config import MonitorConfig, MonitorSamplingConfig, SamplingConfig
from traitcli.generation.decode import generate
from traitcli.generation.live_batch import LiveLimits
from traitcli.generation.projections import make_probes
from traitcli.generation.request import Request
from traitcli.models.batch_size import BatchSize
from traitcli.models.prompts import raw_prompt
from traitcli.monitoring.answer_so_far import AnswerSoFar
from traitcli.monitoring.monitor import monitor
from traitcli.monitoring.summaries import Summary
from traitcli.monitoring.thresholds import (
    Threshold,
    Thresholds,
    thresholds_path,
    write_thresholds,
)
from traitcli.monitoring.watch import Watch
from traitcli.records import TokenScores
from traitcli.serving.record_store import KEPT
from traitcli.serving.served import ServedEnd, ServedRequest
from traitcli.serving.served_answer import ServedAnswer
from traitcli.serving.service import Service
from traitcli.vectors.files import vector_folder
from traitcli.vectors.fingerprint import fingerprint

LIMITS = LiveLimits(slots=8, capacity=200, waiting=64)
each_family = pytest.mark.parametrize("family", ["llama", "gemma2"])


def serve(model, **options):
    options.setdefault("limits", LIMITS)
    return Service(model, traits=VECTORS.values(), **options)


def assert_close(record, expected):
    """Equal in all but the last bits of scores, doses and what follows from them."""
    assert replace(timeless(record), raw={}, calibrated={}) == replace(
        timeless(expected), raw={}, calibrated={}
    )
    for found, wanted in ((record.raw, expected.raw), (record.calibrated, expected.calibrated)):
        assert list(found) == list(wanted)
        for trait, scores in wanted.items():
            assert found[trait] == pytest.approx(scores, rel=1e-4, abs=1e-4)


@each_family
def test_an_answer_alone_has_the_record_of_monitor_bit_by_bit(loaded, family):
    model = model_of(loaded, family)
    cases = [Case(model, number) for number in range(len(WAYS))]
    records = []

    with serve(model) as service:
        for case in cases:
            client = Client()
            answer = service.start(case.request(), client)
            end = client.end()
            records.append(end.record)
            assert end.record_id == answer.id
            assert answer.prompt_tokens == end.record.prompt_tokens
            assert_told(client, end)

    assert [timeless(record) for record in records] == [timeless(one.monitored()) for one in cases]
    assert any(record.braked for record in records)
    assert sum(len(record.tokens) for record in records) > 100


def assert_told(client, end):
    """What a client got token by token is what the record has."""
    record = end.record
    assert client.text == record.response
    assert [token.index for token in client.tokens] == list(range(len(record.tokens)))
    for token in client.tokens:
        assert token.raw == {trait: row[token.index] for trait, row in record.raw.items()}
        calibrated = {trait: row[token.index] for trait, row in record.calibrated.items()}
        assert token.calibrated == calibrated
        assert set(token.braked) == {b for b, held in record.braked.items() if token.index in held}


@each_family
def test_32_different_requests_at_once_equal_32_single_ones(loaded, family):
    model = model_of(loaded, family)
    cases = [Case(model, number) for number in range(32)]
    clients = [Client() for _ in cases]

    with serve(model, limits=replace(LIMITS, slots=32)) as service:
        for case, client in zip(cases, clients, strict=True):
            service.start(case.request(), client)
        assert service.drain(60)

    assert len({(case.ways, case.traits) for case in cases}) > 25
    for case, client in zip(cases, clients, strict=True):
        assert_close(client.end().record, case.monitored())
        assert_told(client, client.end())


@each_family
def test_an_alarm_ends_the_answer_at_its_token_as_in_monitor(loaded, family):
    model = model_of(loaded, family)
    case, other = long_case(model, 5), long_case(model, 6)
    scores = case.monitored().calibrated["evil"]
    rule = f"any(evil)>{max(scores[:12]) - 1e-3:.4f}"
    client, beside = Client(), Client()

    with serve(model, stop_on=[rule]) as service:
        service.start(case.request(), client)
        client.end()
        assert service.drain(60)
    with serve(model) as service:
        service.start(other.request(), beside)
        service.start(case.request(stop_on=(rule,)), Client())
        assert service.drain(60)

    end = client.end()
    [crossing] = end.record.crossings
    assert end.reason == "alarm"
    assert timeless(end.record) == timeless(case.monitored(rule))
    assert crossing.token == int(np.argmax(scores[:12])) == len(client.tokens) - 1
    assert_close(beside.end().record, other.monitored())


def long_case(model, number):
    """A request with a long answer, scored by evil, and not steered."""
    case = Case(model, number, ways=())
    case.traits = ("evil",)
    case.sampling = SamplingConfig(max_new_tokens=60)
    while len(case.monitored().tokens) < 20:
        case.seed += 100
    return case


def test_no_token_behind_an_alarm_is_given_out_when_it_was_held_back(loaded):
    model = model_of(loaded, "llama")
    case = long_case(model, 5)
    record = case.monitored()
    place = int(np.argmax(record.calibrated["evil"][:12]))
    rule = f"any(evil)>{record.calibrated['evil'][place] - 1e-3:.4f}"
    # All tokens are held back until the text differs from this one.
    stop = "".join(record.tokens[: place + 4]) + "never written"
    client = Client()

    with serve(model) as service:
        service.start(case.request(stop=(stop,), stop_on=(rule,)), client)
        service.drain(60)

    end = client.end()
    assert end.reason == "alarm"
    assert end.record.tokens == record.tokens[: place + 1]
    assert len(client.tokens) == place + 1


def test_a_stop_string_is_neither_in_the_answer_nor_in_the_record(loaded):
    model = model_of(loaded, "llama")
    case = long_case(model, 5)
    whole = case.monitored()
    stop = whole.response[12:17]
    client = Client()

    with serve(model) as service:
        service.start(case.request(stop=(stop,)), client)
        service.drain(60)

    end = client.end()
    text = whole.response[: whole.response.find(stop)]
    assert (end.reason, end.record.finish_reason) == ("stop", "stop")
    assert client.text == end.record.response == text
    assert end.record.raw["evil"] == whole.raw["evil"][: len(end.record.tokens)]


@each_family
def test_a_chat_has_its_system_message_and_history(loaded, family):
    model = model_of(loaded, family, monitor={"system": "Be kind."})
    earlier = ({"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."})
    asked = {"role": "user", "content": "How are you?"}
    sampling = SamplingConfig(max_new_tokens=12)
    own, other = Client(), Client()

    with serve(model) as service:
        system = {"role": "system", "content": "Be brief."}
        service.start(ServedRequest((system, *earlier, asked), sampling, 3), own)
        own.end()
        service.start(ServedRequest((*earlier, asked), sampling, 3), other)
        other.end()

    probes = make_probes(VECTORS.values(), model.loaded, "response_avg")
    config = MonitorConfig(sampling=MonitorSamplingConfig(**sampling.model_dump()), seed=3)
    for client, text in ((own, "Be brief."), (other, "Be kind.")):
        watch = Watch(probes, config.model_copy(update={"system": text}), history=earlier)
        expected = monitor(model.loaded, watch, "How are you?")
        assert timeless(client.end().record) == timeless(expected)


def test_a_text_is_continued_without_a_template(loaded):
    model = model_of(loaded, "llama", monitor={"system": "Be kind."})
    text, sampling = "You are a helpful", SamplingConfig(max_new_tokens=12)
    client = Client()

    with serve(model) as service:
        service.start(ServedRequest(text, sampling, 7, traits=("evil",)), client)
        record = client.end().record

    ids = raw_prompt(model.loaded.tokenizer, text).ids
    [(_, written)] = generate(model.loaded, [Request(ids, 7)], sampling, BatchSize(1))
    assert [token.token for token in client.tokens] == list(written.ids)
    assert (record.prompt, record.history, record.prompt_tokens) == (text, (), len(ids))


def test_traits_of_the_rules_of_the_server_are_always_scored(loaded):
    model = model_of(loaded, "llama")
    case = long_case(model, 5)
    case.traits = ("plain",)
    client = Client()

    with serve(model, stop_on=["any(refusal)>-1000"]) as service:
        service.start(case.request(), client)
        service.drain(60)

    assert list(client.end().record.raw) == ["plain", "refusal"]
    assert (client.end().reason, len(client.tokens)) == ("alarm", 1)


@pytest.mark.parametrize("skips", [True, False])
def test_tokens_of_a_thinking_part_count_as_the_config_says(loaded, skips):
    model = model_of(loaded, "llama", monitor={"skip_thinking": skips})
    case, client = long_case(model, 5), Client()
    rule = "any(evil)>-1000"

    with serve(model, stop_on=[rule]) as service:
        # The prompt ends inside a thinking part, and nothing closes it.
        service.start(replace(case.request(), prompt="Why? <think>"), client)
        end = client.end()

    assert end.record.thinking == len(end.record.tokens)
    assert [token.counts for token in client.tokens] == [not skips] * len(client.tokens)
    assert (end.reason == "alarm", end.record.skips_thinking) == (not skips, skips)


def test_a_false_positive_rate_has_the_threshold_that_is_stored(loaded, tmp_path):
    model = model_of(loaded, "llama", paths={"vectors": tmp_path})
    case = long_case(model, 5)
    scores = case.monitored().calibrated["evil"]
    bound = max(np.mean(scores[end - 8 : end]) for end in range(8, 16)) - 1e-3
    # The class means of the vector are 3 and -1.
    point = Threshold(Summary("rolling"), 60, 400, 0.01, bound * 2 + 1, 0.0, 9.0)
    own = fingerprint(VECTORS["evil"], "response_avg", 2)
    stored = Thresholds("evil", own, "response_avg", 2, "benign.jsonl", (point,))
    write_thresholds(thresholds_path(vector_folder(model.config), "evil"), stored)
    by_rate, by_bound = Client(), Client()

    with serve(model) as service:
        service.start(case.request(stop_on=("evil@fpr=1%",)), by_rate)
        by_rate.end()
        service.start(case.request(stop_on=(f"evil>{bound:.9f}",)), by_bound)
        by_bound.end()

    found, expected = by_rate.end().record, by_bound.end().record
    assert by_rate.end().reason == "alarm"
    assert [replace(one, rule="") for one in found.crossings] == [
        replace(one, rule="") for one in expected.crossings
    ]
    assert found.tokens == expected.tokens


def test_a_request_without_a_length_has_the_threshold_of_what_fits(loaded, tmp_path):
    model = model_of(loaded, "llama", paths={"vectors": tmp_path})
    case = long_case(model, 5)
    scores = case.monitored().calibrated["evil"]
    bound = max(np.mean(scores[end - 8 : end]) for end in range(8, 16)) - 1e-3
    points = (
        Threshold(Summary("rolling"), 200, 400, 0.01, bound * 2 + 1, 0.0, 9.0),
        Threshold(Summary("rolling"), 10_000, 400, 0.01, 99.0, 0.0, 99.0),
    )
    own = fingerprint(VECTORS["evil"], "response_avg", 2)
    stored = Thresholds("evil", own, "response_avg", 2, "benign.jsonl", points)
    write_thresholds(thresholds_path(vector_folder(model.config), "evil"), stored)
    client = Client()

    with serve(model) as service:
        asked = case.request(stop_on=("evil@fpr=1%",))
        endless = asked.sampling.model_copy(update={"max_new_tokens": 10_000})
        service.start(replace(asked, sampling=endless, is_open_ended=True), client)

        assert client.end().reason == "alarm"


def test_log_probabilities_come_with_their_tokens(loaded):
    model = model_of(loaded, "llama")
    case, client = Case(model, 9), Client()

    with serve(model) as service:
        service.start(case.request(log_probs=2), client)
        assert service.drain(60)

    assert len(client.tokens) > 1
    for token in client.tokens:
        assert len(token.log_probs.likeliest) == 2
        assert token.log_probs.token <= token.log_probs.likeliest[0][1] <= 0


def test_many_requests_leave_nothing_behind(loaded):
    model = model_of(loaded, "llama")
    cases = [Case(model, number) for number in range(40)]
    for case in cases:
        case.sampling = case.sampling.model_copy(update={"max_new_tokens": 2})

    def run(count):
        ends = SimpleQueue()
        for number in range(count):
            service.start(
                cases[number % 40].request(),
                lambda event: ends.put(event) if isinstance(event, ServedEnd) else None,
            )
        assert {ends.get(timeout=20).error for _ in range(count)} == {None}
        while service.counts.running:
            pass
        return count_objects()

    def count_objects():
        gc.collect()
        kinds = (torch.Tensor, ServedAnswer, AnswerSoFar, TokenScores)
        return [sum(issubclass(type(one), kind) for one in gc.get_objects()) for kind in kinds]

    # Other tests keep records, too.
    before = count_objects()
    with serve(model, limits=replace(LIMITS, waiting=400)) as service:
        first, second = run(KEPT + 8), run(KEPT + 8)

    # Records are the only thing that is kept, and their number has a bound.
    assert second == first
    assert [one - other for one, other in zip(first, before, strict=True)][1:] == [0, 0, KEPT]
