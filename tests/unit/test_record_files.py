"""Files of monitoring records: stored, found, and read back."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.unit.test_record_json import BARE, FULL
from traitcli.errors import UserError
from traitcli.monitoring.record_files import (
    append_records,
    collect_records,
    find_records,
    keep_record,
    read_records,
    record_path,
    save_chat,
)
from traitcli.monitoring.transcripts import Exchange, read_exchanges
from traitcli.record_json import FailedRecord, from_json

FIX = "name a file that traitcli monitor wrote"


@pytest.mark.parametrize(("name", "count"), [("record.json", 1), ("records.jsonl", 2)])
def test_a_jsonl_file_is_appended_to_and_a_json_file_is_replaced(tmp_path, name, count):
    for _ in range(2):
        keep_record(tmp_path / name, FULL)

    assert read_records(tmp_path / name) == [FULL] * count


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x1c"])
def test_a_line_separator_in_an_answer_does_not_split_the_record(tmp_path, mark):
    path = tmp_path / "records.jsonl"
    record = BARE | {"response": f"Ho{mark}", "tokens": ["Ho", mark]}
    path.write_text(2 * (json.dumps(record, ensure_ascii=False) + "\n"), encoding="utf-8")

    assert read_records(path) == [from_json(record)] * 2


def test_failures_are_read_in_their_order_among_the_records(tmp_path):
    path = tmp_path / "records.jsonl"
    failed = {"prompt": "Hi", "error": "too long", "about": {"line": 1}}
    path.write_text(f"{json.dumps(failed)}\n{json.dumps(BARE)}\n", encoding="utf-8")

    assert read_records(path) == [FailedRecord("Hi", "too long", {"line": 1}), from_json(BARE)]


def test_a_json_list_of_records_is_read(tmp_path):
    path = tmp_path / "records.json"
    path.write_text(json.dumps([BARE, BARE]), encoding="utf-8")

    assert read_records(path) == [from_json(BARE)] * 2


def test_an_incomplete_last_line_does_not_hide_earlier_records(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps(BARE) + '\n{"prompt": "Hi", "resp', encoding="utf-8")

    assert read_records(path) == [from_json(BARE)]


def test_a_last_record_without_a_line_end_is_read(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text(f"{json.dumps(BARE)}\n{json.dumps(BARE)}", encoding="utf-8")

    assert read_records(path) == [from_json(BARE)] * 2


@pytest.mark.parametrize(
    "data",
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
def test_json_that_is_not_a_record_is_refused(tmp_path, data):
    path = tmp_path / "other.json"
    path.write_text(json.dumps(data), encoding="utf-8")

    with pytest.raises(UserError) as error:
        read_records(path)

    assert error.value.problem == f"{path} is not a monitoring record"
    assert error.value.fix == FIX


@pytest.mark.parametrize(("name", "text"), [("records.jsonl", ""), ("records.json", "[]")])
def test_an_empty_file_is_refused(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")

    with pytest.raises(UserError, match="is not a monitoring record"):
        read_records(path)


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (None, "the file does not exist"),
        (b"{", "not JSON: expecting property name enclosed in double quotes at line 1, column 2"),
        (b"\xff", "it is not text in UTF-8"),
    ],
    ids=["missing", "not JSON", "not UTF-8"],
)
def test_a_file_that_cannot_be_read_is_refused_with_the_cause(tmp_path, data, cause):
    path = tmp_path / "record.json"
    if data is not None:
        path.write_bytes(data)

    with pytest.raises(UserError) as error:
        read_records(path)

    assert str(error.value) == f"error: cannot read the record {path}\ncause: {cause}\nfix:   {FIX}"


def test_a_line_that_is_not_json_is_named_once(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text("{}\nbad\n{}\n", encoding="utf-8")

    with pytest.raises(UserError) as error:
        read_records(path)

    assert error.value.cause == "line 2: not JSON: expecting value at column 1"


def test_records_in_the_runs_folder_are_found_the_latest_first(tmp_path):
    made = [
        record_path(tmp_path, name, suffix)
        for name, suffix in [("z", ".json"), ("a", ".jsonl"), ("m", ".json")]
    ]
    made[0].parent.mkdir(parents=True)
    for path in [*made, made[0].with_suffix(".txt")]:
        path.write_text("{}", encoding="utf-8")

    assert find_records(tmp_path, []) == made[::-1]


def test_named_records_are_found_in_the_requested_order(tmp_path):
    record_path(tmp_path, "a").parent.mkdir(parents=True)
    record_path(tmp_path, "a").write_text("{}", encoding="utf-8")

    assert [str(path) for path in find_records(tmp_path, ["z.json", "a.json"])] == [
        "z.json",
        "a.json",
    ]


def test_a_named_folder_gives_its_records_and_a_broken_one_is_a_warning(tmp_path):
    for name in ("1.json", "2.jsonl", "3.txt"):
        (tmp_path / name).write_text("{", encoding="utf-8")
    (tmp_path / "empty").mkdir()
    warnings = []

    assert find_records(tmp_path, [str(tmp_path)]) == [tmp_path / "2.jsonl", tmp_path / "1.json"]
    assert collect_records(tmp_path, [str(tmp_path)], warnings.append) == []
    assert [Path(warned.message.split()[0]).name for warned in warnings] == ["2.jsonl", "1.json"]
    with pytest.raises(UserError, match="cannot read the record"):
        collect_records(tmp_path, [str(tmp_path), str(tmp_path / "1.json")])
    with pytest.raises(UserError, match="has no records"):
        find_records(tmp_path, [str(tmp_path / "empty")])


def test_without_a_runs_folder_there_are_no_records(tmp_path):
    assert find_records(tmp_path / "nowhere", []) == []


@pytest.mark.parametrize("system", [None, "Be brief."])
def test_a_saved_chat_is_read_back_turn_by_turn(tmp_path, system):
    path = tmp_path / "chat.json"
    talk = [
        {"role": "user", "content": "Hi\u2028there"},
        {"role": "assistant", "content": "Ho 🙂"},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "Because."},
    ]

    save_chat(path, system, talk, [from_json(BARE)] * 2)

    before = ({"role": "system", "content": system},) if system else ()
    about = {"file": "chat.json", "line": 1}
    assert read_exchanges(path) == [
        Exchange("Hi\u2028there", "Ho 🙂", before, about | {"turn": 1}),
        Exchange("Why?", "Because.", (*before, *talk[:2]), about | {"turn": 2}),
    ]


def test_the_records_of_a_saved_chat_are_those_of_its_turns(tmp_path):
    path = tmp_path / "chat.json"
    other = BARE | {"prompt": "Why?"}

    save_chat(
        path,
        None,
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho!"}],
        [from_json(BARE), from_json(other)],
    )

    assert read_records(path) == [from_json(BARE), from_json(other)]


def test_saving_a_chat_again_replaces_the_file(tmp_path):
    path = tmp_path / "chat.json"
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    save_chat(path, None, talk * 5, [from_json(BARE)] * 5)

    save_chat(path, None, talk, [from_json(BARE)])

    assert Counter(one.response for one in read_exchanges(path)) == {"Ho": 1}


@pytest.mark.parametrize(
    ("there", "kept"),
    [
        ('{"a": 1}\n{"a": 2}', ['{"a": 1}', '{"a": 2}']),
        ('{"a": 1}', ['{"a": 1}']),
        ('{"a": 1}\n{"a": ', ['{"a": 1}']),
        ("", []),
    ],
)
def test_a_last_line_without_a_newline_is_kept_if_it_is_complete(tmp_path, there, kept):
    path = tmp_path / "records.jsonl"
    path.write_text(there, encoding="utf-8")

    append_records(path, [FailedRecord("Hi", "too long")])

    added = '{"prompt": "Hi", "error": "too long", "about": {}}'
    assert path.read_text(encoding="utf-8").splitlines() == [*kept, added]
