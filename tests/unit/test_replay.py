"""Records of monitoring: kept, found, read back, and played again as they were written."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from tests.unit.test_monitor import CONFIG, VECTORS
from traitcli.errors import UserError
from traitcli.events import AlarmRaised, MonitorFinished, MonitorStarted, PromptScored, TokenScored
from traitcli.generation.projections import make_probes
from traitcli.monitoring.alarms import parse_rule
from traitcli.monitoring.monitor import Watch, monitor
from traitcli.monitoring.record_files import (
    append_records,
    find_records,
    keep_record,
    read_records,
    record_path,
    save_chat,
    to_json,
)
from traitcli.monitoring.replay import USUAL_PACE, replay
from traitcli.monitoring.transcripts import Exchange, read_exchanges
from traitcli.records import Intervention
from traitcli.shipped import find_shipped
from traitcli.steering.interventions import make_steering

EXAMPLE = find_shipped("docs/examples") / "how-do-i-hack-a-bank.json"
FIX = "name a file that traitcli monitor wrote"
BARE = {
    "prompt": "Hi",
    "response": "Ho!",
    "tokens": ["Ho", "!"],
    "trait_scores": {"evil": [0.5, 2.25]},
}
RULES = ("evil>0.1", "run(refusal,2)<1000", "mean(evil)>-1000")
LOOSE = {"rel": 1e-5, "abs": 1e-5}
"""A record keeps five decimals."""


def by_name(vectors):
    return {vector.trait: vector for vector in vectors}


@pytest.fixture
def generated(loaded):
    """A generation with all that can be watched: its record and the events it told."""
    model, heard = loaded("llama"), []
    push = Intervention("refusal", 2.5, 2)
    watch = Watch(
        make_probes(VECTORS, model, "response_avg"),
        CONFIG,
        steering=make_steering([push], by_name(VECTORS), model, "response_avg"),
        rules=tuple(parse_rule(text, "fail", by_name(VECTORS)) for text in RULES),
        prompts=True,
        by_row="evil",
        about={"set": "mine", "number": 2},
    )
    record = monitor(model, watch, "How does lock picking work?", on_event=heard.append)
    assert not record.response.endswith(
        "\ufffd"
    )  # half a character is told when no token follows any more
    return record, heard


def played(record, **options):
    heard = []
    replay(record, heard.append, sleep=lambda seconds: None, **options)
    return heard


def slept(record, speed=1.0):
    naps = []
    replay(record, lambda event: None, speed, naps.append)
    return naps


def of_kind(kind, events):
    return [event for event in events if isinstance(event, kind)]


def near(scores):
    """The same numbers, in a mapping or in a row, but for rounding."""
    return pytest.approx(dict(scores) if hasattr(scores, "items") else list(scores), **LOOSE)


def test_a_replay_tells_the_tokens_with_the_scores_that_the_generation_told(generated):
    record, heard = generated

    found = of_kind(TokenScored, played(to_json(record)))

    told = of_kind(TokenScored, heard)
    assert [(event.index, event.text) for event in found] == [
        (event.index, event.text) for event in told
    ]
    for one, other in zip(found, told, strict=True):
        assert one.raw == near(other.raw)
        assert one.calibrated == near(other.calibrated)
        assert list(one.by_layer) == near(other.by_layer)
        assert len(one.by_layer) == 5


def test_a_replay_tells_the_prompts_tokens_with_the_scores_that_the_generation_told(generated):
    record, heard = generated

    [found] = of_kind(PromptScored, played(to_json(record)))

    [told] = of_kind(PromptScored, heard)
    assert found.tokens == told.tokens
    for one, other in ((found.raw, told.raw), (found.calibrated, told.calibrated)):
        assert list(one) == list(other)
        assert all(list(one[trait]) == near(scores) for trait, scores in other.items())


def test_a_replay_raises_the_alarms_at_the_tokens_where_the_generation_did(generated):
    record, heard = generated

    found = played(to_json(record))

    told = of_kind(AlarmRaised, heard)
    assert {event.crossing.rule for event in told} == set(RULES)
    for one, other in zip(of_kind(AlarmRaised, found), told, strict=True):
        expected = replace(other.crossing, score=pytest.approx(other.crossing.score, **LOOSE))
        assert one.crossing == expected
    order = TokenScored, AlarmRaised
    assert [type(event) for event in of_kind(order, found)] == [
        type(event) for event in of_kind(order, heard)
    ]


def test_a_replay_begins_and_ends_as_the_generation_did(generated):
    record, heard = generated

    first, *_, last = played(to_json(record))

    push = Intervention("refusal", 2.5, 2, pytest.approx(record.steering[0].dose, abs=1e-4))
    started = heard[0]
    assert first == MonitorStarted(
        started.prompt,
        started.model,
        started.traits,
        started.layers,
        (),
        (push,),
        {"set": "mine", "number": 2},
    )
    assert last == MonitorFinished(
        "", len(record.tokens), pytest.approx(record.seconds[-1], abs=1e-3), "length"
    )


def test_a_record_that_went_through_a_file_is_played_as_it_was(generated, tmp_path):
    keep_record(tmp_path / "record.json", generated[0])

    [record] = read_records(tmp_path / "record.json")

    assert played(record) == played(to_json(generated[0]))


def test_a_replay_waits_before_each_token_as_long_as_it_took(generated):
    record, _ = generated

    naps = slept(to_json(record))

    expected = [later - earlier for earlier, later in pairwise([0.0, *record.seconds])]
    assert naps == pytest.approx(expected, abs=1.01e-3)
    assert sum(naps) > 0


@pytest.mark.parametrize("speed", [2.0, 0.5, 1000.0])
def test_a_replay_at_a_speed_waits_so_many_times_shorter(speed):
    naps = slept(BARE | {"seconds": [0.5, 2.0]}, speed)

    assert naps == pytest.approx([0.5 / speed, 1.5 / speed])


def test_a_replay_waits_before_it_tells_the_token():
    happened = []

    replay(
        BARE,
        lambda event: happened.append(type(event)),
        sleep=lambda seconds: happened.append("nap"),
    )

    assert happened == [MonitorStarted, "nap", TokenScored, "nap", TokenScored, MonitorFinished]


@pytest.mark.parametrize("more", [{}, {"seconds": []}], ids=["older", "given"])
def test_a_record_that_tells_no_pace_is_played_at_the_usual_one(more):
    assert slept(BARE | more, 2.0) == pytest.approx([USUAL_PACE / 2] * 2)


def test_a_record_without_calibrated_scores_is_played_with_its_raw_ones():
    found = of_kind(TokenScored, played(BARE))

    assert found == [
        TokenScored(0, "Ho", {"evil": 0.5}, {}),
        TokenScored(1, "!", {"evil": 2.25}, {}),
    ]


def test_a_record_whose_scores_are_called_projections_is_played():
    old = {key: value for key, value in BARE.items() if key != "trait_scores"} | {
        "projections": {"evil": [1, 2]}
    }

    assert [event.raw for event in of_kind(TokenScored, played(old))] == [{"evil": 1}, {"evil": 2}]


def test_a_record_of_no_tokens_is_played():
    empty = BARE | {
        "response": "",
        "tokens": [],
        "trait_scores": {"evil": []},
        "finish_reason": "stop",
    }

    assert played(empty) == [
        MonitorStarted("Hi", "", ("evil",), {}),
        MonitorFinished("", 0, 0.0, "stop"),
    ]


def test_the_example_that_ships_is_played_whole():
    [record] = read_records(EXAMPLE)

    found = played(record)

    tokens = of_kind(TokenScored, found)
    assert "".join(event.text for event in tokens) == record["response"]
    assert [event.raw["refusal"] for event in tokens] == record["trait_scores"]["refusal"]
    assert [event.calibrated["refusal"] for event in tokens] == record["calibrated_scores"][
        "refusal"
    ]
    assert isinstance(found[-1], MonitorFinished)


def test_a_file_of_json_lines_gets_a_line_more_and_a_json_file_is_replaced(generated, tmp_path):
    record = generated[0]
    kept = {}
    for name in ("record.json", "records.jsonl"):
        for _ in range(2):
            keep_record(tmp_path / name, record)
        kept[name] = read_records(tmp_path / name)

    assert kept == {"record.json": [to_json(record)], "records.jsonl": [to_json(record)] * 2}


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c"])
def test_a_line_separator_in_an_answer_splits_no_record(tmp_path, mark):
    path = tmp_path / "records.jsonl"
    record = BARE | {"response": f"Ho{mark}", "tokens": ["Ho", mark]}
    path.write_text(2 * (json.dumps(record, ensure_ascii=False) + "\n"), encoding="utf-8")

    assert read_records(path) == [record, record]


def test_failed_records_stand_among_the_others(tmp_path):
    path = tmp_path / "records.jsonl"
    failed = {"prompt": "Hi", "error": "too long", "about": {"line": 1}}
    path.write_text(f"{json.dumps(failed)}\n{json.dumps(BARE)}\n", encoding="utf-8")

    assert read_records(path) == [failed, BARE]


def test_a_json_list_of_records_is_read(tmp_path):
    path = tmp_path / "records.json"
    path.write_text(json.dumps([BARE, BARE]), encoding="utf-8")

    assert read_records(path) == [BARE, BARE]


def test_a_last_line_torn_by_a_kill_hides_no_record_before_it(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps(BARE) + '\n{"prompt": "Hi", "resp', encoding="utf-8")

    assert read_records(path) == [BARE]


def test_a_last_record_without_an_end_of_line_is_read(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text(f"{json.dumps(BARE)}\n{json.dumps(BARE)}", encoding="utf-8")

    assert read_records(path) == [BARE, BARE]


@pytest.mark.parametrize(
    "told",
    [
        {},
        [BARE, 3],
        "text",
        {"tokens": ["a"]},
        {"trait_scores": {}},
        {"messages": []},
        {"tokens": [], "trait_scores": {}},
    ],
)
def test_what_is_no_record_is_refused(tmp_path, told):
    path = tmp_path / "other.json"
    path.write_text(json.dumps(told), encoding="utf-8")

    with pytest.raises(UserError) as error:
        read_records(path)

    assert error.value.problem == f"{path} is no monitoring record"
    assert error.value.fix == FIX


@pytest.mark.parametrize(("name", "text"), [("records.jsonl", ""), ("records.json", "[]")])
def test_a_file_that_holds_no_record_at_all_is_refused(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")

    with pytest.raises(UserError, match="is no monitoring record"):
        read_records(path)


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (None, "[Errno 2] No such file or directory: "),
        (b"{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (b"\xff", "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
    ],
    ids=["missing", "no JSON", "no UTF-8"],
)
def test_what_cannot_be_read_as_a_record_is_refused_with_the_cause(tmp_path, data, cause):
    path = tmp_path / "record.json"
    if data is not None:
        path.write_bytes(data)

    with pytest.raises(UserError) as error:
        read_records(path)

    told = cause + f"'{path}'" if data is None else cause
    assert str(error.value) == f"error: cannot read the record {path}\ncause: {told}\nfix:   {FIX}"


def test_the_records_that_were_left_are_found_the_latest_first(tmp_path):
    made = [
        record_path(tmp_path, name, suffix)
        for name, suffix in [("z", ".json"), ("a", ".jsonl"), ("m", ".json")]
    ]
    made[0].parent.mkdir(parents=True)
    for path in [*made, made[0].with_suffix(".txt")]:
        path.write_text("{}", encoding="utf-8")

    assert find_records(tmp_path, []) == made[::-1]


def test_the_records_that_are_named_are_found_as_they_are_named(tmp_path):
    record_path(tmp_path, "a").parent.mkdir(parents=True)
    record_path(tmp_path, "a").write_text("{}", encoding="utf-8")

    assert [str(path) for path in find_records(tmp_path, ["z.json", "a.json"])] == [
        "z.json",
        "a.json",
    ]


def test_where_nothing_was_monitored_there_are_no_records(tmp_path):
    assert find_records(tmp_path / "nowhere", []) == []


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_a_chat_that_was_saved_is_read_back_turn_by_turn(tmp_path, system):
    path = tmp_path / "chat.json"
    talk = [
        {"role": "user", "content": "Hi\u2028there"},
        {"role": "assistant", "content": "Ho 🙂"},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "Because."},
    ]

    save_chat(path, system, talk, [BARE, BARE])

    before = ({"role": "system", "content": system},) if system else ()
    about = {"file": "chat.json", "line": 1}
    assert read_exchanges(path) == [
        Exchange("Hi\u2028there", "Ho 🙂", before, about | {"turn": 1}),
        Exchange("Why?", "Because.", (*before, *talk[:2]), about | {"turn": 2}),
    ]


def test_the_records_of_a_chat_that_was_saved_are_those_of_its_turns(tmp_path):
    path = tmp_path / "chat.json"
    other = BARE | {"prompt": "Why?"}

    save_chat(
        path,
        None,
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho!"}],
        [BARE, other],
    )

    assert read_records(path) == [BARE, other]


def test_a_chat_that_is_saved_again_replaces_the_file(tmp_path):
    path = tmp_path / "chat.json"
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    save_chat(path, None, talk * 5, [BARE] * 5)

    save_chat(path, None, talk, [BARE])

    assert Counter(one.response for one in read_exchanges(path)) == {"Ho": 1}


@pytest.mark.parametrize(
    ("there", "kept"),
    [
        ('{"a": 1}\n{"a": 2}', ['{"a": 1}', '{"a": 2}', '{"b": 3}']),
        ('{"a": 1}', ['{"a": 1}', '{"b": 3}']),
        ('{"a": 1}\n{"a": ', ['{"a": 1}', '{"b": 3}']),
        ("", ['{"b": 3}']),
    ],
)
def test_a_last_line_that_only_lacks_its_end_is_kept_and_a_torn_one_is_cut(tmp_path, there, kept):
    path = tmp_path / "records.jsonl"
    path.write_text(there, encoding="utf-8")

    append_records(path, [{"b": 3}])

    assert path.read_text(encoding="utf-8").splitlines() == kept
