"""Folders of logs: which files are read, what their texts say of themselves, and the groups."""

from __future__ import annotations

import json
import os
from io import StringIO

import pytest
from rich.console import Console

from traitcli.errors import UserError
from traitcli.monitoring import transcripts
from traitcli.monitoring.log_facts import as_time, read_facts
from traitcli.monitoring.log_folders import find_logs, read_logs
from traitcli.monitoring.score_groups import ScoreGroups
from traitcli.monitoring.transcripts import read_transcript
from traitcli.record_json import FailedRecord, from_json
from traitcli.views.tables.score_groups import groups_table

PAIR = {"prompt": "Why?", "response": "Because."}


def write(path, *entries):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [one if isinstance(one, str) else json.dumps(one) for one in entries]
    path.write_text("\n".join(lines), encoding="utf-8")


def read(folder, **options):
    batches = list(read_logs(find_logs(folder), **options))
    return [exchange for batch in batches for exchange in batch]


def record(evil, **about):
    return from_json(
        {"prompt": "", "tokens": ["a", "b"], "trait_scores": {"evil": evil}, "about": about}
    )


def test_all_logs_below_a_folder_are_read_in_order_and_other_files_are_counted(tmp_path):
    write(tmp_path / "b.jsonl", PAIR, PAIR)
    write(tmp_path / "a" / "chat.JSON", PAIR)
    write(tmp_path / "picture.png", "no text")
    write(tmp_path / ".git" / "hidden.json", PAIR)
    write(tmp_path / ".hidden.json", PAIR)
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nowhere")

    logs = find_logs(tmp_path)
    found = read(tmp_path)

    assert [(one.about["file"], one.about["line"]) for one in found] == [
        ("a/chat.JSON", 1),
        ("b.jsonl", 1),
        ("b.jsonl", 2),
    ]
    assert logs.description == f"reading 2 files in {tmp_path}; not read: 1 × .png"


def test_the_output_is_not_one_of_the_logs(tmp_path):
    write(tmp_path / "a.jsonl", PAIR)
    write(tmp_path / "out.jsonl", PAIR)

    assert [one.name for one in find_logs(tmp_path, tmp_path / "out.jsonl").files] == ["a.jsonl"]


def test_a_folder_without_logs_is_an_error(tmp_path):
    write(tmp_path / "README.md", "# Logs")

    with pytest.raises(UserError, match="there is nothing to read in") as error:
        find_logs(tmp_path)

    assert error.value.cause.startswith("it has no file that ends in .jsonl, ")


def test_a_broken_file_is_one_failure_and_the_others_are_read(tmp_path):
    write(tmp_path / "a.json", '{"prompt": ')
    (tmp_path / "b.jsonl").write_bytes(b"\0\0\0")
    (tmp_path / "c.jsonl").write_bytes(b"")
    (tmp_path / "d.csv").write_bytes(b"\xff\xfe\xff")
    write(tmp_path / "e.yaml", "a: [")
    write(tmp_path / "f.jsonl", "[" * 100_000)
    write(tmp_path / "z.jsonl", PAIR)

    found = read(tmp_path)

    problems = {one.about["file"]: one.problem for one in found}
    assert list(problems) == [f"{name}" for name in
                              ("a.json", "b.jsonl", "c.jsonl", "d.csv", "e.yaml", "f.jsonl",
                               "z.jsonl")]  # fmt: skip
    assert [name for name, problem in problems.items() if not problem] == ["z.jsonl"]
    assert problems["b.jsonl"] == "it is not text"


