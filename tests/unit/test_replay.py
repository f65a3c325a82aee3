"""A monitoring record is replayed as the events of its generation."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from tests.unit.test_monitor import CONFIG, VECTORS
from tests.unit.test_record_json import BARE, EXAMPLE
from traitcli.events import AlarmRaised, MonitorFinished, MonitorStarted, PromptScored, TokenScored
from traitcli.generation.projections import make_probes
from traitcli.interventions import Push
from traitcli.monitoring.alarms import parse_rule
from traitcli.monitoring.monitor import monitor
from traitcli.monitoring.record_files import read_records
from traitcli.monitoring.replay import USUAL_PACE, replay
from traitcli.monitoring.watch import Watch
from traitcli.record_json import from_json
from traitcli.steering.interventions import prepare_interventions

RULES = ("evil>0.1", "run(refusal,2)<1000", "mean(evil)>-1000")


def by_name(vectors):
    return {vector.trait: vector for vector in vectors}


@pytest.fixture
def generated(loaded):
    """The record and the events of a generation that uses every feature of a record."""
    model, events = loaded("llama"), []
    push = Push("refusal", 2.5, 2)
    watch = Watch(
        make_probes(VECTORS, model, "response_avg"),
        CONFIG,
        steering=prepare_interventions([push], by_name(VECTORS), model, "response_avg"),
        rules=tuple(parse_rule(text, "fail", by_name(VECTORS)) for text in RULES),
        prompts=True,
        by_layer="evil",
        about={"set": "mine", "number": 2},
    )
    record = monitor(model, watch, "How does lock picking work?", on_event=events.append)
    # Half a character at the end is added to the last token after its event was sent.
    assert not record.response.endswith("\ufffd")
    return record, events


def replayed(record, **options):
    events = []
    replay(record, events.append, sleep=lambda seconds: None, **options)
    return events


def sleeps_of(record, speed=1.0):
    sleeps = []
    replay(record, lambda event: None, speed, sleeps.append)
    return sleeps


def of_kind(kind, events):
    return [event for event in events if isinstance(event, kind)]


def test_a_replay_sends_the_tokens_with_the_scores_of_the_generation(generated):
    record, events = generated

    found = of_kind(TokenScored, replayed(record))

    assert found == of_kind(TokenScored, events)
    assert {len(event.by_layer) for event in found} == {5}


def test_a_replay_sends_the_scores_of_the_prompt(generated):
    record, events = generated

    found = of_kind(PromptScored, replayed(record))

    assert len(found) == 1
    assert found == of_kind(PromptScored, events)


def test_a_replay_raises_each_alarm_at_its_token(generated):
    record, events = generated
    kinds = TokenScored, AlarmRaised

    found = of_kind(kinds, replayed(record))

    assert found == of_kind(kinds, events)
    assert {event.crossing.rule for event in of_kind(AlarmRaised, found)} == set(RULES)


def test_a_replay_begins_and_ends_as_the_generation_did(generated):
    record, events = generated

    first, *_, last = replayed(record)

    # A record keeps where its alarms were met, not their bounds.
    assert first == replace(events[0], notes=(), marks={})
    assert first.steering == record.steering
    assert last == MonitorFinished("", len(record.tokens), record.seconds[-1], "length")


def test_a_replay_waits_before_each_token_as_long_as_it_took(generated):
    record, _ = generated

    sleeps = sleeps_of(record)

    expected = [later - earlier for earlier, later in pairwise([0.0, *record.seconds])]
    assert sleeps == expected
    assert sum(sleeps) > 0


@pytest.mark.parametrize("speed", [2.0, 0.5, 1000.0])
def test_a_speed_divides_the_waiting_times(speed):
    sleeps = sleeps_of(from_json(BARE | {"seconds": [0.5, 2.0]}), speed)

    assert sleeps == pytest.approx([0.5 / speed, 1.5 / speed])


def test_a_replay_waits_before_it_sends_the_token():
    happened = []

    replay(
        from_json(BARE),
        lambda event: happened.append(type(event)),
        sleep=lambda seconds: happened.append("sleep"),
    )

    assert happened == [
        MonitorStarted,
        "sleep",
        TokenScored,
        "sleep",
        TokenScored,
        MonitorFinished,
    ]


@pytest.mark.parametrize("more", [{}, {"seconds": []}], ids=["older", "provided"])
def test_a_record_without_times_is_replayed_at_the_usual_pace(more):
    assert sleeps_of(from_json(BARE | more), 2.0) == pytest.approx([USUAL_PACE / 2] * 2)


def test_a_record_without_calibrated_scores_is_replayed_with_its_raw_ones():
    found = of_kind(TokenScored, replayed(from_json(BARE)))

    assert found == [
        TokenScored(0, "Ho", {"evil": 0.5}, {}),
        TokenScored(1, "!", {"evil": 2.25}, {}),
    ]


def test_a_record_of_no_tokens_is_replayed():
    empty = {"response": "", "tokens": [], "trait_scores": {"evil": []}, "finish_reason": "stop"}

    assert replayed(from_json(BARE | empty)) == [
        MonitorStarted("Hi", "", ("evil",), {}),
        MonitorFinished("", 0, 0.0, "stop"),
    ]


def test_the_shipped_example_is_replayed_whole():
    [record] = read_records(EXAMPLE)

    events = replayed(record)

    tokens = of_kind(TokenScored, events)
    assert "".join(event.text for event in tokens) == record.response
    assert tuple(event.raw["refusal"] for event in tokens) == record.raw["refusal"]
    assert tuple(event.calibrated["refusal"] for event in tokens) == record.calibrated["refusal"]
    assert isinstance(events[-1], MonitorFinished)