def test_a_name_that_is_not_utf8_can_be_stored(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff\n\x1b[2J.jsonl")
    try:
        path.write_text(json.dumps(PAIR), encoding="utf-8")
    except OSError:
        pytest.skip("this file system holds only names in UTF-8")

    [inside], [alone] = read(tmp_path), read_transcript(path).exchanges

    for one in (inside, alone):
        assert json.dumps(one.about, ensure_ascii=False).encode()
    assert inside.about["file"] == "\\xff\n\x1b[2J.jsonl"


def test_small_files_are_scored_together_and_large_ones_apart(tmp_path):
    for number in range(600):
        write(tmp_path / f"{number:03}.json", PAIR)

    batches = list(map(len, read_logs(find_logs(tmp_path))))

    assert batches == [256, 256, 88]


def test_a_large_file_of_lines_is_read_line_by_line_with_the_same_result(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    write(path, "\ufeff" + json.dumps(PAIR), "", "{", PAIR, '"\0"', '{"prompt": "\\ud83d"}')
    monkeypatch.setattr(transcripts, "_AT_ONCE", 1)
    monkeypatch.setattr(transcripts, "_read_text", None)

    found = read_transcript(path)

    assert [(one.about["line"], one.response) for one in found.exchanges] == [
        (1, "Because."),
        (3, ""),
        (4, "Because."),
        (5, ""),
        (6, ""),
    ]
    assert found.description == "read a.jsonl as JSON lines: 2 × prompt and response"


def test_a_large_file_in_another_form_is_an_error(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    path.write_text("Because.", encoding="utf-8")
    monkeypatch.setattr(transcripts, "_LARGEST", 1)

    with pytest.raises(UserError) as error:
        read_transcript(path)

    assert error.value.cause == "it has 0.0 GiB, and only JSON lines are read in parts"


@pytest.mark.parametrize(
    ("value", "time"),
    [
        ("2025-01-31T23:30:00-02:00", "2025-02-01T01:30:00Z"),
        ("2025-01-31T23:30:00.123Z", "2025-01-31T23:30:00Z"),
        ("2025-01-31 23:30", "2025-01-31T23:30:00Z"),
        ("2025-01-31", "2025-01-31"),
        (1738366200, "2025-01-31T23:30:00Z"),
        (1738366200123, "2025-01-31T23:30:00Z"),
        # As a CSV file has it.
        (" 1738366200", "2025-01-31T23:30:00Z"),
        ("1738366200123", "2025-01-31T23:30:00Z"),
        ("1738366200.5", "2025-01-31T23:30:00Z"),
        *[(value, "") for value in ("9999999999", "17383662001", "-1738366200", "1e9")],
        *[(value, "") for value in (True, 7, -1.0, 1e300, float("nan"), float("inf"), "soon", "")],
        *[(value, "") for value in (None, [], {}, "0001-01-01T00:00:00+23:59", 10**400)],
        *[(value, "") for value in ("9999-12-31T23:59:59-23:59", "2025-02-30")],
    ],
)
def test_a_time_is_read_in_utc(value, time):
    assert as_time(value) == time


@pytest.mark.parametrize(
    ("entry", "name", "facts"),
    [
        ({"id": 3, "created": 1738366200}, "x", {"id": 3, "time": "2025-01-31T23:30:00Z"}),
        ({"id": [], "uuid": "u"}, "x", {"id": "u"}),
        ({"custom_id": "c", "id": "i"}, "x", {"id": "c"}),
        ({"id": 10**30}, "x", {"id": str(10**30)}),
        ({"id": True}, "x", {}),
        ({"metadata": {"id": "m", "app": "shop"}}, "x", {"id": "m", "keys": {"app": "shop"}}),
        ({"app": {"a": ["\ud83d\ude00"]}}, "x", {"keys": {"app": '{"a": ["😀"]}'}}),
        ({"time": "never"}, "chats-20250131.jsonl", {"time": "2025-01-31"}),
        ([], "2025-01-31T10-00-00_task.eval", {"time": "2025-01-31"}),
        (None, "v120250131.jsonl", {}),
        (None, "chats-2025-02-30.jsonl", {}),
    ],
)
def test_an_entry_has_an_id_a_time_and_the_keys_that_were_asked_for(entry, name, facts):
    assert read_facts(entry, name, ["app"]) == facts


def test_every_answer_of_an_entry_has_the_key(tmp_path):
    path = tmp_path / "a.jsonl"
    talk = [{"role": role, "content": "x"} for role in ("user", "assistant", "user", "assistant")]
    write(path, {"messages": talk, "App": "shop", "app": "web"})

    found = read_transcript(path, group_by="app").exchanges

    assert [one.about["keys"] for one in found] == [{"app": "web"}] * 2


def test_groups_have_the_mean_of_each_text_and_days_are_sorted():
    groups = ScoreGroups("day")
    for one in (
        record([1.0, 2.0], time="2025-02-01T01:00:00Z"),
        record([3.0, 3.0], time="2025-02-01"),
        record([-1.0, 0.0], time="2025-01-31T00:00:00Z"),
        record([9.0, 9.0]),
        FailedRecord("", "not JSON", {"time": "2025-01-31"}),
    ):
        groups.add(one)

    assert [(row["group"], row["texts"], row["failed"], row["means"]) for row in groups.rows()] == [
        ("2025-01-31", 1, 1, {"evil": -0.5}),
        ("2025-02-01", 2, 0, {"evil": 2.25}),
        ("", 1, 0, {"evil": 9.0}),
    ]


def test_a_key_of_the_log_comes_before_one_of_traitcli():
    groups = ScoreGroups("file")
    groups.add(record([1.0, 1.0], file="a.jsonl", keys={"file": "theirs"}))
    groups.add(record([1.0, 1.0], file="a.jsonl"))

    assert [row["group"] for row in groups.rows()] == ["theirs", "a.jsonl"]


def test_the_table_has_a_reason_for_what_was_not_read_and_traits_wrap_into_new_tables():
    rows = [
        {"group": "a\x1b[2J", "texts": 2, "failed": 0, "problem": "", "means": {"evil": -0.5}},
        {"group": "b", "texts": 0, "failed": 1, "problem": "it is empty", "means": {}},
        {"group": "", "texts": 1, "failed": 0, "problem": "",
         "means": dict.fromkeys(("hallucination", "sycophancy", "refusal", "verbosity"), 1.0)},
    ]  # fmt: skip
    console = Console(file=StringIO(), width=80)

    groups_table(console, "file", rows)

    *lines, last = console.file.getvalue().splitlines()
    assert last == "each text counts once: the mean of its tokens, and then of the texts"
    assert [line.split() for line in lines] == [
        [
            "file",
            "texts",
            "evil",
            "hallucination",
            "sycophancy",
            "refusal",
            "not",
            "read",
            "reason",
        ],
        ["─" * 80],
        ["a\\x1b[2J", "2", "−0.50", "–", "–", "–", "0"],
        ["b", "0", "–", "–", "–", "–", "1", "it", "is"],
        ["empty"],
        ["–", "1", "–", "+1.00", "+1.00", "+1.00", "0"],
        [],
        ["file", "texts", "verbosity"],
        ["─" * 27],
        ["a\\x1b[2J", "2", "–"],
        ["b", "0", "–"],
        ["–", "1", "+1.00"],
    ]
